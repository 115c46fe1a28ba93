"""Pictures and texts into vectors: limits, version, capability, the runners, one record left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

import structlog

from modelmora.domain.capability import cannot
from modelmora.domain.inference import Call, Content, Embedded, Image, Timings
from modelmora.domain.links import Link
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.shortening import check_dimensions, shortened
from modelmora.errors import InternalError, ModelMoraError, unexpected
from modelmora.ports import Capacity, Describer, Embedder, Pictures, Watch
from modelmora.usecases.admission import Admission, slowest
from modelmora.usecases.linked import NoPictures, brought, links

log = structlog.get_logger(__name__)


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
        self, admission: Admission, embedder: Embedder, describer: Describer, pictures: Pictures, *, capacity: Capacity
    ) -> None:
        """`capacity` is what the embedder takes its own permits from."""
        self.admission = admission
        self._embedder = embedder
        self._describer = describer
        self._pictures = pictures
        self._capacity = capacity

    async def __call__(
        self,
        ref: str | None,
        items: Sequence[Outcome[Content | Link]],
        *,
        call: Call,
        dimensions: int | None = None,
        watch: Watch | None = None,
    ) -> Embeddings:
        """One outcome per item, same order; an item the door could not read arrives already failed.

        Vectors of a model that allows it are cut to `dimensions` and normalised anew. `watch` is told how far each item
        is. Raises for the request as a whole: ValidationFailed (no items, dimensions the model does not have),
        LimitExceeded (too many), ModelNotFound, VersionNotFound, CapabilityMissing, Overloaded, ModelLoading,
        ModelLoadFailed.
        """
        admission, started = self.admission, self.admission.clock()
        admission.check_count(len(items))
        model = self.serving(ref)
        contents = await self._contents(model, items, dimensions, call)
        outcomes = await self._by_task(model, [admission.checked(item) for item in contents], call, watch)
        if dimensions is not None:
            outcomes = [shortened(o.value, dimensions) if isinstance(o, Ok) else o for o in outcomes]
        total_ms = (admission.clock() - started) * 1e3
        self._leave_records(call, model, contents, outcomes, total_ms)
        return Embeddings(model=model, outcomes=outcomes, timings=slowest(outcomes), total_ms=total_ms)

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
        return self.admission.serving(ref, "embed_image")

    async def _contents(
        self, model: ModelSpec, items: Sequence[Outcome[Content | Link]], dimensions: int | None, call: Call
    ) -> list[Outcome[Content]]:
        """The items with every picture here; what the model does not do is refused before anything is fetched.

        Only who asks for `dimensions` or sends links waits for the model's description here. Links have a permit while
        they are fetched, so that a server with more work than it takes asks nobody for more; the embedder's follows.
        """
        pictures, urls = self._pictures, links(items)
        with self._capacity.permit(len(urls)):
            if dimensions is not None or urls:
                description = await self._describer.describe(model, deadline=call.deadline)
                if dimensions is not None:
                    check_dimensions(description, dimensions)
                if description.image is None:
                    pictures = NoPictures(cannot(model, "embed_image", description))
            return await brought(items, pictures, call=call)

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
        tasks: dict[Task, list[Outcome[Embedded]]] = {}
        for item, outcome in zip(items, outcomes, strict=True):
            task: Task = _task(item.value) if isinstance(item, Ok) else "embed_image"
            tasks.setdefault(task, []).append(outcome)
        for task, own in tasks.items():
            self.admission.record(call, model, task, own, total_ms)


def _task(content: Content) -> Task:
    return "embed_image" if isinstance(content, Image) else "embed_text"


def _placed(watch: Watch, places: Sequence[int]) -> Watch:
    """`watch` told of the places in the whole request instead of those in one task's share of it."""
    return lambda index, step: watch(places[index], step)


async def _all(answers: list[Awaitable[list[Outcome[Embedded]]]]) -> list[list[Outcome[Embedded]]]:
    if len(answers) == 1:
        return [await answers[0]]
    return list(await asyncio.gather(*answers))
