"""What was measured, as values, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from load.bench.plan import Party, Point, Verdict
from load.bench.stats import Spread, paired_ratios, spread

DISTURBED_CORES = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One party measured for some seconds; `cpu_s` is by role of process, latencies are in milliseconds.

    `failed` counts every request of the run, also those before and after the window. `foreign_cores` is what
    the rest of the machine, neither the party nor its callers, used meanwhile.
    """

    party: Party
    point: Point
    pair: int | None
    items: int
    wall_s: float
    cpu_s: Mapping[str, float]
    failed: int = 0
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
    """The paired ratios of a point, None where a party was not run; `disturbed` windows are among them."""

    point: Point
    verdict: Verdict
    disturbed: int = 0
    cpu_to_reference: Spread | None = None
    speed_to_reference: Spread | None = None
    cpu_to_bentoml: Spread | None = None
    speed_to_bentoml: Spread | None = None


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
    windows: Sequence[Window], point: Point, other: Party, *, of_each: Callable[[Window], float]
) -> Spread | None:
    """Ours to another party, pair by pair; None when they share no pair."""
    mine = {w.pair: w for w in of(windows, "ours", point) if w.pair is not None and w.items}
    theirs = {w.pair: w for w in of(windows, other, point) if w.pair is not None and w.items}
    both = sorted(mine.keys() & theirs.keys(), key=lambda pair: pair or 0)
    if not both:
        return None
    return spread(paired_ratios([of_each(mine[pair]) for pair in both], [of_each(theirs[pair]) for pair in both]))


def compare(windows: Sequence[Window], point: Point, verdict: Verdict) -> Comparison:
    """The four ratios of a paired point."""
    return Comparison(
        point=point,
        verdict=verdict,
        disturbed=sum(w.disturbed for w in windows if w.point == point),
        cpu_to_reference=ratio(windows, point, "reference", of_each=_cpu),
        speed_to_reference=ratio(windows, point, "reference", of_each=_speed),
        cpu_to_bentoml=ratio(windows, point, "bentoml", of_each=_cpu),
        speed_to_bentoml=ratio(windows, point, "bentoml", of_each=_speed),
    )


def _cpu(window: Window) -> float:
    return window.cpu_ms


def _speed(window: Window) -> float:
    return window.per_s
