"""The compute lanes of one device: threads in which batches run side by side, and what is done when one hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from modelmora.domain.batching import Lanes
from runners.signals import Signal

T = TypeVar("T")

QUIET_S = 20.0
"""So long everybody else waits for a batch that is to be alone; one that hangs must not stop the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a forward may take: `hang_s` at most, and `times` its predicted time but at least `least_s`."""

    hang_s: float = 300.0
    least_s: float = 30.0
    times: float = 20.0

    def of(self, predicted_s: float) -> float:
        """Seconds until a batch counts as hung; the bound alone before the first batch."""
        return min(self.hang_s, max(self.least_s, self.times * predicted_s)) if predicted_s else self.hang_s


class Hung(Exception):
    """A batch did not come back; its thread is lost, not its lane."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no end after {seconds:.0f} s")
        self.seconds = seconds


class ComputeLanes:
    """So many threads as the device has lanes; whoever takes one gives it back."""

    def __init__(self, device: Lanes, *, patience: Patience) -> None:
        self._device = device
        self._patience = patience
        self._threads = self._new_threads()
        self._busy = 0
        self._computing = 0
        self._running = 0
        self._quiet = False
        self._turn = asyncio.Lock()
        self.freed = Signal()

    @property
    def cores(self) -> int:
        """Of the device."""
        return self._device.cores

    def busy(self) -> int:
        """Lanes that compute."""
        return self._busy

    def facts(self, waiting: int) -> Lanes:
        """The device as the decision sees it, with so many items waiting."""
        return replace(self._device, busy=self._busy, computing=self._computing, waiting=waiting)

    def take(self, items: int) -> None:
        """A lane for a batch of so many items; the caller knows that one is free."""
        self._busy += 1
        self._computing += items

    def give(self, items: int) -> None:
        """The lane is free again."""
        self._busy -= 1
        self._computing -= items
        self.freed.set()

    async def when_free(self) -> None:
        """Waits for a lane."""
        while self._busy >= self._device.limit:
            await self.freed.wait(1.0)

    async def run(self, work: Callable[[], T], *, predicted_s: float) -> T:
        """In a thread; raises what the work raises, and Hung when it does not come back."""
        while self._quiet:
            await self.freed.wait(1.0)
        self._running += 1
        try:
            return await self._in_thread(work, self._patience.of(predicted_s))
        finally:
            self._running -= 1
            self.freed.set()

    async def run_in_quiet(self, work: Callable[[], T]) -> T:
        """The same while nothing else computes: what runs is waited for, what comes waits, but for QUIET_S at most."""
        now = asyncio.get_running_loop().time
        async with self._turn:
            until, self._quiet = now() + QUIET_S, True
            try:
                while self._running and now() < until:
                    await self.freed.wait(until - now())
                running = asyncio.create_task(self._in_thread(work, self._patience.of(0.0)))
                await asyncio.wait({running}, timeout=max(0.0, until - now()))
            finally:
                self._quiet = False
                self.freed.set()
            return await running

    async def _in_thread(self, work: Callable[[], T], patience: float) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        done, _ = await asyncio.wait({running}, timeout=patience)
        if not done:
            self._leave_behind()
            raise Hung(patience)
        return running.result()

    def _leave_behind(self) -> None:
        """The thread that hangs is lost, its lane is not: other threads take over."""
        self._threads.shutdown(wait=False)
        self._threads = self._new_threads()

    def _new_threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._device.limit, thread_name_prefix="lane")

    def close(self) -> None:
        """What computes goes on, nothing new begins."""
        self._threads.shutdown(wait=False)
