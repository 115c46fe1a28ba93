"""What may stand in `input` of `/v1/embeddings`: texts, data URIs, URLs, and the objects that clients make of them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from modelmora.domain.inference import Content, Image, Text
from modelmora.domain.links import Link
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InvalidInput, ModelMoraError, ValidationFailed

FIELD = "input"
_EXPECTED = "a string, an object with text, image or image_url, or a list of these"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}://")
_DATA = re.compile(r"data:(image/|[^\s,]*;base64)", re.IGNORECASE)
"""What a string is a picture by, untold: a text may begin with `data:` too."""
_CONTENTS = ("text", "image", "image_url")


def inputs_of(body: Mapping[str, Any], modality: str) -> list[Outcome[Content | Link]]:
    """One outcome for each input, in their order: a lone one is a list of one.

    A string is a text, or with modality `image` a picture; a data URI is a picture untold. `{"text": ...}` always is a
    text; `{"image": ...}` and `{"image_url": {"url": ...}}` (OpenAI's content parts, `type` beside them or not) are
    pictures. A picture is a data URI, plain base64, or a URL.
    """
    value = body.get(FIELD)
    if isinstance(value, str | dict):
        return [_input(value, modality)]
    if not isinstance(value, list):
        hint = "; put what the messages hold into input" if value is None and "messages" in body else ""
        raise ValidationFailed(
            f"input is missing or neither a string, an object nor a list{hint}",
            field=FIELD,
            found=type(value).__name__,
            expected=_EXPECTED,
        )
    if any(isinstance(item, int | list) for item in value):
        raise ValidationFailed(
            "token ids are not taken: they are of another model's vocabulary; "
            "send texts (langchain: check_embedding_ctx_length=False)",
            field=FIELD,
            found="token ids",
            expected=_EXPECTED,
        )
    return [_input(item, modality) for item in value]


def _input(item: Any, modality: str) -> Outcome[Content | Link]:
    try:
        match item:
            case str():
                return Ok(_picture(item) if modality == "image" or _DATA.match(item) else Text(item))
            case dict():
                return Ok(_part(item))
        raise _unfit("neither a text nor an object", item)
    except ModelMoraError as error:
        return Failed(error)


def _part(item: Mapping[str, Any]) -> Content | Link:
    """One object: exactly one content in it."""
    given = [key for key in _CONTENTS if item.get(key) is not None]
    if len(given) != 1:
        raise ValidationFailed(
            "an object has one content: several are several inputs",
            field=FIELD,
            found=" and ".join(given) or "an object without any",
            expected="text, image or image_url",
        )
    value = item[given[0]]
    if given[0] == "image_url" and isinstance(value, dict):
        value = value.get("url")
    if not isinstance(value, str):
        raise _unfit(f"{given[0]} is no string", value)
    return Text(value) if given[0] == "text" else _picture(value)


def _picture(given: str) -> Image | Link:
    if given[:5].lower() == "data:":
        return Image(_data_uri(given))
    return Link(given) if _URL.match(given) else Image(_base64(given))


def _data_uri(uri: str) -> bytes:
    head, comma, payload = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InvalidInput(
            "a data URI must be data:<type>;base64,<data>", field=FIELD, found=uri[:40], expected="base64 data"
        )
    return _base64(payload)


def _base64(payload: str) -> bytes:
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as cause:
        raise InvalidInput(f"not base64: {cause}", field=FIELD, found=payload[:24]) from cause


def _unfit(why: str, found: Any) -> ValidationFailed:
    return ValidationFailed(why, field=FIELD, found=type(found).__name__, expected=_EXPECTED)
