"""Several vectors as one question: their sum by weight, which leads towards some and away from others."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence

import numpy as np

from modelmora.errors import ValidationFailed

MOST_WEIGHT = 1e6
_NOTHING = 1e-6
"""Of the weights' sum: what is shorter is rounding, and has no direction of its own."""


def check_weight(weight: object, *, field: str) -> float:
    """Raises ValidationFailed for what is no weight."""
    plain = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not plain or not math.isfinite(weight) or not -MOST_WEIGHT <= weight <= MOST_WEIGHT:  # type: ignore[arg-type, operator] # it is a number by now
        expected = f"a number from -{MOST_WEIGHT:g} to {MOST_WEIGHT:g}"
        raise ValidationFailed("not a weight", field=field, found=reprlib.repr(weight), expected=expected)
    return float(weight)  # type: ignore[arg-type] # as above


def combined(vectors: Sequence[tuple[bytes, float]]) -> bytes:
    """The L2-normalised sum of the vectors (little-endian float32 of one length, at least one), each normalised and
    multiplied by its weight; reckoned in doubles.

    Raises ValidationFailed where nothing is left: a vector without length, or vectors that take each other away.
    """
    total = np.sum([_unit(data) * weight for data, weight in vectors], axis=0)
    length = float(np.linalg.norm(total))
    if length <= _NOTHING * sum(abs(weight) for _, weight in vectors):
        said = "the parts of the question take each other away, and nothing is left to search by"
        raise ValidationFailed(said, field="queries", found="a vector of length 0", expected="other weights or parts")
    joined: bytes = (total / length).astype("<f4").tobytes()
    return joined


def _unit(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    row = np.frombuffer(data, "<f4").astype(np.float64)
    length = float(np.linalg.norm(row))
    if not math.isfinite(length) or length == 0.0:
        found = "length 0" if length == 0.0 else "numbers that are not finite"
        raise ValidationFailed("a vector without direction", field="vector", found=found, expected="finite numbers")
    return row / length
