"""The ports `Publisher` and `Subscription` within one process: what a crash loses the database has still."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Mapping, Sequence

from modelmora.errors import DependencyUnavailable
from modelmora.ports import Delivery, Kept

PARTITIONS = 8
ROOM = 10_000
"""Messages of a partition that wait; who publishes more is told that they are not safe yet."""


class MemoryBus:
    """Partitions by key, each a list whose committed beginning goes. One event loop only."""

    def __init__(self, *, partitions: int = PARTITIONS, room: int = ROOM) -> None:
        self._partitions = partitions
        self._room = room
        self._kept: dict[tuple[str, int], list[Delivery]] = {}
        self._first: dict[tuple[str, int], int] = {}
        self._came = asyncio.Event()
        self._closed = False

    async def publish(self, events: Sequence[Kept]) -> list[bool]:
        """See the port; a partition that is full keeps back."""
        safe = [self._take(event) for event in events]
        if any(safe):
            self._came.set()
        return safe

    def subscribe(self, topics: Sequence[str]) -> MemorySubscription:
        """The one who reads; it begins with what the one before had not committed."""
        return MemorySubscription(self, frozenset((topic, n) for topic in topics for n in range(self._partitions)))

    async def ping(self) -> float:
        """See the port."""
        return 0.0

    async def close(self) -> None:
        """Idempotent; who waits is told that nothing comes."""
        self._closed = True
        self._came.set()

    def _take(self, event: Kept) -> bool:
        where = (event.topic, zlib.crc32(event.key) % self._partitions)
        kept = self._kept.setdefault(where, [])
        if len(kept) >= self._room:
            return False
        offset = self._first.get(where, 0) + len(kept)
        kept.append(
            Delivery(
                topic=event.topic,
                partition=where[1],
                offset=offset,
                key=event.key,
                value=event.value,
                headers=event.headers,
            )
        )
        return True

    def since(self, where: tuple[str, int], offset: int, limit: int) -> list[Delivery]:
        """Messages of a partition from an offset on."""
        start = max(0, offset - self._first.get(where, 0))
        return self._kept.get(where, [])[start : start + limit]

    def forget(self, where: tuple[str, int], before: int) -> None:
        """What was committed."""
        first = self._first.get(where, 0)
        gone = max(0, min(before - first, len(self._kept.get(where, []))))
        if gone:
            del self._kept[where][:gone]
            self._first[where] = first + gone

    def start_of(self, where: tuple[str, int]) -> int:
        return self._first.get(where, 0)

    def end_of(self, where: tuple[str, int]) -> int:
        return self._first.get(where, 0) + len(self._kept.get(where, []))

    async def coming(self, timeout_s: float) -> None:
        """Returns when something came, or the time is over; raises DependencyUnavailable for a bus that is closed."""
        self._came.clear()
        if not self._closed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._came.wait()
            except TimeoutError:
                return
        if self._closed:
            raise DependencyUnavailable("the events of this process have ended")


class MemorySubscription:
    """Reads all partitions."""

    def __init__(self, bus: MemoryBus, partitions: frozenset[tuple[str, int]]) -> None:
        self._bus = bus
        self._partitions = partitions
        self._next = {where: bus.start_of(where) for where in partitions}
        self._turns = deque(sorted(partitions))  # a full partition leaves room for the others
        self._paused = False

    async def receive(self, *, limit: int, timeout_s: float) -> Sequence[Delivery]:
        """See the port."""
        found = self._read(limit)
        if not found and timeout_s > 0:
            await self._bus.coming(timeout_s)
            found = self._read(limit)
        return found

    def _read(self, limit: int) -> list[Delivery]:
        found: list[Delivery] = []
        for where in tuple(self._turns) if not self._paused else ():
            some = self._bus.since(where, self._next[where], limit - len(found))
            found += some
            self._next[where] += len(some)
        self._turns.rotate(-1)
        return found

    def pause(self) -> None:
        """See the port."""
        self._paused = True

    def resume(self) -> None:
        """See the port."""
        self._paused = False

    async def commit(self, reached: Mapping[tuple[str, int], int]) -> None:
        """See the port."""
        for where, offset in reached.items():
            self._bus.forget(where, offset)

    @property
    def assigned(self) -> frozenset[tuple[str, int]]:
        """See the port: all of them."""
        return self._partitions

    async def lag(self) -> Mapping[tuple[str, int], int]:
        """See the port."""
        return {where: self._bus.end_of(where) - self._bus.start_of(where) for where in self._partitions}

    async def close(self) -> None:
        """Idempotent."""
        self._paused = True
