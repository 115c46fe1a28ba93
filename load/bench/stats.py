"""The arithmetic of the harness: percentiles, spreads, paired ratios, when a point is stable, how long a window is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIN_PAIRS = 5
TOLERANCE = 0.10
"""A point is stable when the middle half of its paired ratios lies within this share of their median."""


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of `values` lie, interpolated; raises ValueError on none."""
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class Spread:
    """How some values lie: their median, their ends and their quartiles."""

    count: int
    median: float
    low: float
    high: float
    lower_quartile: float
    upper_quartile: float

    @property
    def middle_half(self) -> float:
        """The interquartile range as a share of the median."""
        return (self.upper_quartile - self.lower_quartile) / self.median if self.median else math.inf


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError when there are none."""
    return Spread(
        len(values),
        percentile(values, 0.5),
        percentile(values, 0.0),
        percentile(values, 1.0),
        percentile(values, 0.25),
        percentile(values, 0.75),
    )


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """One ratio a pair; raises ValueError when the pairs do not match or a neighbour measured nothing."""
    if any(not value > 0 for value in theirs):
        raise ValueError("a ratio needs a neighbour that measured something")
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def is_stable(ratios: Spread, *, pairs: int = MIN_PAIRS, tolerance: float = TOLERANCE) -> bool:
    """Whether there are enough pairs and they agree well enough to be called a number."""
    return ratios.count >= pairs and ratios.middle_half <= tolerance


def window_seconds(batch_s: float, *, batches: int = 24, least_s: float = 25.0) -> float:
    """A window is as long as so many batches of the measured length, and never shorter than `least_s`.

    24 rather than the 20 it must hold, because the machine may be slower by then.
    """
    return max(least_s, batches * batch_s)
