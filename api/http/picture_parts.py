"""What a search asks and what is said of uploaded pictures, read from JSON bodies and forms."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.datastructures import FormData, UploadFile

from api.http.bodies import take_bool, take_int, take_text
from api.http.forms import field, flag
from modelmora.domain.inference import Image, Text, Vector
from modelmora.domain.pictures.filters import read_filter
from modelmora.domain.pictures.queries import GROUP_SIZE, LIMIT, Like, Part, PartContent, SearchQuery
from modelmora.domain.pictures.weights import check_weight
from modelmora.errors import InvalidInput, ValidationFailed

CONTENTS = ("text", "image", "id", "vector")
FIELDS = (
    *CONTENTS, "queries", "limit", "cursor", "filter", "score_threshold", "model", "collection", "exact", "group_by",
    "group_size",
)  # fmt: skip
MOST_NUMBERS = 65_536


def query_of(body: Mapping[str, Any]) -> SearchQuery:
    """The question; raises ValidationFailed, InvalidInput, LimitExceeded, naming the field."""
    refuse_others(body, FIELDS)
    return SearchQuery(
        parts=(*_parts(body, ""), *_queries(body.get("queries"))),
        limit=take_int(body, "limit") or LIMIT,
        cursor=take_text(body, "cursor"),
        filter=read_filter(body.get("filter")),
        score_threshold=_number(body.get("score_threshold"), "score_threshold"),
        model=take_text(body, "model"),
        collection=take_text(body, "collection") or "default",
        exact=take_bool(body, "exact"),
        group_by=take_text(body, "group_by"),
        group_size=take_int(body, "group_size") or GROUP_SIZE,
    )


async def form_query(form: FormData) -> SearchQuery:
    """The same as fields of a form, `image` as a file or base64; vector, queries and filter are JSON."""
    body: dict[str, Any] = {name: field(form, name) for name in form if name != "image"}
    body = {name: value for name, value in body.items() if value}
    for name in ("vector", "queries", "filter"):
        if name in body:
            body[name] = json_of(body[name], name)
    for name in ("limit", "group_size", "score_threshold"):
        if name in body:
            body[name] = _told_number(body[name], name)
    if "exact" in body:
        body["exact"] = flag(form, "exact")
    pictures = [await _file(part) for part in form.getlist("image")]
    query = {**body, "queries": [*_listed(body.get("queries")), *({"image": data} for data in pictures if data)]}
    return query_of(query if query["queries"] else body)


def refuse_others(body: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Raises ValidationFailed for fields that nobody would look at."""
    unknown = sorted(name for name in body if name not in allowed)
    if unknown:
        named = ", ".join(unknown)[:80]
        raise ValidationFailed(f"no such field: {named}", field=unknown[0][:80], expected=", ".join(allowed))


def json_of(text: str, name: str) -> Any:
    """Raises InvalidInput."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as cause:
        raise InvalidInput(f"{name} is not JSON: {cause}", field=name, found=text[:40], expected="JSON") from cause


def picture_bytes(value: Any, name: str) -> bytes:
    """Of base64 or a data URI, or as they are; raises ValidationFailed, InvalidInput."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        expected = "base64, or a data URI"
        raise ValidationFailed("not a picture", field=name, found=type(value).__name__, expected=expected)
    head, comma, payload = value.partition(",") if value[:5].lower() == "data:" else ("", "", value)
    if head and (not comma or not head.lower().endswith(";base64")):
        expected = "data:<type>;base64,<data>"
        raise InvalidInput("not a data URI in base64", field=name, found=value[:40], expected=expected)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as cause:
        raise InvalidInput(f"not base64: {cause}", field=name, found=payload[:24]) from cause


def listed_tags(values: Sequence[Any]) -> tuple[Any, ...]:
    """Tags from fields: each a list in JSON, or several between commas; what they may be is the domain's to say."""
    tags: list[Any] = []
    for value in values:
        text = value.strip() if isinstance(value, str) else ""
        if text.startswith("["):
            told = json_of(text, "tags")
            tags += told if isinstance(told, list) else [told]
        elif text:
            tags += [part for part in text.split(",") if part.strip()]
        elif not isinstance(value, str):
            tags += value if isinstance(value, list) else [value]
    return tuple(tags)


def told_flag(value: Any, name: str, *, usual: bool) -> bool:
    """A boolean, or a field that stands for one; raises ValidationFailed."""
    told = {"false": False, "0": False, "true": True, "1": True}
    if value is None or value == "":
        return usual
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in told:
        return told[value.lower()]
    raise ValidationFailed(f"{name} is no boolean", field=name, found=repr(value)[:80], expected="true or false")


def told_whole(value: Any, name: str) -> int | None:
    """A whole number, or a field that stands for one; raises ValidationFailed."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValidationFailed(f"{name} is no whole number", field=name, found=repr(value)[:80], expected="a whole number")


def _queries(value: Any) -> tuple[Part, ...]:
    return tuple(part for index, one in enumerate(_listed(value)) for part in _query(one, f"queries.{index}"))


def _query(value: Any, place: str) -> tuple[Part, ...]:
    """One of `queries`: exactly one content, and perhaps its weight."""
    if not isinstance(value, Mapping):
        raise ValidationFailed(
            "not a part of a question", field=place, found=type(value).__name__, expected="an object"
        )
    refuse_others(value, (*CONTENTS, "weight"))
    parts = _parts(value, f"{place}.")
    if len(parts) != 1:
        found = " and ".join(name for name in CONTENTS if value.get(name) is not None) or "nothing"
        raise ValidationFailed("a part has one content", field=place, found=found, expected=" or ".join(CONTENTS))
    weight = value.get("weight")
    return (
        Part(content=parts[0].content, weight=1.0 if weight is None else check_weight(weight, field=f"{place}.weight")),
    )


def _parts(body: Mapping[str, Any], place: str) -> tuple[Part, ...]:
    given = [name for name in CONTENTS if body.get(name) is not None]
    return tuple(Part(content=_content(name, body[name], f"{place}{name}")) for name in given)


def _content(kind: str, value: Any, place: str) -> PartContent:
    match kind:
        case "image":
            return Image(picture_bytes(value, place))
        case "vector":
            return _vector(value, place)
    if not isinstance(value, str):
        raise ValidationFailed(f"{kind} is no string", field=place, found=type(value).__name__, expected="a string")
    return Text(value) if kind == "text" else Like(value)


def _vector(value: Any, place: str) -> Vector:
    expected = f"a list of 1 to {MOST_NUMBERS} numbers"
    if not isinstance(value, list) or not 0 < len(value) <= MOST_NUMBERS:
        found = f"{len(value)} values" if isinstance(value, list) else type(value).__name__
        raise ValidationFailed("not a vector", field=place, found=found, expected=expected)
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value):
        raise ValidationFailed("a vector has numbers only", field=place, expected=expected)
    try:
        return Vector(struct.pack(f"<{len(value)}f", *value))
    except (OverflowError, struct.error) as cause:
        raise ValidationFailed("a number is too large for a vector", field=place, expected="float32") from cause


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        found = type(value).__name__
        raise ValidationFailed("queries is no list", field="queries", found=found, expected="a list of objects")
    return value


def _number(value: Any, name: str) -> float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise ValidationFailed(f"{name} is no number", field=name, found=repr(value)[:80], expected="a number")


def _told_number(text: str, name: str) -> Any:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        raise ValidationFailed(f"{name} is no number", field=name, found=text[:40], expected="a number") from None


async def _file(part: UploadFile | str) -> bytes:
    return picture_bytes(part, "image") if isinstance(part, str) else await part.read()
