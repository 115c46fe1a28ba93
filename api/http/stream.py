"""`/v1/embed/stream`: one picture or text in, lines out that tell how far it is, then its vector."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api import render
from api.core import Core
from api.http.bodies import json_object, take_bool, take_choice, take_text
from api.http.embed import ENCODINGS, read_images
from api.http.ndjson import Lines, line
from api.http.operations import EMBED_STREAM
from api.http.routes import HotRoute, call_of
from modelmora.domain.inference import Content, Text
from modelmora.domain.outcome import Ok, Outcome, unwrap
from modelmora.errors import ValidationFailed
from modelmora.usecases.application import Application
from modelmora.usecases.embed_watched import Watched


def stream_routes(core: Core) -> list[HotRoute]:
    """The route."""

    async def embed_stream(request: Request) -> Response:
        application = core.get()
        item, fields = await _read(request, application)
        encoding = take_choice(fields, "encoding_format", ENCODINGS)
        call = call_of(request, application, truncate=take_bool(fields, "truncate"))
        news = application.embed_watched(take_text(fields, "model"), [item], call=call)
        return Lines(_lines(news, encoding))

    return [HotRoute("/v1/embed/stream", embed_stream, permission="infer", operation=EMBED_STREAM)]


async def _read(request: Request, application: Application) -> tuple[Outcome[Content], Mapping[str, Any]]:
    """The one item, and the fields beside it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        body = await json_object(request)
        if not isinstance(body.get("text"), str):
            raise ValidationFailed(
                "text is missing or no string",
                field="text",
                found=type(body.get("text")).__name__,
                expected="a string; a picture comes as a form or as the whole body",
            )
        return Ok(Text(body["text"])), body
    items, fields = await read_images(request, application)
    if len(items) != 1:
        raise ValidationFailed(
            "this route takes one picture; /v1/embed/batch takes many",
            field="files",
            found=str(len(items)),
            expected="1",
        )
    return items[0], {name: value for name, value in fields.items() if name != "truncate"}


async def _lines(news: AsyncGenerator[Watched, None], encoding: str) -> AsyncGenerator[bytes, None]:
    async with aclosing(news):
        async for each in news:
            yield line(_shown(each, encoding))


def _shown(news: Watched, encoding: str) -> dict[str, Any]:
    """Raises the item's error."""
    row: dict[str, Any] = {"stage": news.step.stage, "percent": round(news.percent, 2)}
    if news.outcome is None:
        return row | {"done": news.step.done, "total": news.step.total}
    value = unwrap(news.outcome)
    served = {"model": news.model.name, "version": news.model.version, "dimension": value.vector.dimension}
    timing = render.server_timing(value.timings, news.total_ms)
    return row | served | {"embedding": render.vector(value.vector, encoding), "server_timing": timing}
