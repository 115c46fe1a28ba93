"""What was measured, as values, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from load.bench.plan import PARTIES, Party, Point, Verdict
from load.bench.stats import Spread, paired_ratios, spread

DISTURBED_CORES = 0.1
Quantity = Literal["cpu", "speed", "p50", "p99"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One party measured for some seconds; `cpu_s` is by role of process, latencies are in milliseconds.

    `failed` counts every request of the run, also those before and after the window; `refused` those that were
    bad on purpose and were told so. `foreign_cores` is what the rest of the machine, neither the party nor its
    callers, used meanwhile.
    """

    party: Party
    point: Point
    pair: int | None
    items: int
    wall_s: float
    cpu_s: Mapping[str, float]
    failed: int = 0
    refused: int = 0
    errors: tuple[str, ...] = ()
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    foreign_cores: float = 0.0

    @property
    def per_s(self) -> float:
        return self.items / self.wall_s

    @property
    def disturbed(self) -> bool:
        """Whether somebody else took so much of the machine that the window is doubtful."""
        return self.foreign_cores > DISTURBED_CORES

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per item, over all processes of the party."""
        return 1000 * sum(self.cpu_s.values()) / self.items if self.items else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The paired ratios of a point, by `quantity/party`; `disturbed` windows are among them."""

    point: Point
    verdict: Verdict
    disturbed: int = 0
    ratios: Mapping[str, Spread] = field(default_factory=dict)

    def of(self, quantity: Quantity, other: Party) -> Spread | None:
        """Ours to that party's; None where it was not measured."""
        return self.ratios.get(f"{quantity}/{other}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything one command measured, in the order in which it was measured."""

    model: str
    machine: Mapping[str, object]
    conditions: dict[str, object]
    windows: list[Window] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)


def of(windows: Iterable[Window], party: Party, point: Point) -> list[Window]:
    """The windows of a party at a point, in order."""
    return [w for w in windows if w.party == party and w.point == point]


def ratio(
    windows: Sequence[Window], point: Point, other: Party, *, of_each: Callable[[Window], float | None]
) -> Spread | None:
    """Ours to another party, pair by pair; None when they share no pair."""
    mine = _values(of(windows, "ours", point), of_each)
    theirs = _values(of(windows, other, point), of_each)
    both = sorted(mine.keys() & theirs.keys())
    return spread(paired_ratios([mine[pair] for pair in both], [theirs[pair] for pair in both])) if both else None


def compare(windows: Sequence[Window], point: Point, verdict: Verdict) -> Comparison:
    """Every ratio of a paired point that its windows give."""
    found = {
        f"{quantity}/{other}": ratio(windows, point, other, of_each=of_each)
        for other in PARTIES
        if other != "ours"
        for quantity, of_each in QUANTITIES.items()
    }
    return Comparison(
        point=point,
        verdict=verdict,
        disturbed=sum(w.disturbed for w in windows if w.point == point),
        ratios={name: spread_ for name, spread_ in found.items() if spread_ is not None},
    )


def _values(windows: Iterable[Window], of_each: Callable[[Window], float | None]) -> dict[int, float]:
    """By pair, those that are there."""
    found = ((w.pair, of_each(w)) for w in windows if w.items)
    return {pair: value for pair, value in found if pair is not None and value is not None}


QUANTITIES: Mapping[Quantity, Callable[[Window], float | None]] = MappingProxyType(
    {"cpu": lambda w: w.cpu_ms, "speed": lambda w: w.per_s, "p50": lambda w: w.p50_ms, "p99": lambda w: w.p99_ms}
)
