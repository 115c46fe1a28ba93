"""Events as messages and back: the Kafka protocol binding of CloudEvents, structured and binary mode."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from modelmora.domain.events.envelope import CONTENT_TYPE, SPEC, Event
from modelmora.domain.registry.texts import check_json, check_text
from modelmora.errors import InvalidInput, ValidationFailed

Headers: TypeAlias = Sequence[tuple[str, bytes]]

_BINARY = "ce_"
_OURS = frozenset({"specversion", "id", "source", "type", "subject", "time", "dataschema", "datacontenttype", "data"})
_NEEDED = ("id", "source", "type")
MOST_CHARS = 1_024
"""An attribute of an event is no longer."""


def schema_of(type_: str) -> str:
    """`dataschema` of a type: `com.modelmora.image.registered.v1` is `urn:modelmora:schema:image.registered:1`."""
    name, _, version = type_.removeprefix("com.modelmora.").rpartition(".v")
    return f"urn:modelmora:schema:{name}:{version}"


def to_kept_parts(event: Event) -> tuple[bytes, bytes, tuple[tuple[str, bytes], ...]]:
    """Key, value and headers of the message: the event in structured mode."""
    attributes: dict[str, Any] = {
        "specversion": SPEC,
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": event.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "dataschema": schema_of(event.type),
        "datacontenttype": "application/json",
        "partitionkey": event.key,
        "tenant": event.tenant,
    }
    if event.subject:
        attributes["subject"] = event.subject
    if event.trace:
        attributes["traceparent"] = event.trace
    value = json.dumps({**attributes, **event.extensions, "data": event.data}, ensure_ascii=False, allow_nan=False)
    headers = [("content-type", f"{CONTENT_TYPE}; charset=UTF-8".encode())]
    if event.trace:
        headers.append(("traceparent", event.trace.encode()))
    return event.key.encode(), value.encode(), tuple(headers)


def read_event(value: bytes, *, key: bytes = b"", headers: Headers = (), topic: str = "") -> Event:
    """The event in a message of either mode; what its data mean is its type's business.

    Raises InvalidInput for what is no JSON, ValidationFailed for what is no CloudEvent, or cannot be kept.
    """
    told = {name.lower(): content for name, content in headers}
    binary = any(name.startswith(_BINARY) for name in told)
    attributes = _binary(told, value) if binary else _json_object(value, "the event")
    for name in _NEEDED:
        _text(attributes, name, needed=True)
    if attributes.get("specversion") != SPEC:
        found = str(attributes.get("specversion"))[:80]
        raise ValidationFailed("not a CloudEvent of version 1.0", field="specversion", found=found, expected=SPEC)
    others = {name: _text(attributes, name) for name in attributes if name not in _OURS and _is_text(attributes[name])}
    return Event(
        id=attributes["id"],
        source=attributes["source"],
        type=attributes["type"],
        topic=topic,
        key=key.decode(errors="replace") or others.get("partitionkey", ""),
        time=_moment(attributes.get("time")),
        data=_data(attributes),
        subject=_text(attributes, "subject"),
        tenant=others.pop("tenant", "default"),
        trace=others.pop("traceparent", ""),
        extensions=others,
    )


def _binary(headers: Mapping[str, bytes], value: bytes) -> dict[str, Any]:
    """Attributes in headers, the data alone in the message."""
    attributes: dict[str, Any] = {
        name.removeprefix(_BINARY): content.decode(errors="replace")
        for name, content in headers.items()
        if name.startswith(_BINARY)
    }
    attributes.pop("data_base64", None)
    return {**attributes, "data": _json_object(value, "the event's data")}


def _data(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """An object that every store can keep; some producers write it in Base64, as JSON that they had as bytes."""
    data = attributes.get("data")
    if data is None and _is_text(attributes.get("data_base64")):
        try:
            data = _json_object(base64.b64decode(attributes["data_base64"], validate=True), "the event's data")
        except ValueError as cause:
            raise InvalidInput("the event's data are not Base64", field="data_base64", expected="Base64") from cause
    if not isinstance(data, Mapping):
        raise ValidationFailed("the event has no data", field="data", found=type(data).__name__, expected="an object")
    check_json(data, field="data")
    return data


def _json_object(value: bytes, what: str) -> dict[str, Any]:
    try:
        read = json.loads(value.decode())
    except (ValueError, RecursionError) as cause:
        raise InvalidInput(f"{what} cannot be read as JSON", found=repr(value[:40]), expected="JSON") from cause
    if not isinstance(read, dict):
        raise ValidationFailed(f"{what} is no object", found=type(read).__name__, expected="a JSON object")
    return read


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _text(attributes: Mapping[str, Any], name: str, *, needed: bool = False) -> str:
    value = attributes.get(name)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or len(value) > MOST_CHARS or (needed and not value):
        expected = f"a text of at most {MOST_CHARS} characters"
        raise ValidationFailed("not a CloudEvent", field=name, found=repr(value)[:80], expected=expected)
    check_text(value, field=name)
    return value


def _moment(value: object) -> datetime:
    """When it happened, in UTC; now, where it is not said."""
    if value is None:
        return datetime.now(UTC)
    try:
        if not isinstance(value, str):
            raise TypeError("no text")
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        found = repr(value)[:80]
        raise ValidationFailed("not a moment", field="time", found=found, expected="RFC 3339") from None
