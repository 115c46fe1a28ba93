"""Which model a request names: a few are asked for often, the others seldom, the same for the same number."""

from __future__ import annotations

import random
from functools import cache

EXPONENT = 1.0
_PERIOD = 65_536


def draw(number: int, models: int) -> int:
    """The index, 0 the one most asked for: the k-th with a weight of 1/k."""
    return _draws(models)[number % _PERIOD]


@cache
def _draws(models: int) -> list[int]:
    weights = [1 / place**EXPONENT for place in range(1, models + 1)]
    return random.Random(0).choices(range(models), weights, k=_PERIOD)
