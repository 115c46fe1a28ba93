"""Pictures are embedded by an API worker, asked through the client: a subscriber has no model in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing

from modelmora.client import Client
from modelmora.client.embedding import Embedding
from modelmora.domain.catalogue import Look
from modelmora.domain.inference import Call, Content, Embedded, Image, Timings, Vector
from modelmora.domain.models import ModelRef
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import DependencyUnavailable, InternalError, ModelNotFound, NotFound
from modelmora.usecases.embed import Embeddings


class RemoteEmbed:
    """One stream a chunk (`GenerateBatch`); see `modelmora.usecases.pictures.indexing.Embeds`."""

    def __init__(self, client: Client, look: Look) -> None:
        self._client = client
        self._look = look

    async def __call__(self, ref: str | None, items: Sequence[Outcome[Content]], *, call: Call) -> Embeddings:
        """One outcome per item, same order. Raises what concerns all: DependencyUnavailable, ModelNotFound,
        VersionNotFound (a stream tells it of each item, but no picture is at fault), ..."""
        if ref is None:
            raise ModelNotFound("a version is named here", field="model")
        model, started = self._look().get(ModelRef.parse(ref)), time.monotonic()
        outcomes: list[Outcome[Embedded] | None] = [item if isinstance(item, Failed) else None for item in items]
        places = [index for index, outcome in enumerate(outcomes) if outcome is None]
        pictures = [item.value.data for item in items if isinstance(item, Ok) and isinstance(item.value, Image)]
        remaining = max(0.001, call.deadline - started)
        async with aclosing(self._client.generate_batch(pictures, model=ref, timeout=remaining)) as answers:
            async for index, outcome in answers:
                if isinstance(outcome, Failed) and isinstance(outcome.error, NotFound):
                    raise outcome.error
                outcomes[places[index]] = outcome if isinstance(outcome, Failed) else self._made(outcome.value, ref)
        answered = [o if o is not None else Failed(DependencyUnavailable("the API did not answer")) for o in outcomes]
        total_ms = (time.monotonic() - started) * 1e3
        return Embeddings(model=model, outcomes=answered, timings=Timings(), total_ms=total_ms)

    def _made(self, made: Embedding, ref: str) -> Outcome[Embedded]:
        if made.key != ref:
            return Failed(InternalError(f"asked for {ref}, the API answered with another version"))
        return Ok(Embedded(Vector(made.data)))
