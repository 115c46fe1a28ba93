"""How far an item is: counted in bytes, layers or items, never by a clock, as one percentage that never falls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Stage = Literal["queued", "preprocessing", "loading", "inference", "done"]

SPANS: Mapping[Stage, tuple[float, float]] = MappingProxyType(
    {
        "queued": (0.0, 0.0),
        "preprocessing": (0.0, 10.0),
        "loading": (10.0, 60.0),
        "inference": (60.0, 100.0),
        "done": (100.0, 100.0),
    }
)
"""Each stage's part of the whole, in percent, in the order they are passed; a stage may be left out."""


@dataclass(frozen=True, slots=True)
class Step:
    """`done` of `total` within a stage: items preprocessed, bytes loaded, layers computed; total 0: not known."""

    stage: Stage
    done: int = 0
    total: int = 0

    def percent(self) -> float:
        """Of all stages, 0 to 100."""
        start, end = SPANS[self.stage]
        share = min(self.done / self.total, 1.0) if self.total else 0.0
        return start + (end - start) * share


class Gauge:
    """The percentage of one item over its steps: a step back (another try, another worker) leaves it where it is."""

    def __init__(self) -> None:
        self.percent = 0.0

    def take(self, step: Step) -> float:
        """The percentage after the step."""
        self.percent = max(self.percent, step.percent())
        return self.percent
