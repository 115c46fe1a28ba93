"""Pictures and texts into vectors, telling how far each is: stages and percentages, then the result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from modelmora.domain.inference import Call, Content, Embedded
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Ok, Outcome
from modelmora.domain.progress import Gauge, Step
from modelmora.usecases.embed import Embed

QUEUED = Step("queued")
DONE = Step("done", 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """How far the item `index` is; `outcome` is there with the stage `done`, which comes last and once, and then
    `total_ms` are the milliseconds since it was asked for."""

    index: int
    model: ModelSpec
    step: Step
    percent: float
    outcome: Outcome[Embedded] | None = None
    total_ms: float = 0.0


class EmbedWatched:
    """The use case behind every stream of progress; each item leaves a record of its own."""

    def __init__(self, embed: Embed, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._embed = embed
        self._clock = clock

    async def __call__(
        self, ref: str | None, items: Sequence[Outcome[Content]], *, call: Call
    ) -> AsyncGenerator[Watched, None]:
        """The newest step of each item as it is reached, and every result.

        A step that nobody has taken when the next one comes is left out. Closing this generator frees all work.
        Raises for the request as a whole what `Embed` raises, before anything is told.
        """
        self._embed.admission.check_count(len(items))
        run = _Run(self._embed, self._embed.serving(ref), call, self._clock)
        tasks = [asyncio.create_task(run.settle(index, item)) for index, item in enumerate(items)]
        try:
            for _ in range(len(items)):
                while (news := await run.next()).outcome is None:
                    yield news
                yield news
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Run:
    """The newest of each item, until it is taken."""

    def __init__(self, embed: Embed, model: ModelSpec, call: Call, clock: Callable[[], float]) -> None:
        self._embed = embed
        self._model = model
        self._call = call
        self._clock = clock
        self._started = clock()
        self._gauges: dict[int, Gauge] = {}
        self._news: dict[int, Watched] = {}
        self._settled: set[int] = set()
        self._told = asyncio.Event()

    async def next(self) -> Watched:
        """What has waited longest."""
        while not self._news:
            self._told.clear()
            await self._told.wait()
        return self._news.pop(next(iter(self._news)))

    async def settle(self, index: int, item: Outcome[Content]) -> None:
        """From queued to done."""
        if isinstance(self._embed.admission.checked(item), Ok):
            self._tell(index, QUEUED)

        def watch(_: int, step: Step) -> None:
            self._tell(index, step)

        # By its version: one request is served by one, whatever becomes the current one meanwhile.
        _, outcome = await self._embed.one(self._model.key, item, call=self._call, watch=watch)
        self._tell(index, DONE, outcome)

    def _tell(self, index: int, step: Step, outcome: Outcome[Embedded] | None = None) -> None:
        if index in self._settled:  # a step that comes late must not replace the result
            return
        if outcome is not None:
            self._settled.add(index)
        percent = self._gauges.setdefault(index, Gauge()).take(step)
        self._news[index] = Watched(
            index=index, model=self._model, step=step, percent=percent, outcome=outcome,
            total_ms=(self._clock() - self._started) * 1e3,
        )  # fmt: skip
        self._told.set()
