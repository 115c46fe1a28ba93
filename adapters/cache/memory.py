"""The port `EmbeddingCache` in the memory of one process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from modelmora.telemetry import CACHE_BYTES

ENTRY_BYTES = 300
"""What an entry takes beside its key and its value: a node, a tuple, a float, two headers of objects (230 to 290)."""


class MemoryCache:
    """At most `max_bytes` for at most `ttl_s`; what was used longest ago goes first. One event loop only."""

    def __init__(self, *, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """See the port."""
        now = self._clock()
        return [self._one(key, now) for key in keys]

    async def put(self, entries: Mapping[str, bytes]) -> None:
        """See the port; what is larger than all the room there is is not kept."""
        until = self._clock() + self._ttl_s
        for key, value in entries.items():
            self._drop(key)
            if _size(key, value) <= self._max_bytes:
                self._kept[key] = (value, until)
                self._bytes += _size(key, value)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))
        CACHE_BYTES.set(self._bytes)

    async def ping(self) -> float:
        """See the port."""
        return 0.0

    async def close(self) -> None:
        """Idempotent."""
        self._kept.clear()
        self._bytes = 0
        CACHE_BYTES.set(0)

    def _one(self, key: str, now: float) -> bytes | None:
        found = self._kept.get(key)
        if found is None:
            return None
        if found[1] <= now:
            self._drop(key)
            CACHE_BYTES.set(self._bytes)
            return None
        self._kept.move_to_end(key)
        return found[0]

    def _drop(self, key: str) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= _size(key, found[0])


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_BYTES
