"""`/v1/embed/image` and `/v1/embed/text`: many items, one outcome each."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api import render
from api.core import Core
from api.http.bodies import json_object, take_bool, take_choice, take_text
from api.http.operations import EMBED_IMAGE, EMBED_TEXT
from api.http.picture_forms import read_pictures
from api.http.presence import Present, Rounds
from api.http.routes import HotRoute, call_of
from modelmora.domain.inference import Content, Text
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import ValidationFailed
from modelmora.usecases.application import Application
from modelmora.usecases.embed import Embeddings

ENCODINGS = ("float", "base64")


def embed_routes(core: Core) -> list[HotRoute]:
    """The two routes."""
    rounds = Rounds()

    async def embed_image(request: Request) -> Response:
        application = core.get()
        items, fields = await read_images(request, application)
        encoding = take_choice(fields, "encoding_format", ENCODINGS)
        call = call_of(request, application)
        async with Present(request.receive, rounds):
            answer = await application.embed(fields.get("model") or None, items, call=call)
        return embedded(answer, encoding)

    async def embed_text(request: Request) -> Response:
        application = core.get()
        body = await json_object(request)
        items = texts_of(body.get("texts"))
        encoding = take_choice(body, "encoding_format", ENCODINGS)
        call = call_of(request, application, truncate=take_bool(body, "truncate"))
        model = take_text(body, "model")
        async with Present(request.receive, rounds):
            answer = await application.embed(model, items, call=call)
        return embedded(answer, encoding)

    return [
        HotRoute("/v1/embed/image", embed_image, permission="infer", operation=EMBED_IMAGE),
        HotRoute("/v1/embed/text", embed_text, permission="infer", operation=EMBED_TEXT),
    ]


def embedded(answer: Embeddings, encoding: str) -> Response:
    """200 with one outcome per item; a request of one item fails with that item's status."""
    only = answer.outcomes[0] if len(answer.outcomes) == 1 else None
    if isinstance(only, Failed):
        raise only.error
    headers = {"server-timing": render.server_timing(answer.timings, answer.total_ms)}
    return Response(render.to_json(render.embeddings(answer, encoding)), 200, headers, "application/json")


def texts_of(value: Any) -> list[Outcome[Content]]:
    """The items of a `texts` field; raises ValidationFailed when it is no list."""
    if not isinstance(value, list):
        raise ValidationFailed(
            "texts is missing or no list", field="texts", found=type(value).__name__, expected="a list of strings"
        )
    return [_text(item) for item in value]


def _text(item: Any) -> Outcome[Content]:
    if isinstance(item, str):
        return Ok(Text(item))
    return Failed(ValidationFailed("not a text", field="texts", found=type(item).__name__, expected="a string"))


async def read_images(request: Request, application: Application) -> tuple[list[Outcome[Content]], dict[str, str]]:
    """Multipart `files`, or one picture as the whole body (then the fields are in the query)."""
    items, form = await read_pictures(request, most_files=application.limits.items)
    return items, {key: plain(value) for key, value in form.items() if isinstance(value, str)}


def plain(value: str) -> str:
    """A form field's value: BentoML's client sends form fields as JSON: `"x"` with its quotes is x."""
    if value[:1] == '"':
        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
        return parsed if isinstance(parsed, str) else value
    return value
