"""`/v1/predict`: tensors in, tensors out, as the model declares them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api import render, tensors
from api.core import Core
from api.http.bodies import check_json, object_of, take_choice, take_text
from api.http.embed import ENCODINGS
from api.http.operations import ENCODING, operation
from api.http.presence import Present, Rounds
from api.http.routes import HotRoute, call_of
from api.threads import here
from modelmora.domain.description import Description
from modelmora.domain.tensors import Tensor
from modelmora.errors import InvalidInput, ValidationFailed
from modelmora.usecases.predict import Predictions, Reading

SMALL = 65_536
"""Tensors of bodies up to so many bytes are read on the loop (0.4 ms); a hop to a thread would cost more."""

LARGE = 1_048_576
"""Bodies up to so many bytes are taken apart on the loop (3 ms): of base64 there is little to do."""

FORGIVEN = 1_048_576
"""Bodies up to so many bytes are read once more where they are no JSON, to say what is wrong with their tensors."""


def predict_routes(core: Core) -> list[HotRoute]:
    """The one route."""
    rounds = Rounds()

    async def predict(request: Request) -> Response:
        application = core.get()
        check_json(request)
        call, raw = call_of(request, application), await request.body()
        with application.decoding.admitted(len(raw)):
            body, flaw = await here(partial(_body, raw), size=len(raw), most=LARGE)
            encoding = take_choice(body, "encoding_format", ENCODINGS)
            inputs, outputs = _inputs(body.get("inputs")), _names(body.get("outputs"))
            reading = _reading(inputs, small=len(raw) <= SMALL, flaw=flaw)
            async with Present(request.receive, rounds):
                answer = await application.predict(take_text(body, "model"), reading, outputs=outputs, call=call)
            content = await here(lambda: render.to_json(_shown(answer, encoding)), size=_size(answer), most=SMALL)
        headers = {"server-timing": render.server_timing(answer.timings, answer.total_ms)}
        return Response(content, 200, headers, "application/json")

    return [HotRoute("/v1/predict", predict, permission="infer", operation=PREDICT)]


def _body(raw: bytes) -> tuple[dict[str, Any], InvalidInput | None]:
    """The body, and what is wrong with it where it is JSON but for numbers that JSON does not have (NaN, 1e400): Python
    writes them, and the place of one is worth more than its offset in the body."""
    try:
        return object_of(raw), None
    except InvalidInput as error:
        body = _lenient(raw)
        if body is None:
            raise
        return body, error


def _lenient(raw: bytes) -> dict[str, Any] | None:
    """The object that is in there but for such numbers."""
    try:
        body = json.loads(raw) if len(raw) <= FORGIVEN else None
        orjson.dumps(body)
    except (ValueError, TypeError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _reading(inputs: Mapping[str, Any], *, small: bool, flaw: InvalidInput | None) -> Reading:
    async def read(description: Description) -> Mapping[str, Tensor]:
        given = await here(lambda: tensors.of_json(inputs, description), size=0 if small else LARGE, most=SMALL)
        if flaw is not None:
            raise flaw
        return given

    return read


def _inputs(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise ValidationFailed(
        "inputs is missing or no object",
        field="inputs",
        found=type(value).__name__,
        expected="an object of tensors by name",
    )


def _names(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    raise ValidationFailed(
        "outputs is no list of names", field="outputs", found=str(value)[:40], expected="a list of strings"
    )


def _size(answer: Predictions) -> int:
    return sum(len(tensor.data) for tensor in answer.outputs.values())


def _shown(answer: Predictions, encoding: str) -> dict[str, Any]:
    return {
        "model": answer.model.name,
        "version": answer.model.version,
        "outputs": {
            name: tensors.to_json(tensor, answer.declared.get(name), encoding)
            for name, tensor in answer.outputs.items()
        },
    }


_DTYPE = {"type": "string", "enum": list(tensors.DTYPES)}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_INPUT = {
    "description": 'nested lists in the declared dtype (a text, or {"b64": ...}, is an element of `bytes`), or a tensor'
    " that says its shape, with a flat list or base64 of the little-endian bytes",
    "oneOf": [
        {"type": "array", "items": {}},
        {
            "type": "object",
            "required": ["shape", "data"],
            "properties": {
                "dtype": _DTYPE,
                "shape": _SHAPE,
                "data": {"oneOf": [{"type": "array"}, {"type": "string"}]},
            },
        },
    ],
}
_OUTPUT = {
    "type": "object",
    "properties": {
        "dtype": _DTYPE,
        "shape": _SHAPE,
        "data": {"description": "nested lists, or base64 of the little-endian bytes"},
        "labels": {"description": "the best one of each row, where the model names the places of the last axis"},
    },
}
PREDICT = operation(
    "Run tensors through a model: its declared inputs in, its outputs out",
    "inference",
    {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "string"},
            "outputs": {"type": "object", "additionalProperties": _OUTPUT},
        },
    },
    {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "model": {
                        "type": "string",
                        "description": "`name` or `name@version`; else the default tensor model",
                    },
                    "inputs": {"type": "object", "additionalProperties": _INPUT},
                    "outputs": {"type": "array", "items": {"type": "string"}, "description": "all of them when absent"},
                    "encoding_format": ENCODING,
                },
            }
        }
    },
)
