"""A network put through the samples, batch by batch, in its turn beside running work: its vectors and its time."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from modelmora.domain.models import Task
from modelmora.errors import ModelLoadFailed, ModelMoraError
from runners.batching.lanes import Hung
from runners.capabilities import rows
from runners.examinations.likeness import Inputs
from runners.forms import Form, form_of
from runners.provider import Loaded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runners.batcher import Batcher

TIMES = 5
"""Batches that are timed, each followed by one of the network that serves; of either the fastest counts: what else
runs on the machine can only slow them down, and slows down both."""
CPU_BATCH = 8

TICK_MS = 1e-3
"""Below it clocks do not tell anything, not even that time has passed."""


def _always() -> None:
    """Goes on."""


async def _at_once() -> None:
    """Waits for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a measurement goes about running work: `turn` is awaited before each batch, `threads` 0 are all cores.

    `still` is asked during exports and raises where it is not to go on. Where it may not evict, a copy that does not
    fit beside what is there is not made.
    """

    turn: Callable[[], Awaitable[None]] = _at_once
    still: Callable[[], None] = _always
    threads: int = 0
    evicts: bool = True


AS_ASKED = Pace()
"""For somebody who waits for the report."""


@dataclass(slots=True)
class Taken:
    """What one network made of the samples: (samples, dimension) vectors, and milliseconds of a batch.

    On a CPU these are of CPU time, without what it gave to others; on another device they are the wall's.
    """

    vectors: dict[Task, NDArray[np.float32]] = field(default_factory=dict)
    ms: dict[Task, float] = field(default_factory=dict)


async def take(batcher: Batcher, network: Loaded, given: Inputs, *, into: Taken, pace: Pace) -> AsyncIterator[None]:
    """The vectors of all samples; yields after each batch."""
    size = _size(network)
    for task, items in given.items():
        answers: list[NDArray[np.float32]] = []
        for start in range(0, len(items), size):
            await pace.turn()
            batch = items[start : start + size]
            answer, _ = await _run(batcher, network, task, batch, threads=pace.threads, clock=time.perf_counter)
            answers.append(answer)
            yield
        into.vectors[task] = np.concatenate(answers)


async def time_batches(
    batcher: Batcher,
    network: Loaded,
    given: Inputs,
    *,
    beside: Loaded,
    taken: Mapping[Form, Taken],
    pace: Pace,
) -> AsyncIterator[None]:
    """The milliseconds of a batch, in the measure of the network that serves, which was timed before."""
    own, known = taken[form_of(network)].ms, taken[form_of(beside)].ms
    pair = (network,) if network is beside else (network, beside)
    clock = _clock(*pair)
    for task, items in given.items():
        times: list[list[float]] = [[] for _ in pair]
        for _ in range(TIMES):
            for one, found in zip(pair, times, strict=True):
                await pace.turn()
                _, ms = await _run(batcher, one, task, items[: _size(network)], threads=1, clock=clock)
                found.append(ms)
            yield
        fastest = [max(min(found), TICK_MS) for found in times]
        own[task] = fastest[0] * (known[task] / fastest[1] if len(pair) > 1 else 1.0)


async def _run(
    batcher: Batcher,
    network: Loaded,
    task: Task,
    batch: Sequence[NDArray[np.generic]],
    *,
    threads: int,
    clock: Callable[[], float],
) -> tuple[NDArray[np.float32], float]:
    """Rows and milliseconds of a batch; raises ModelLoadFailed where the device does not run the network's format."""
    try:
        given, seconds = await batcher.run_alone(network, task, batch, threads=threads, clock=clock)
    except (ModelMoraError, Hung):
        raise
    except Exception as cause:  # an operation that the device does not have in this format
        said = f"{network.device} does not run it in {form_of(network)}: {cause}"
        raise ModelLoadFailed(said, field="precision") from cause
    return rows(given), seconds * 1e3


def _clock(*pair: Loaded) -> Callable[[], float]:
    """What the networks are timed by: on a CPU its time, since under load cores are what is short.

    torch computes in the thread that calls it; another library in threads of its own, and then all that the process
    does counts, also what comes in between: of several batches the fastest is taken.
    """
    if any(one.device != "cpu" for one in pair):
        return time.perf_counter
    return time.thread_time if all(form_of(one).engine == "torch" for one in pair) else time.process_time


def batches(network: Loaded, items: list[NDArray[np.generic]]) -> int:
    return math.ceil(len(items) / _size(network)) + TIMES


def _size(network: Loaded) -> int:
    """As it is served, but on a CPU not so large that a request waits long for its end."""
    served = network.description.max_batch
    return min(served, CPU_BATCH) if network.device == "cpu" else served
