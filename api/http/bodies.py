"""JSON bodies read by hand on the hot routes, with errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request

from modelmora.errors import InvalidInput, UnsupportedMedia, ValidationFailed


async def json_object(request: Request) -> dict[str, Any]:
    """The body as an object; raises UnsupportedMedia, InvalidInput, ValidationFailed."""
    check_json(request)
    return object_of(await request.body())


def check_json(request: Request) -> None:
    """Raises UnsupportedMedia where the body is said to be something else."""
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMedia(
            "this route takes JSON", field="content-type", found=media_type[:80], expected="application/json"
        )


def object_of(raw: bytes) -> dict[str, Any]:
    """The bytes of a body as an object; raises InvalidInput, ValidationFailed."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as cause:
        raise InvalidInput(f"the body is not JSON: {cause}", field="body") from cause
    if not isinstance(body, dict):
        raise ValidationFailed("the body is no object", field="body", found=_kind(body), expected="an object")
    return body


def take_text(body: Mapping[str, Any], field: str) -> str | None:
    """An optional string; empty counts as absent."""
    value = body.get(field)
    if value is None or isinstance(value, str):
        return value or None
    raise ValidationFailed(f"{field} is no string", field=field, found=_kind(value), expected="a string")


def take_bool(body: Mapping[str, Any], field: str) -> bool:
    """An optional boolean, false when absent."""
    value = body.get(field)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ValidationFailed(f"{field} is no boolean", field=field, found=_kind(value), expected="true or false")


def take_choice(body: Mapping[str, Any], field: str, choices: Sequence[str]) -> str:
    """One of the choices, the first when absent or empty."""
    value = body.get(field)
    if value is None or value == "":
        return choices[0]
    if value in choices:
        return str(value)
    raise ValidationFailed(f"no such {field}", field=field, found=repr(value)[:80], expected=" or ".join(choices))


def take_int(body: Mapping[str, Any], field: str) -> int | None:
    """An optional positive integer."""
    value = body.get(field)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValidationFailed(f"{field} is no positive integer", field=field, found=repr(value)[:80], expected="1 or more")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
