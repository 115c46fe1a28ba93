"""`/v1/embeddings` and `/v1/models` as OpenAI's clients know them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api import render
from api.core import Core
from api.http.bodies import json_object, take_bool, take_choice, take_int, take_text
from api.http.openai_inputs import inputs_of
from api.http.operations import LIST_OPENAI_MODELS, OPENAI_EMBEDDINGS
from api.http.presence import Present, Rounds
from api.http.routes import HotRoute, call_of
from modelmora.domain.inference import Embedded
from modelmora.domain.outcome import Failed, Ok, Outcome
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
        items = inputs_of(body, take_choice(body, "modality", MODALITIES))
        partial, dimensions = take_bool(body, "partial"), take_int(body, "dimensions")
        call = call_of(request, application, truncate=take_bool(body, "truncate"))
        model = take_text(body, "model")
        async with Present(request.receive, rounds):
            answer = await application.embed(model, items, call=call, dimensions=dimensions)
        if not partial:
            _all_or_nothing(answer)
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
