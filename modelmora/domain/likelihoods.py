"""From logits to the classes that are answered. numpy, which the SDK does not need: `classification` has the values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modelmora.domain.classification import Class
from modelmora.domain.description import Scoring


def likelihoods(logits: NDArray[np.float32], scoring: Scoring) -> NDArray[np.float64]:
    """(labels,) finite logits to 0..1: over all labels together (softmax) or of each by itself (sigmoid)."""
    values = logits.astype(np.float64)
    if scoring.activation == "sigmoid":
        powers = np.exp(-np.abs(values))  # at most 1: never too large
        return np.where(values >= 0, 1.0, powers) / (1.0 + powers)
    powers = np.exp(values - values.max())
    whole: NDArray[np.float64] = powers / powers.sum()
    return whole


def ranked(scores: NDArray[np.float64], labels: Sequence[str], *, top_k: int, threshold: float) -> tuple[Class, ...]:
    """At most `top_k` classes of at least `threshold`, the likeliest first, equal ones in their order."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    return tuple(Class(int(i), labels[i], float(scores[i])) for i in order if scores[i] >= threshold)
