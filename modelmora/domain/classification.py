"""From the scores of labels to the classes that are answered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modelmora.domain.description import Scoring
from modelmora.domain.inference import Timings, Vector


@dataclass(frozen=True, slots=True)
class Scores:
    """A classifier's logits for one picture, in the order of its labels."""

    logits: Vector
    timings: Timings


@dataclass(frozen=True, slots=True)
class Class:
    """One label and how likely it is, 0 to 1; `index` is its place among the labels."""

    index: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classified:
    """The classes of one picture, the likeliest first, and what they cost."""

    classes: tuple[Class, ...]
    timings: Timings


def likelihoods(logits: Sequence[float], scoring: Scoring) -> list[float]:
    """0 to 1: over all labels together (softmax) or of each by itself (sigmoid)."""
    if scoring.activation == "sigmoid":
        return [_sigmoid(value) for value in logits]
    highest = max(logits)
    powers = [math.exp(value - highest) for value in logits]
    whole = math.fsum(powers)
    return [power / whole for power in powers]


def ranked(scores: Sequence[float], labels: Sequence[str], *, top_k: int, threshold: float) -> tuple[Class, ...]:
    """At most `top_k` classes (0: all) of at least `threshold`, the likeliest first, equal ones in their order."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: top_k or None]
    return tuple(Class(index, labels[index], scores[index]) for index in order if scores[index] >= threshold)


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    power = math.exp(value)
    return power / (1 + power)
