"""Which batch size and how many threads a model is best run with: what to try, when to believe it, what to choose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LARGEST = 64
WINDOWS = 3
TOLERANCE = 0.10
NEAR = 0.97
"""A smaller batch that reaches so much of the most is better: each of its items waits less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """A device's cores shared among batches side by side: so many `lanes` of so many `threads` each."""

    lanes: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one setting gave. `batch_ms` is the median time of a batch, `lone_ms` that of one item with nothing beside
    it, `memory_bytes` the most its batches took above the model itself. `steady`: its windows agreed."""

    batch: int
    lanes: int
    threads: int
    items_per_s: float
    batch_ms: float
    lone_ms: float
    memory_bytes: int
    steady: bool


def divisions(cores: int, limit: int) -> list[Division]:
    """One lane with all cores, a lane for each of at most `limit`, and the powers of two between."""
    most = max(1, min(limit, cores))
    lanes = [n for n in (2**power for power in range(most.bit_length())) if n < most]
    return [Division(lanes=n, threads=max(1, cores // n)) for n in (*lanes, most)]


def sizes(largest: int = LARGEST) -> list[int]:
    """1, 2, 4 and so on."""
    return [2**power for power in range(largest.bit_length()) if 2**power <= largest]


def steady(rates: Sequence[float]) -> bool:
    """Whether the last three windows lie within a tenth of each other: only then they are a number."""
    last = rates[-WINDOWS:]
    return len(last) == WINDOWS and max(last) <= (1 + TOLERANCE) * min(last)


def grows(measured: Measured, *, room: int | None, longest_ms: float) -> bool:
    """Whether twice its batch may be tried: its memory and time are expected to double; `room` None: no limit."""
    return (room is None or 2 * measured.memory_bytes <= room) and measured.batch_ms <= longest_ms


def best(measured: Iterable[Measured]) -> Measured:
    """The smallest batch near the most items a second, of those the fastest; raises ValueError when there is none.

    Unsteady settings are chosen among only when no other is there.
    """
    every = list(measured)
    believed = [one for one in every if one.steady] or every
    most = max((one.items_per_s for one in believed), default=0.0)
    near = [one for one in believed if one.items_per_s >= NEAR * most]
    if not near:
        raise ValueError("nothing was measured")
    return min(near, key=lambda one: (one.batch, -one.items_per_s))
