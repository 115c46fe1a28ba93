"""What is promised of the paired ratios, and whether a run holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from load.bench.plan import Party, Point
from load.bench.results import Comparison, Quantity, Run
from load.bench.stats import Spread

MODEL = "vit-b-32"
LITSERVE: tuple[Party, ...] = ("litserve", "litserve-tuned")
_WORDS: Mapping[Quantity, str] = MappingProxyType({"cpu": "CPU per item", "speed": "Speed", "p50": "p50", "p99": "p99"})
_NAMES: Mapping[Party, str] = MappingProxyType(
    {
        "reference": "the reference loop",
        "bentoml": "plain BentoML",
        "litserve": "LitServe as it comes",
        "litserve-tuned": "LitServe tuned",
        "mlserver": "MLServer",
        "infinity": "infinity",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A bound on the median of ours to the best of `others`: `most` or `least`.

    `reduced`: made for a model in another precision than fp32 or by another engine than torch, else for fp32 by torch.
    """

    at: Point
    quantity: Quantity
    others: tuple[Party, ...]
    most: float | None = None
    least: float | None = None
    reduced: bool = False
    model: str = MODEL

    def holds(self, median: float) -> bool:
        return (self.most is None or median <= self.most) and (self.least is None or median >= self.least)

    def bound(self) -> str:
        return f"at most {self.most}x" if self.most is not None else f"at least {self.least}x"


@dataclass(frozen=True, slots=True)
class Found:
    """A promise beside what was measured."""

    promise: Promise
    rival: Party
    ratio: Spread
    comparison: Comparison

    @property
    def held(self) -> bool:
        return self.promise.holds(self.ratio.median)

    def __str__(self) -> str:
        return (
            f"{_WORDS[self.promise.quantity]} at {self.promise.at}: {self.ratio.median:.3f}x {_NAMES[self.rival]}, "
            f"{self.promise.bound()}: {'held' if self.held else 'NOT held'}, {self.comparison.verdict}."
        )


HTTP_1, HTTP_8, HTTP_32, HTTP_64 = (Point("http", callers) for callers in (1, 8, 32, 64))
PROMISES = (
    Promise(at=HTTP_32, quantity="cpu", others=("reference",), most=1.06),
    Promise(at=HTTP_64, quantity="cpu", others=("reference",), most=1.06),
    Promise(at=HTTP_8, quantity="speed", others=("bentoml",), least=1.25),
    Promise(at=HTTP_8, quantity="p99", others=("bentoml",), most=0.7),
    Promise(at=HTTP_1, quantity="p50", others=("reference",), most=1.05),
    Promise(at=HTTP_32, quantity="speed", others=("litserve-tuned",), least=0.97),
    Promise(at=HTTP_32, quantity="speed", others=LITSERVE, least=1.9, reduced=True),
    Promise(at=HTTP_32, quantity="cpu", others=("reference",), most=1.08, model="dinov2-base"),
    Promise(at=HTTP_32, quantity="cpu", others=("reference",), most=1.08, model="vit-base"),
)


def judge(run: Run) -> list[Found]:
    """Every promise that the run measured of its model, in their order."""
    said = run.conditions
    reduced = said.get("precision", "fp32") != "fp32" or said.get("engine", "torch") != "torch"
    by_point = {comparison.point: comparison for comparison in run.comparisons}
    mine = [promise for promise in PROMISES if promise.model == run.model and promise.reduced == reduced]
    made = [promise for promise in mine if promise.at in by_point]
    found = [_find(promise, by_point[promise.at]) for promise in made]
    return [one for one in found if one is not None]


def decisive(comparison: Comparison) -> Sequence[Spread]:
    """The ratios that must agree before the point is called stable."""
    promised = [(p.quantity, other) for p in PROMISES if p.at == comparison.point for other in p.others]
    usual = [(quantity, other) for quantity, other in _USUAL if (quantity, other) not in promised]
    found = (comparison.of(quantity, other) for quantity, other in (*promised, *usual) if quantity != "p99")
    return [ratio for ratio in found if ratio is not None]


def _find(promise: Promise, comparison: Comparison) -> Found | None:
    """Beside the best of the rivals: the one to which the ratio is worst for us."""
    ratios = [(other, ratio) for other in promise.others if (ratio := comparison.of(promise.quantity, other))]
    if not ratios:
        return None
    worst = min if promise.least is not None else max
    rival, ratio = worst(ratios, key=lambda pair: pair[1].median)
    return Found(promise, rival, ratio, comparison)


_USUAL: tuple[tuple[Quantity, Party], ...] = (
    ("cpu", "reference"),
    ("speed", "bentoml"),
    ("speed", "litserve"),
    ("speed", "litserve-tuned"),
    ("speed", "mlserver"),
    ("speed", "infinity"),
)
