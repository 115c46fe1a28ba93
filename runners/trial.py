"""A network put through the samples, batch by batch, in its turn beside running work: its vectors and its time."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from modelmora.domain.models import Task
from modelmora.errors import ModelLoadFailed, ModelMoraError
from runners.likeness import Inputs
from runners.precision import Concrete
from runners.provider import Loaded, Tell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runners.batcher import Batcher

TIMES = 5
"""Batches that are timed, each followed by one of the network that serves; of either the fastest counts: what else
runs on the machine can only slow them down, and slows down both."""
CPU_BATCH = 8

TICK_MS = 1e-3
"""Below it clocks do not tell anything, not even that time has passed."""


async def _at_once() -> None:
    """Waits for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a measurement goes about running work: `turn` is awaited before each batch, `threads` 0 are all cores.

    Where it may not evict, a copy that does not fit beside what is there is not made.
    """

    turn: Callable[[], Awaitable[None]] = _at_once
    threads: int = 0
    evicts: bool = True


AS_ASKED = Pace()
"""For somebody who waits for the report."""


@dataclass(slots=True)
class Taken:
    """What one network made of the samples: (samples, dimension) vectors, and milliseconds of a batch.

    On a CPU these are one core's own, without those it gave to others; on another device they are the wall's.
    """

    vectors: dict[Task, NDArray[np.float32]] = field(default_factory=dict)
    ms: dict[Task, float] = field(default_factory=dict)


class _Clocked:
    """A network whose last batch can be asked for its rows and milliseconds: without the wait for its turn."""

    def __init__(self, network: Loaded) -> None:
        self._network = network
        self._clock = time.thread_time if network.device == "cpu" else time.perf_counter
        self.rows = np.empty((0, 0), np.float32)
        self.ms = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def run(
        self, task: Task, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        started = self._clock()
        try:
            self.rows = self._network.run(task, batch, threads=threads, tell=tell)
        except ModelMoraError:
            raise
        except Exception as cause:  # an operation that the device does not have in this format
            said = f"{self._network.device} does not run it in {self._network.precision}: {cause}"
            raise ModelLoadFailed(said, field="precision") from cause
        self.ms = (self._clock() - started) * 1e3
        return self.rows


async def take(batcher: Batcher, network: Loaded, given: Inputs, *, into: Taken, pace: Pace) -> AsyncIterator[None]:
    """The vectors of all samples; yields after each batch."""
    clocked, size = _Clocked(network), _size(network)
    for task, items in given.items():
        rows: list[NDArray[np.float32]] = []
        for start in range(0, len(items), size):
            await pace.turn()
            await batcher.run_alone(cast(Loaded, clocked), task, items[start : start + size], threads=pace.threads)
            rows.append(clocked.rows)
            yield
        into.vectors[task] = np.concatenate(rows)


async def time_batches(
    batcher: Batcher,
    network: Loaded,
    given: Inputs,
    *,
    beside: Loaded,
    taken: Mapping[Concrete, Taken],
    pace: Pace,
) -> AsyncIterator[None]:
    """The milliseconds of a batch, in the measure of the network that serves, which was timed before."""
    own, known = taken[cast(Concrete, network.precision)].ms, taken[cast(Concrete, beside.precision)].ms
    pair = [_Clocked(network)] if network is beside else [_Clocked(network), _Clocked(beside)]
    for task, items in given.items():
        times: list[list[float]] = [[] for _ in pair]
        for _ in range(TIMES):
            for clocked, found in zip(pair, times, strict=True):
                await pace.turn()
                await batcher.run_alone(cast(Loaded, clocked), task, items[: _size(network)], threads=1)
                found.append(clocked.ms)
            yield
        fastest = [max(min(found), TICK_MS) for found in times]
        own[task] = fastest[0] * (known[task] / fastest[1] if len(pair) > 1 else 1.0)


def batches(network: Loaded, items: list[NDArray[np.generic]]) -> int:
    return math.ceil(len(items) / _size(network)) + TIMES


def _size(network: Loaded) -> int:
    """As it is served, but on a CPU not so large that a request waits long for its end."""
    served = network.description.max_batch
    return min(served, CPU_BATCH) if network.device == "cpu" else served
