"""`/v1/classify`: pictures to classes, a classifier's own or the caller's labels."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from api import render
from api.core import Core
from api.http.forms import field, flag, listed
from api.http.operations import FAULT, operation
from api.http.picture_forms import USUAL_FIELDS, read_pictures
from api.http.presence import Present, Rounds
from api.http.routes import HotRoute, call_of
from modelmora.domain.classification import Classified
from modelmora.domain.labels import MOST_LABELS, MOST_TEMPLATES, TEMPLATE
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import ValidationFailed
from modelmora.usecases.classify import MOST_CLASSES, TOP_K, Classification

FIELDS = MOST_LABELS + MOST_TEMPLATES + USUAL_FIELDS


def classify_routes(core: Core) -> list[HotRoute]:
    """The one route."""
    rounds = Rounds()

    async def classify(request: Request) -> Response:
        application = core.get()
        items, form = await read_pictures(request, most_files=application.limits.items, most_fields=FIELDS)
        call = call_of(request, application, truncate=flag(form, "truncate"))
        options = _options(form)
        async with Present(request.receive, rounds):
            answer = await application.classify(field(form, "model") or None, items, call=call, **options)
        return classified(answer)

    return [HotRoute("/v1/classify", classify, permission="infer", operation=CLASSIFY)]


def _options(form: FormData) -> dict[str, Any]:
    """How to classify; raises ValidationFailed where a field is of the wrong kind."""
    return {
        "labels": _texts(form, "labels"),
        "templates": _texts(form, "templates"),
        "top_k": _integer(form, "top_k", TOP_K),
        "threshold": _number(form, "threshold", 0.0),
    }


def _texts(form: FormData, name: str) -> list[str]:
    values = listed(form, name)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise _wrong(f"{name}[{index}]", str(value), "a string")
    return values


def _integer(form: FormData, name: str, usual: int) -> int:
    value = _parsed(form, name, usual)
    if type(value) is not int:
        raise _wrong(name, field(form, name), "an integer")
    return value


def _number(form: FormData, name: str, usual: float) -> float:
    value = _parsed(form, name, usual)
    if type(value) not in (int, float):
        raise _wrong(name, field(form, name), "a number")
    return float(value)


def _parsed(form: FormData, name: str, usual: float) -> Any:
    """The field as JSON has it, `usual` where it is absent or empty, None where it is no JSON."""
    given = field(form, name)
    try:
        return orjson.loads(given) if given else usual
    except orjson.JSONDecodeError:
        return None


def _wrong(name: str, found: str, expected: str) -> ValidationFailed:
    return ValidationFailed(f"{name} is not {expected}", field=name, found=found[:80], expected=expected)


def classified(answer: Classification) -> Response:
    """200 with one outcome per item; a request of one item fails with that item's status."""
    only = answer.outcomes[0] if len(answer.outcomes) == 1 else None
    if isinstance(only, Failed):
        raise only.error
    body = {
        "model": answer.model.name,
        "version": answer.model.version,
        "data": [_row(index, outcome) for index, outcome in enumerate(answer.outcomes)],
    }
    headers = {"server-timing": render.server_timing(answer.timings, answer.total_ms)}
    return Response(render.to_json(body), 200, headers, "application/json")


def _row(index: int, outcome: Outcome[Classified]) -> dict[str, Any]:
    match outcome:
        case Ok(value):
            classes = [{"index": c.index, "label": c.label, "score": c.score} for c in value.classes]
            return {"index": index, "classes": classes}
        case Failed(error):
            return {"index": index, "error": render.fault(error.as_fault())}


_CLASS = {
    "type": "object",
    "required": ["index", "label", "score"],
    "properties": {
        "index": {"type": "integer", "description": "the label's place among the labels"},
        "label": {"type": "string"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
    },
}
_ANSWER = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "version": {"type": "string"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index"],
                "properties": {
                    "index": {"type": "integer"},
                    "classes": {"type": "array", "items": _CLASS, "description": "the likeliest first"},
                    "error": FAULT,
                },
            },
        },
    },
}
_FORM = {
    "type": "object",
    "required": ["files"],
    "properties": {
        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "model": {
            "type": "string",
            "description": "`name` or `name@version`; absent: the default classifier, with labels the default "
            "embedding model",
        },
        "labels": {
            "type": "array",
            "items": {"type": "string"},
            "maxItems": MOST_LABELS,
            "description": "of your own, for a model that embeds pictures and texts: repeated, or one list in JSON",
        },
        "templates": {
            "type": "array",
            "items": {"type": "string"},
            "maxItems": MOST_TEMPLATES,
            "default": [TEMPLATE],
            "description": "texts with `{}` for the label; the mean of a label's texts stands for it",
        },
        "top_k": {"type": "integer", "minimum": 1, "maximum": MOST_CLASSES, "default": TOP_K},
        "threshold": {"type": "number", "minimum": 0, "maximum": 1, "default": 0, "description": "the least score"},
        "truncate": {"type": "boolean", "default": False, "description": "cut labels that are too long"},
    },
}
CLASSIFY = operation(
    "Classify pictures, by the model's labels or your own (zero-shot): one outcome per file, same order",
    "inference",
    _ANSWER,
    {
        "multipart/form-data": {"schema": _FORM},
        "image/*": {"schema": {"type": "string", "format": "binary", "description": "the fields are in the query"}},
    },
)
