"""A stream of pictures and texts, of any length, into vectors: results as they complete, bounded memory."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from modelmora.domain.inference import Call, Content, Embedded
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Outcome
from modelmora.errors import DeadlineExceeded, LimitExceeded, ModelMoraError, Overloaded
from modelmora.usecases.admission import Limits
from modelmora.usecases.embed import Embed
from modelmora.window import Window, weight

WINDOW_ITEMS = 64
WINDOW_BYTES = 32 * 2**20
"""In flight of one stream at most: a few batches' worth, and as much as one picture of the largest kind."""

TOGETHER = 64
"""Results that completed meanwhile are handed out together, so many at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One item as the door read it: failed already where that was not possible. `tag` comes back with the result."""

    content: Outcome[Content]
    tag: str = ""
    model: str | None = None
    truncate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """What became of the item `index` of a stream; `model` is None where none was found to serve it.

    `total_ms` are the milliseconds since it was taken, waits for a full queue included.
    """

    index: int
    tag: str
    model: ModelSpec | None
    outcome: Outcome[Embedded]
    total_ms: float = 0.0


class EmbedStream:
    """The use case behind every stream of items; each try of an item leaves a record of its own."""

    def __init__(
        self,
        embed: Embed,
        *,
        limits: Limits,
        window_items: int = WINDOW_ITEMS,
        window_bytes: int = WINDOW_BYTES,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._embed = embed
        self._limits = limits
        self._window_items = window_items
        self._window_bytes = window_bytes
        self._clock = clock
        self._sleep = sleep

    async def __call__(
        self, entries: AsyncGenerator[Entry, None], *, call: Call
    ) -> AsyncGenerator[list[Streamed], None]:
        """The results, in the order in which they complete; no entry is taken while the window is full.

        Results wait for a slow reader, entries do not: who reads only after having sent everything is served too.
        An infinite `call.deadline` gives each item the usual time from when it is taken. Closing this generator
        frees all work. Raises for the stream as a whole, once everything taken is answered: what `entries`
        raises of `modelmora.errors`, LimitExceeded (too many items), DeadlineExceeded (the input took too long),
        and where the very first item cannot be served, the reason. A foreign exception of `entries` ends it at once.
        """
        window = Window(items=self._window_items, size=self._window_bytes)
        run = _Run(self._embed, call, limits=self._limits, window=window, clock=self._clock, sleep=self._sleep)
        reading = asyncio.create_task(run.read(entries))
        try:
            while part := await run.next():
                yield part
        finally:
            await run.abandon(reading)


class _Run:
    """One stream under way: what is in flight, and what is done and not yet handed out."""

    def __init__(
        self,
        embed: Embed,
        call: Call,
        *,
        limits: Limits,
        window: Window,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._embed = embed
        self._call = call
        self._limits = limits
        self._window = window
        self._clock = clock
        self._sleep = sleep
        self._taken = 0
        self._open = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: deque[Streamed] = deque()
        self._news = asyncio.Event()
        self._reading = True
        self._trouble: Exception | None = None

    async def read(self, entries: AsyncGenerator[Entry, None]) -> None:
        """Takes entries until they end; what goes wrong is told by `next`."""
        seconds = None if math.isinf(self._call.deadline) else max(0.0, self._call.deadline - self._clock())
        try:
            async with asyncio.timeout(seconds), aclosing(entries):
                async for entry in entries:
                    await self._take(entry)
        except TimeoutError:
            self._trouble = DeadlineExceeded("the deadline passed before the stream had ended")
        except Exception as trouble:
            self._trouble = trouble
        finally:
            self._reading = False
            self._news.set()

    async def next(self) -> list[Streamed]:
        """What completed since the last time, waited for; empty at the end. Raises what ended the stream early."""
        while not (self._done and self._trouble_of_ours()):
            over = not self._reading and not self._open
            if self._trouble is not None and (over or not self._trouble_of_ours()):
                raise self._trouble
            if over:
                return []
            self._news.clear()
            await self._news.wait()
        return [self._done.popleft() for _ in range(min(TOGETHER, len(self._done)))]

    def _trouble_of_ours(self) -> bool:
        """Trouble that lets what was taken be answered first, or none at all."""
        return self._trouble is None or isinstance(self._trouble, ModelMoraError)

    async def abandon(self, reading: asyncio.Task[None]) -> None:
        """Cancels what is left and waits until it is gone."""
        left = [reading, *self._tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _take(self, entry: Entry) -> None:
        if self._taken == self._limits.stream_items:
            raise LimitExceeded(
                "the stream has too many items; open another one for the rest",
                field="items",
                found=f"more than {self._taken}",
                expected=f"at most {self._limits.stream_items}",
            )
        if self._taken == 0:
            self._embed.serving(entry.model)
        size = weight(entry.content)
        await self._window.enter(size)
        self._open += 1
        task = asyncio.create_task(self._settle(self._taken, entry, size))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._taken += 1

    async def _settle(self, index: int, entry: Entry, size: int) -> None:
        started = self._clock()
        model, outcome = await self._embedded(entry)
        total_ms = (self._clock() - started) * 1e3
        self._done.append(Streamed(index=index, tag=entry.tag, model=model, outcome=outcome, total_ms=total_ms))
        self._open -= 1
        self._window.leave(size)
        self._news.set()

    async def _embedded(self, entry: Entry) -> tuple[ModelSpec | None, Outcome[Embedded]]:
        """An item that finds the queue full waits in the window, where its sender feels it, instead of failing.

        Each try is a call of `Embed` like any other: it decodes the item anew and leaves a record.
        """
        deadline = min(self._call.deadline, self._clock() + self._usual_s())
        call = replace(self._call, truncate=entry.truncate, deadline=deadline)
        while True:
            model, outcome = await self._embed.one(entry.model, entry.content, call=call)
            pause = _pause_s(outcome)
            if pause is None or self._clock() + pause >= deadline:
                return model, outcome
            await self._sleep(pause)

    def _usual_s(self) -> float:
        """An item's own time, where the caller set none for the whole."""
        return self._limits.timeout_ms / 1e3 if math.isinf(self._call.deadline) else math.inf


def _pause_s(outcome: Outcome[Embedded]) -> float | None:
    """How long to wait for room in a full queue, spread so that not all waiting items come back together."""
    if isinstance(outcome, Failed) and isinstance(outcome.error, Overloaded):
        return (outcome.error.retry_after_s or 1.0) * random.uniform(0.5, 1.5)
    return None
