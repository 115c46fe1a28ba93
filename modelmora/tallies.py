"""Prometheus counters and histograms that take what is counted in one turn of a while together.

Each count of `prometheus_client` locks and writes to a file that processes share: 65 us of a request on a slow machine.
Here a count is an append; a timer of the event loop writes, twenty times a second under load. Outside of a loop it is
written at once. The only module that knows the inside of `prometheus_client`.
"""

from __future__ import annotations

import asyncio
import atexit
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable
from typing import Any

import prometheus_client
from prometheus_client.samples import Sample

WRITE_S = 0.05
"""So old may what was counted be before others see it."""

_unwritten: list[Counter | Histogram] = []
_writing: asyncio.AbstractEventLoop | None = None
"""The loop that is going to write: one that ends before it does is followed by the next."""


def write_all() -> None:
    """What was counted until now."""
    global _writing  # noqa: PLW0603 - one of a process, as its metrics are
    _writing = None
    ready, _unwritten[:] = list(_unwritten), []
    for series in ready:
        series.write()


def _remember(series: Counter | Histogram) -> None:
    """The first of a while arranges for all of it to be written."""
    global _writing  # noqa: PLW0603 - as above
    _unwritten.append(series)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        write_all()
        return
    if _writing is not loop:
        _writing = loop
        loop.call_later(WRITE_S, write_all)


class Counter(prometheus_client.Counter):
    """As the library's, without exemplars."""

    _waiting: list[float]

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Raises ValueError for a negative amount."""
        if amount < 0:
            raise ValueError("counters can only be incremented by non-negative amounts")
        waiting = self._waiting
        waiting.append(amount)
        if len(waiting) == 1:
            _remember(self)

    def write(self) -> None:
        """What was counted until now."""
        ready, self._waiting = self._waiting, []
        if ready:
            self._value.inc(sum(ready))

    def _metric_init(self) -> None:
        super()._metric_init()
        self._waiting = []

    def _child_samples(self) -> Iterable[Sample]:
        self.write()
        return super()._child_samples()


class Histogram(prometheus_client.Histogram):
    """As the library's, without exemplars."""

    _waiting: list[float]

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        waiting = self._waiting
        waiting.append(amount)
        if len(waiting) == 1:
            _remember(self)

    def write(self) -> None:
        """What was observed until now."""
        ready, self._waiting = self._waiting, []
        if ready:
            self._sum.inc(sum(ready))
            bounds: Any = self._upper_bounds
            for bucket, count in Tally(bisect_left(bounds, amount) for amount in ready).items():
                self._buckets[bucket].inc(count)

    def _metric_init(self) -> None:
        super()._metric_init()
        self._waiting = []

    def _child_samples(self) -> Iterable[Sample]:
        self.write()
        return super()._child_samples()


atexit.register(write_all)
