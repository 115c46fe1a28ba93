"""`/v1/compare`: the same pictures and texts through several embedding models, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api import render
from api.core import Core
from api.http.bodies import json_object, take_bool, take_choice
from api.http.embed import ENCODINGS, texts_of
from api.http.forms import field, flag, listed
from api.http.operations import ENCODING, FAULT, VECTOR, operation
from api.http.picture_forms import picture
from api.http.presence import Present, Rounds
from api.http.routes import HotRoute, call_of
from api.tensors import array_of
from modelmora.domain.inference import Content
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import ValidationFailed
from modelmora.usecases.application import Application
from modelmora.usecases.compare import MODELS, Compared, Comparison, Comparisons


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Pictures come before texts. With `embeddings` the vectors are answered too."""

    models: list[str]
    items: list[Outcome[Content]]
    embeddings: bool
    encoding: str
    truncate: bool


def compare_routes(core: Core) -> list[HotRoute]:
    """The one route."""
    rounds = Rounds()

    async def compare(request: Request) -> Response:
        application = core.get()
        asked = await _asked(request, application)
        call = call_of(request, application, truncate=asked.truncate)
        async with Present(request.receive, rounds):
            answer = await application.compare(asked.models, asked.items, call=call)
        return _compared(answer, asked)

    return [HotRoute("/v1/compare", compare, permission="infer", operation=COMPARE)]


def _compared(answer: Comparisons, asked: _Asked) -> Response:
    """200 with an outcome a model; a comparison of one model has its status, or that of its only item."""
    error = answer.sole_error()
    if error is not None:
        raise error
    rows = [_row(index, one, asked) for index, one in enumerate(answer.models)]
    headers = {"server-timing": render.server_timing(answer.timings, answer.total_ms)}
    return Response(render.to_json({"data": rows}), 200, headers, "application/json")


async def _asked(request: Request, application: Application) -> _Asked:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        body = await json_object(request)
        return _Asked(
            models=_names(body.get("models")),
            items=texts_of(body.get("texts")),
            embeddings=take_bool(body, "embeddings"),
            encoding=take_choice(body, "encoding_format", ENCODINGS),
            truncate=take_bool(body, "truncate"),
        )
    limit = application.limits.items
    async with request.form(max_files=limit, max_fields=limit + 64) as form:
        return _Asked(
            models=_names(listed(form, "models")),
            items=[*[await picture(part) for part in form.getlist("files")], *texts_of(listed(form, "texts"))],
            embeddings=flag(form, "embeddings"),
            encoding=take_choice({"encoding_format": field(form, "encoding_format")}, "encoding_format", ENCODINGS),
            truncate=flag(form, "truncate"),
        )


def _names(value: Any) -> list[str]:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    raise ValidationFailed(
        "models is missing or no list of names",
        field="models",
        found=str(value)[:40],
        expected=f"1 to {MODELS} names of embedding models",
    )


def _row(index: int, one: Comparison, asked: _Asked) -> dict[str, Any]:
    """Of one model; of one that failed as a whole the name that was asked for."""
    match one.outcome:
        case Ok(value):
            return {"index": index, **_measured(value), "results": _results(value, asked)}
        case Failed(error):
            return {"index": index, "model": one.name, "error": render.fault(error.as_fault())}


def _measured(value: Compared) -> dict[str, Any]:
    answer, timings = value.answer, value.answer.timings
    return {
        "model": answer.model.name,
        "version": answer.model.version,
        "dimension": value.dimension,
        "bytes": value.bytes,
        "total_ms": round(answer.total_ms, 2),
        "timings": {
            "queue_ms": round(timings.queue_ms, 2),
            "preprocess_ms": round(timings.preprocess_ms, 2),
            "inference_ms": round(timings.inference_ms, 2),
        },
        "similarities": array_of(value.similarities),
    }


def _results(value: Compared, asked: _Asked) -> list[dict[str, Any]]:
    rows = render.outcomes(value.answer.outcomes, asked.encoding)
    return rows if asked.embeddings else [{k: v for k, v in row.items() if k != "embedding"} for row in rows]


_MODELS = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MODELS}
_TEXTS = {"type": "array", "items": {"type": "string", "maxLength": 2000}}
_OPTIONS = {
    "embeddings": {"type": "boolean", "default": False, "description": "answer the vectors too"},
    "encoding_format": ENCODING,
    "truncate": {"type": "boolean", "default": False},
}
_MS = {"type": "number"}
_ROW = {
    "type": "object",
    "required": ["index", "model"],
    "properties": {
        "index": {"type": "integer"},
        "model": {"type": "string"},
        "version": {"type": "string"},
        "dimension": {"type": "integer"},
        "bytes": {"type": "integer", "description": "measured footprint; 0: not known"},
        "total_ms": _MS,
        "timings": {
            "type": "object",
            "description": "of the slowest item",
            "properties": {"queue_ms": _MS, "preprocess_ms": _MS, "inference_ms": _MS},
        },
        "similarities": {
            "description": "the cosine of each item with each; null where one failed",
            "type": "array",
            "items": {"type": "array", "items": {"type": ["number", "null"]}},
        },
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index"],
                "properties": {"index": {"type": "integer"}, "embedding": VECTOR, "error": FAULT},
            },
        },
        "error": FAULT,
    },
}
COMPARE = operation(
    "The same pictures and texts through several embedding models: time, dimension, memory, similarities",
    "inference",
    {"type": "object", "properties": {"data": {"type": "array", "items": _ROW}}},
    {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["models", "texts"],
                "properties": {"models": _MODELS, "texts": _TEXTS, **_OPTIONS},
            }
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["models"],
                "properties": {
                    "models": _MODELS,
                    "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    "texts": _TEXTS,
                    **_OPTIONS,
                },
            }
        },
    },
)
