"""What is costly to make is made once for all who ask at the same time, and the latest used is kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENTRY_BYTES = 1_024
"""What an entry costs beside its array."""


@dataclass(slots=True)
class _Flight:
    """One making under way, and how many wait for it."""

    task: asyncio.Task[NDArray[np.float32]]
    waiting: int = 0


class KeptArrays:
    """Arrays by key, at most `max_bytes` of them; the one that was used longest ago goes first. One event loop only."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._flights: dict[str, _Flight] = {}

    async def get(
        self, key: str, make: Callable[[], Coroutine[Any, Any, NDArray[np.float32]]], *, within_s: float
    ) -> NDArray[np.float32]:
        """The array of that key, made by one of its callers where there is none.

        A caller that leaves does not take the making from the others; when the last one leaves it is cancelled. What
        `make` raises is raised for all who wait, and not remembered. Raises TimeoutError after `within_s`.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        flight = self._flights.get(key) or self._begin(key, make)
        flight.waiting += 1
        try:
            async with asyncio.timeout(max(0.0, within_s)):
                return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                self._flights.pop(key, None)  # who comes next begins anew, and does not wait for what was cancelled
                flight.task.cancel()

    def _begin(self, key: str, make: Callable[[], Coroutine[Any, Any, NDArray[np.float32]]]) -> _Flight:
        flight = self._flights[key] = _Flight(asyncio.create_task(make()))
        flight.task.add_done_callback(lambda task: self._landed(key, flight))
        return flight

    def _landed(self, key: str, flight: _Flight) -> None:
        failed = flight.task.cancelled() or flight.task.exception() is not None
        if self._flights.get(key) is not flight:
            return  # all had left, and it came to an end in spite of that: another may be on its way by now
        del self._flights[key]
        if not failed:
            self._keep(key, flight.task.result())

    def _keep(self, key: str, array: NDArray[np.float32]) -> None:
        self._bytes += array.nbytes + ENTRY_BYTES
        self._kept[key] = array
        while self._bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes + ENTRY_BYTES
