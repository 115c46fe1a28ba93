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
IDLE_S = 1.0
"""Of a question when nothing is under way and all is committed."""
BASE_S, CAP_S = 0.5, 30.0
TRIES = 5
"""A chunk of which nothing can be done although others begin and go through meanwhile is tried so often before its
pictures wait by themselves. While nobody goes through it is an outage, which costs no picture a try."""
LEAVE_S = 5.0
"""So long is waited for the last question to the subscription before it is closed."""


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
    """At least once, in the order of each key. What fails waits without keeping others from going on, until there is
    no more room; it goes on asking even then, which keeps its partitions."""

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
        self._slots = asyncio.Semaphore(pace.chunks)
        self._freed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._left = asyncio.Event()
        self._left.set()
        self._paused = False
        self._running = False
        self._done = self._ended = 0
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
        self._left.clear()
        try:
            while not self._stopping.is_set():
                try:
                    await self._turn()
                    self._flows(failures)
                    failures = 0
                except ModelMoraError as error:
                    failures += 1
                    self._trouble(error)
                    await self._pause_for(failures)
        finally:
            self._running = False
            self._left.set()

    async def stop(self, *, within_s: float) -> None:
        """Takes nothing more, ends what it works on as far as there is time, commits, and closes the subscription."""
        self._stopping.set()
        self._freed.set()
        if self._chunks:
            await asyncio.wait(self._chunks, timeout=within_s)
        for chunk in self._chunks:
            chunk.cancel()
        await asyncio.gather(*self._chunks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._left.wait()
        with contextlib.suppress(DependencyUnavailable):
            await self._commit()
        await self._subscription.close()
        log.info("consumer_stopped", left=len(self._lanes), done=self._done)

    async def revoked(self, partitions: frozenset[Place]) -> None:
        """Before they go: what is worked on of them is ended, and committed. What waits is another's."""
        try:
            while self._lanes.open_in(partitions) and self._chunks:
                await asyncio.wait(self._chunks, return_when=asyncio.FIRST_COMPLETED)
            await self._commit()
        finally:
            self._lanes.drop(partitions)
            self._marks.forget(partitions)

    async def _turn(self) -> None:
        """Takes, begins, commits."""
        room = self._pace.in_flight - len(self._lanes)
        self._pause(room <= 0)
        found = await self._subscription.receive(limit=max(1, room), timeout_s=self._patience_s())
        self._seen_at = self._clock()
        for one in found:
            self._marks.take((one.topic, one.partition), one.offset)
        self._lanes.add(found)
        await self._begin()
        if self._clock() - self._committed_at >= COMMIT_S:
            await self._commit()
        if self._paused and not found:
            await self._some_end()

    def _patience_s(self) -> float:
        if self._paused:
            return 0.0
        return POLL_S if len(self._lanes) or self._marks.reached() else IDLE_S

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

    async def _begin(self) -> None:
        """A chunk for each slot that is free."""
        while not self._stopping.is_set() and not self._slots.locked():
            chunk = self._lanes.chunk(self._pace.batch)
            if not chunk:
                return
            await self._slots.acquire()  # at once, since one is free
            self._start(chunk, held=True)

    def _start(self, chunk: list[Delivery], *, held: bool) -> None:
        task = asyncio.create_task(self._work(chunk, held=held))
        self._chunks.add(task)
        task.add_done_callback(self._chunks.discard)

    async def _work(self, chunk: list[Delivery], *, held: bool) -> None:
        """Until it is durable, or the consumer stops. It waits without a slot, so that others go on meanwhile.

        One delivery that brings out a defect keeps its neighbours back no longer than it takes to see that.
        """
        failures, since = 0, self._ended
        while True:
            if not held:
                await self._slots.acquire()
            held = False
            others = self._ended - since >= self._pace.chunks  # more than can have been under way at the first failure
            trouble = await self._try(chunk, last=failures >= TRIES and others)
            if trouble is None:
                return
            failures, since = failures + 1, since if failures else self._ended
            await self._pause_for(failures)
            if self._stopping.is_set():
                return
            if not isinstance(trouble, ModelMoraError) and len(chunk) > 1:
                for one in chunk:
                    self._start([one], held=False)
                return

    async def _try(self, chunk: list[Delivery], *, last: bool) -> Exception | None:
        """What kept it from being durable; the slot is free afterwards."""
        try:
            await self._ingest(chunk, last=last)
        except Exception as cause:
            self._trouble(cause)
            return cause
        else:
            self._end(chunk)
            return None
        finally:
            self._slots.release()
            await self._begin()

    def _end(self, chunk: list[Delivery]) -> None:
        self._flows(1)
        self._ended += 1
        self._done += len(chunk)
        for one in chunk:
            self._marks.done((one.topic, one.partition), one.offset)
        self._lanes.done(chunk)
        self._freed.set()

    def _flows(self, failures: int) -> None:
        """After so many of them."""
        if failures and self._why:
            log.info("consumer_flows")
            self._why = ""

    def _trouble(self, cause: Exception) -> None:
        expected = isinstance(cause, ModelMoraError)
        if not self._why:
            log.warning("consumer_stuck", why=str(cause), exc_info=None if expected else cause)
        self._why = str(cause) or type(cause).__name__

    async def _pause_for(self, failures: int) -> None:
        """Longer with each failure; not at all for one that stops."""
        seconds = min(CAP_S, BASE_S * 2.0 ** min(failures - 1, 10)) * (0.5 + self._draw() / 2)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _commit(self) -> None:
        self._committed_at = self._clock()
        reached = self._marks.reached()
        if reached:
            await self._subscription.commit(reached)
            self._marks.committed(reached)
