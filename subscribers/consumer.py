"""One consumer's loop: it takes what comes, works on it in chunks, commits what is done, and never stops asking."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from modelmora.errors import DependencyUnavailable, ModelMoraError
from modelmora.ports import Delivery, Subscription
from subscribers.lanes import Lanes
from subscribers.watermarks import Place, Watermarks

log = structlog.get_logger(__name__)

COMMIT_S = 0.2
POLL_S = 0.2
BASE_S, CAP_S = 0.5, 30.0
TRIES = 5
"""A chunk that nothing of could be done is tried so often whole before its pictures wait one by one, as long as others
go through meanwhile."""


class Ingests(Protocol):
    """What is done with a chunk; see `modelmora.usecases.pictures.ingest.Ingest`."""

    async def __call__(self, deliveries: Sequence[Delivery], *, last: bool = False) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """`batch` deliveries in a chunk, `chunks` at once, `in_flight` deliveries taken."""

    batch: int = 32
    chunks: int = 2
    in_flight: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerState:
    """What a health page shows. `why` is empty while nothing is wrong."""

    running: bool
    paused: bool
    in_flight: int
    partitions: int
    done: int
    why: str
    seen_s: float
    """Seconds since the subscription last answered."""


class Consumer:
    """At least once, in the order of each key. An outage pauses it; it goes on asking, which keeps its partitions."""

    def __init__(
        self,
        subscription: Subscription,
        ingest: Ingests,
        *,
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._subscription = subscription
        self._ingest = ingest
        self._pace = pace
        self._clock = clock
        self._draw = draw
        self._lanes = Lanes()
        self._marks = Watermarks()
        self._chunks: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()
        self._stopping = False
        self._paused = False
        self._running = False
        self._done = 0
        self._why = ""
        self._seen_at = clock()
        self._committed_at = clock()

    def state(self) -> ConsumerState:
        return ConsumerState(
            running=self._running,
            paused=self._paused,
            in_flight=len(self._lanes),
            partitions=len(self._subscription.assigned),
            done=self._done,
            why=self._why,
            seen_s=self._clock() - self._seen_at,
        )

    async def run(self) -> None:
        """Until `stop`."""
        self._running, failures = True, 0
        try:
            while not self._stopping:
                try:
                    await self._turn()
                    failures = 0
                except ModelMoraError as error:
                    failures += 1
                    self._trouble(error)
                    await asyncio.sleep(self._wait(failures))
        finally:
            self._running = False

    async def stop(self, *, within_s: float) -> None:
        """Takes nothing more, ends what it works on as far as there is time, commits, and closes the subscription."""
        self._stopping = True
        self._freed.set()
        if self._chunks:
            await asyncio.wait(self._chunks, timeout=within_s)
        for chunk in self._chunks:
            chunk.cancel()
        with contextlib.suppress(DependencyUnavailable):
            await self._commit()
        await self._subscription.close()
        log.info("consumer_stopped", left=len(self._lanes), done=self._done)

    async def revoked(self, partitions: frozenset[Place]) -> None:
        """Before they go: what is worked on of them is ended, and committed. What waits is another's."""
        while self._lanes.open_in(partitions) and self._chunks:
            await asyncio.wait(self._chunks, return_when=asyncio.FIRST_COMPLETED)
        await self._commit()
        self._lanes.drop(partitions)
        self._marks.forget(partitions)

    async def _turn(self) -> None:
        """Takes, begins, commits."""
        room = self._pace.in_flight - len(self._lanes)
        self._pause(room <= 0 or bool(self._why))
        found = await self._subscription.receive(limit=max(1, room), timeout_s=0.0 if self._paused else POLL_S)
        self._seen_at = self._clock()
        for one in found:
            self._marks.take((one.topic, one.partition), one.offset)
        self._lanes.add(found)
        self._begin()
        if self._clock() - self._committed_at >= COMMIT_S:
            await self._commit()
        if self._paused and not found:
            await self._some_end()

    def _pause(self, wanted: bool) -> None:
        if wanted and not self._paused:
            self._subscription.pause()
        elif not wanted and self._paused:
            self._subscription.resume()
        self._paused = wanted

    async def _some_end(self) -> None:
        self._freed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._freed.wait()

    def _begin(self) -> None:
        while len(self._chunks) < self._pace.chunks and not self._stopping:
            chunk = self._lanes.chunk(self._pace.batch)
            if not chunk:
                return
            task = asyncio.create_task(self._work(chunk))
            self._chunks.add(task)
            task.add_done_callback(self._chunks.discard)

    async def _work(self, chunk: list[Delivery]) -> None:
        """Until it is durable, or the consumer stops."""
        failures, before = 0, self._done
        while not self._stopping:
            try:
                await self._ingest(chunk, last=failures >= TRIES and self._done > before)
                break
            except Exception as cause:
                failures += 1
                self._trouble(cause)
                await asyncio.sleep(self._wait(failures))
        else:
            return
        if self._why:
            log.info("consumer_flows")
            self._why = ""
        self._done += len(chunk)
        for one in chunk:
            self._marks.done((one.topic, one.partition), one.offset)
        self._lanes.done(chunk)
        self._freed.set()
        self._begin()

    def _trouble(self, cause: Exception) -> None:
        expected = isinstance(cause, ModelMoraError)
        if not self._why:
            log.warning("consumer_stuck", why=str(cause), exc_info=None if expected else cause)
        self._why = str(cause) or type(cause).__name__

    def _wait(self, failures: int) -> float:
        return min(CAP_S, BASE_S * 2.0 ** min(failures - 1, 10)) * (0.5 + self._draw() / 2)

    async def _commit(self) -> None:
        self._committed_at = self._clock()
        reached = self._marks.reached()
        if reached:
            await self._subscription.commit(reached)
            self._marks.committed(reached)
