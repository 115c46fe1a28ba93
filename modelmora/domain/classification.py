"""What a classifier says of a picture: scores of labels as they come, and the classes that are answered."""

from __future__ import annotations

from dataclasses import dataclass

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
