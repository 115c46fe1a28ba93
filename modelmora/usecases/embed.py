"""Pictures and texts into vectors: limits, version, capability, the runners, one record left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from modelmora.domain.inference import Call, Content, Embedded, Image, Inference, Text, Timings
from modelmora.domain.models import ModelRef, ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import (
    CapabilityMissing,
    InternalError,
    LimitExceeded,
    ModelMoraError,
    ValidationFailed,
    unexpected,
)
from modelmora.ports import Embedder, Hook, Traffic, Watch

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may ask for. Times in milliseconds, sizes in bytes, pixels and characters."""

    items: int = 256
    stream_items: int = 10_000
    image_bytes: int = 33_554_432
    pixels: int = 50_000_000
    text_chars: int = 2_000
    timeout_ms: int = 60_000
    max_timeout_ms: int = 600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """The answer: which version served, one outcome per item, and the slowest item's stages."""

    model: ModelSpec
    outcomes: Sequence[Outcome[Embedded]]
    timings: Timings
    total_ms: float


class Embed:
    """The use case behind every embedding face."""

    def __init__(
        self,
        traffic: Traffic,
        embedder: Embedder,
        *,
        limits: Limits,
        hooks: Sequence[Hook] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._traffic = traffic
        self._embedder = embedder
        self._limits = limits
        self._hooks = tuple(hooks)
        self._clock = clock

    async def __call__(
        self, ref: str | None, items: Sequence[Outcome[Content]], *, call: Call, watch: Watch | None = None
    ) -> Embeddings:
        """One outcome per item, same order; an item the door could not read arrives already failed.

        `watch` is told how far each item is. Raises for the request as a whole: ValidationFailed (no items),
        LimitExceeded (too many), ModelNotFound, VersionNotFound, CapabilityMissing, Overloaded, ModelLoading,
        ModelLoadFailed.
        """
        started = self._clock()
        self.check_count(len(items))
        model = self.serving(ref)
        outcomes = await self._by_task(model, [self.checked(item) for item in items], call, watch)
        total_ms = (self._clock() - started) * 1e3
        self._leave_records(call, model, items, outcomes, total_ms)
        return Embeddings(model=model, outcomes=outcomes, timings=_slowest(outcomes), total_ms=total_ms)

    async def one(
        self, ref: str | None, item: Outcome[Content], *, call: Call, watch: Watch | None = None
    ) -> tuple[ModelSpec | None, Outcome[Embedded]]:
        """One item of a stream: what would fail its request fails the item; the model is None where none serves it."""
        try:
            answer = await self(ref, [item], call=call, watch=watch)
        except ModelMoraError as error:
            return None, Failed(error)
        except Exception as cause:
            log.error("item_failed", request_id=call.request_id, exc_info=cause)
            return None, Failed(unexpected())
        return answer.model, answer.outcomes[0]

    def serving(self, ref: str | None) -> ModelSpec:
        """The version that serves a request which names `ref` (None or empty: the default).

        Raises ValidationFailed (no name), ModelNotFound, VersionNotFound, CapabilityMissing.
        """
        model = self._traffic.route(ModelRef.parse(ref) if ref else None, "embedding")
        if model.type != "embedding":
            raise CapabilityMissing(f"{model.key} is a {model.type} model; it makes no embeddings", field="model")
        return model

    def check_count(self, count: int) -> None:
        """Raises ValidationFailed (none), LimitExceeded (too many for one request)."""
        if count == 0:
            raise ValidationFailed("the request has no items", field="items", found="0", expected="at least 1")
        if count > self._limits.items:
            raise LimitExceeded(
                f"{count} items in one request",
                field="items",
                found=str(count),
                expected=f"at most {self._limits.items}",
            )

    def checked(self, item: Outcome[Content]) -> Outcome[Content]:
        """The item, failed where its size alone says so, before any decoding."""
        match item:
            case Ok(Image(data)) if len(data) > self._limits.image_bytes:
                return too_large(
                    "picture file", field="image", found=len(data), limit=self._limits.image_bytes, unit="bytes"
                )
            case Ok(Text(text)) if len(text) > self._limits.text_chars:
                return too_large(
                    "text", field="text", found=len(text), limit=self._limits.text_chars, unit="characters"
                )
            case Ok(Text(text)) if not text.strip():
                return Failed(ValidationFailed("the text is empty", field="text", found=repr(text[:20])))
        return item

    async def _by_task(
        self, model: ModelSpec, items: Sequence[Outcome[Content]], call: Call, watch: Watch | None
    ) -> list[Outcome[Embedded]]:
        """Pictures and texts go their ways side by side and come back in the order given."""
        results: list[Outcome[Embedded] | None] = [item if isinstance(item, Failed) else None for item in items]
        groups: dict[Task, list[tuple[int, Content]]] = {}
        for index, item in enumerate(items):
            if isinstance(item, Ok):
                groups.setdefault(_task(item.value), []).append((index, item.value))
        answers = (
            self._embedder.embed(
                model, task, [c for _, c in group], call=call, watch=watch and _placed(watch, [i for i, _ in group])
            )
            for task, group in groups.items()
        )
        for group, outcomes in zip(groups.values(), await _all(list(answers)), strict=True):
            if len(outcomes) != len(group):
                raise InternalError(f"{len(outcomes)} outcomes for {len(group)} items")
            for (index, _), outcome in zip(group, outcomes, strict=True):
                results[index] = outcome
        return [r if r is not None else Failed(InternalError("an item was left without an answer")) for r in results]

    def _leave_records(
        self,
        call: Call,
        model: ModelSpec,
        items: Sequence[Outcome[Content]],
        outcomes: Sequence[Outcome[Embedded]],
        total_ms: float,
    ) -> None:
        if not self._hooks:
            return
        tasks: dict[Task, list[Outcome[Embedded]]] = {}
        for item, outcome in zip(items, outcomes, strict=True):
            task: Task = _task(item.value) if isinstance(item, Ok) else "embed_image"
            tasks.setdefault(task, []).append(outcome)
        for task, own in tasks.items():
            record = Inference(
                call=call, model=model, task=task, items=len(own), total_ms=total_ms, outcomes=tuple(own)
            )
            for hook in self._hooks:
                hook(record)


def too_large(what: str, *, field: str, found: int, limit: int, unit: str) -> Failed:
    """The failure of an item whose size alone says that it is not taken."""
    detail = f"the {what} has {found:,} {unit}, more than {limit:,}"
    return Failed(LimitExceeded(detail, field=field, found=f"{found} {unit}", expected=f"at most {limit} {unit}"))


def _task(content: Content) -> Task:
    return "embed_image" if isinstance(content, Image) else "embed_text"


def _placed(watch: Watch, places: Sequence[int]) -> Watch:
    """`watch` told of the places in the whole request instead of those in one task's share of it."""
    return lambda index, step: watch(places[index], step)


async def _all(answers: list[Awaitable[list[Outcome[Embedded]]]]) -> list[list[Outcome[Embedded]]]:
    if len(answers) == 1:
        return [await answers[0]]
    return list(await asyncio.gather(*answers))


def _slowest(outcomes: Sequence[Outcome[Embedded]]) -> Timings:
    done = [outcome.value.timings for outcome in outcomes if isinstance(outcome, Ok)]
    if not done:
        return Timings()
    return Timings(
        queue_ms=max(t.queue_ms for t in done),
        preprocess_ms=max(t.preprocess_ms for t in done),
        inference_ms=max(t.inference_ms for t in done),
    )


def first_error(outcomes: Sequence[Outcome[Embedded]]) -> ModelMoraError | None:
    """The first failure, if any."""
    return next((o.error for o in outcomes if isinstance(o, Failed)), None)
