"""The same items through several embedding models side by side: what each costs, and how alike it finds the items."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from modelmora.domain.inference import Call, Content, Embedded, Timings, Vector
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.similarity import cosines
from modelmora.domain.tensors import Tensor
from modelmora.errors import LimitExceeded, ModelMoraError, ValidationFailed, unexpected
from modelmora.usecases.embed import Embed, Embeddings
from modelmora.usecases.models import Models

log = structlog.get_logger(__name__)

MODELS = 16
"""At most so many in one comparison."""

ITEMS = 256
"""At most so many: a matrix grows with their square, and there is one a model."""

TOGETHER = 512
"""Items of one comparison that are under way at once, over all its models: a prepared picture takes 150 kB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One model's answer. `bytes` is its measured footprint (0: not known), `dimension` 0 where every item failed.

    `similarities` is float32 (items, items): cosines, NaN where an item failed.
    """

    answer: Embeddings
    dimension: int
    bytes: int
    similarities: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What became of one model: `name` is as it was asked for."""

    name: str
    outcome: Outcome[Compared]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """One comparison a model, in the order asked; the longest of each stage over all of them."""

    models: Sequence[Comparison]
    timings: Timings
    total_ms: float

    def sole_error(self) -> ModelMoraError | None:
        """The error of a comparison of one model that failed, or of its only item."""
        if len(self.models) != 1:
            return None
        outcome = self.models[0].outcome
        if isinstance(outcome, Failed):
            return outcome.error
        items = outcome.value.answer.outcomes
        return items[0].error if len(items) == 1 and isinstance(items[0], Failed) else None


class Compare:
    """The use case behind every face that compares; each model leaves the records of its own embedding."""

    def __init__(self, embed: Embed, models: Models) -> None:
        self._embed = embed
        self._models = models

    async def __call__(self, refs: Sequence[str], items: Sequence[Outcome[Content]], *, call: Call) -> Comparisons:
        """A model that fails as a whole fails alone. Its time is from when its own items were begun, so that one which
        had to be loaded first shows that.

        Raises for the request as a whole: ValidationFailed (no models, one twice, no items), LimitExceeded (too many).
        """
        clock = self._embed.admission.clock
        started = clock()
        _check_counts(refs, items)
        self._embed.admission.check_count(len(items))
        served = [self._serving(ref) for ref in refs]
        _check_unique(refs, served)
        turns = asyncio.Semaphore(max(1, TOGETHER // len(items)))
        outcomes = await asyncio.gather(*(self._one(model, items, call, turns) for model in served))
        return Comparisons(
            models=[Comparison(name=ref, outcome=outcome) for ref, outcome in zip(refs, outcomes, strict=True)],
            timings=_longest(outcomes),
            total_ms=(clock() - started) * 1e3,
        )

    def _serving(self, ref: str) -> Outcome[ModelSpec]:
        try:
            return Ok(self._embed.serving(ref))
        except ModelMoraError as error:
            return Failed(error)

    async def _one(
        self, model: Outcome[ModelSpec], items: Sequence[Outcome[Content]], call: Call, turns: asyncio.Semaphore
    ) -> Outcome[Compared]:
        if isinstance(model, Failed):
            return model
        try:
            async with turns:
                answer = await self._embed(model.value.key, items, call=call)
            return Ok(await self._compared(answer))
        except ModelMoraError as error:
            return Failed(error)
        except Exception as cause:
            log.error("comparison_failed", request_id=call.request_id, model=model.value.key, exc_info=cause)
            return Failed(unexpected())

    async def _compared(self, answer: Embeddings) -> Compared:
        vectors = [_vector(outcome) for outcome in answer.outcomes]
        return Compared(
            answer=answer,
            dimension=next((vector.dimension for vector in vectors if vector is not None), 0),
            bytes=self._models.get(answer.model.key).bytes,
            similarities=await asyncio.to_thread(cosines, vectors),
        )


def _vector(outcome: Outcome[Embedded]) -> Vector | None:
    return outcome.value.vector if isinstance(outcome, Ok) else None


def _check_counts(refs: Sequence[str], items: Sequence[Outcome[Content]]) -> None:
    if not refs:
        raise ValidationFailed("no models to compare", field="models", found="0", expected=f"1 to {MODELS} models")
    for field, found, most in (("models", len(refs), MODELS), ("items", len(items), ITEMS)):
        if found > most:
            raise LimitExceeded(
                f"{found} {field} in one comparison", field=field, found=str(found), expected=f"at most {most}"
            )


def _check_unique(refs: Sequence[str], served: Sequence[Outcome[ModelSpec]]) -> None:
    """By the version that serves: a name and the same name with its current version are one."""
    first: dict[str, int] = {}
    for index, (ref, model) in enumerate(zip(refs, served, strict=True)):
        key = model.value.key if isinstance(model, Ok) else ref
        if key in first:
            raise ValidationFailed(
                f"models[{index}] is the same as models[{first[key]}]",
                field=f"models[{index}]",
                found=ref[:80],
                expected="each model once",
            )
        first[key] = index


def _longest(outcomes: Sequence[Outcome[Compared]]) -> Timings:
    stages = [outcome.value.answer.timings for outcome in outcomes if isinstance(outcome, Ok)]
    return Timings(
        queue_ms=max((t.queue_ms for t in stages), default=0.0),
        preprocess_ms=max((t.preprocess_ms for t in stages), default=0.0),
        inference_ms=max((t.inference_ms for t in stages), default=0.0),
    )
