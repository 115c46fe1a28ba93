"""`/v1/embeddings` and `/v1/models` as OpenAI's clients know them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api import render
from api.core import Core
from api.http.bodies import json_object, take_bool, take_choice, take_int, take_text
from api.http.operations import LIST_OPENAI_MODELS, OPENAI_EMBEDDINGS
from api.http.presence import Present, Rounds
from api.http.routes import HotRoute, call_of
from modelmora.domain.inference import Content, Embedded, Image, Text
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InvalidInput, ModelMoraError, ValidationFailed
from modelmora.usecases.embed import Embeddings

ENCODINGS = ("float", "base64")
MODALITIES = ("text", "image")


def openai_routes(core: Core) -> list[HotRoute]:
    """The two routes."""
    rounds = Rounds()

    async def create(request: Request) -> Response:
        application = core.get()
        body = await json_object(request)
        encoding = take_choice(body, "encoding_format", ENCODINGS)
        items = inputs_of(body.get("input"), take_choice(body, "modality", MODALITIES))
        partial, dimensions = take_bool(body, "partial"), take_int(body, "dimensions")
        call = call_of(request, application, truncate=take_bool(body, "truncate"))
        model = take_text(body, "model")
        async with Present(request.receive, rounds):
            answer = await application.embed(model, items, call=call)
        if not partial:
            _all_or_nothing(answer)
        _check_dimensions(answer, dimensions)
        headers = {"server-timing": render.server_timing(answer.timings, answer.total_ms)}
        return Response(render.to_json(_shown(answer, encoding)), 200, headers, "application/json")

    async def list_models(request: Request) -> Response:
        rows = [
            {
                "id": status.spec.name,
                "object": "model",
                "created": 0,
                "owned_by": "modelmora",
                "version": status.spec.version,
                "type": status.spec.type,
            }
            for status in core.get().models.list()
            if status.state != "failed"
        ]
        return Response(render.to_json({"object": "list", "data": rows}), 200, media_type="application/json")

    return [
        HotRoute("/v1/embeddings", create, permission="infer", operation=OPENAI_EMBEDDINGS),
        HotRoute("/v1/models", list_models, permission="read", operation=LIST_OPENAI_MODELS, method="GET"),
    ]


def inputs_of(value: Any, modality: str) -> list[Outcome[Content]]:
    """A string or a list of strings; a data URI is a picture untold, with `image` so is plain base64."""
    if isinstance(value, str):
        return [_input(value, modality)]
    if not isinstance(value, list):
        raise ValidationFailed(
            "input is missing or neither a string nor a list",
            field="input",
            found=type(value).__name__,
            expected="a string or a list of strings",
        )
    if any(isinstance(item, int | list) for item in value):
        raise ValidationFailed(
            "token ids are not taken: they are of another model's vocabulary; "
            "send texts (langchain: check_embedding_ctx_length=False)",
            field="input",
            found="token ids",
            expected="a string or a list of strings",
        )
    return [_input(item, modality) for item in value]


def _input(item: Any, modality: str) -> Outcome[Content]:
    try:
        if not isinstance(item, str):
            raise ValidationFailed("not a text", field="input", found=type(item).__name__, expected="a string")
        if item.startswith("data:"):
            return Ok(Image(_data_uri(item)))
        return Ok(Image(_base64(item))) if modality == "image" else Ok(Text(item))
    except ModelMoraError as error:
        return Failed(error)


def _data_uri(uri: str) -> bytes:
    head, comma, payload = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InvalidInput(
            "a data URI must be data:<type>;base64,<data>", field="input", found=uri[:40], expected="base64 data"
        )
    return _base64(payload)


def _base64(payload: str) -> bytes:
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as cause:
        raise InvalidInput(f"not base64: {cause}", field="input", found=payload[:24]) from cause


def _all_or_nothing(answer: Embeddings) -> None:
    """Raises the first failure with every failed index listed."""
    failed = [(index, o.error) for index, o in enumerate(answer.outcomes) if isinstance(o, Failed)]
    if not failed:
        return
    first = failed[0][1]
    count = f"{len(failed)} of {len(answer.outcomes)} inputs failed; the first: " if len(answer.outcomes) > 1 else ""
    raise type(first)(
        f"{count}{first.detail}",
        field=first.field,
        retry_after_s=first.retry_after_s,
        faults=[error.as_fault(index) for index, error in failed],
    )


def _check_dimensions(answer: Embeddings, wanted: int | None) -> None:
    has = next((o.value.vector.dimension for o in answer.outcomes if isinstance(o, Ok)), wanted)
    if wanted is not None and has != wanted:
        raise ValidationFailed(
            f"{answer.model.key} does not allow shortened vectors",
            field="dimensions",
            found=str(wanted),
            expected=str(has),
        )


def _shown(answer: Embeddings, encoding: str) -> dict[str, Any]:
    tokens = _tokens(answer.outcomes)
    rows = [{"object": "embedding", **row} for row in render.outcomes(answer.outcomes, encoding)]
    return {
        "object": "list",
        "data": rows,
        "model": answer.model.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _tokens(outcomes: Sequence[Outcome[Embedded]]) -> int:
    return sum(o.value.tokens for o in outcomes if isinstance(o, Ok))
