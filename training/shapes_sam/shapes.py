"""Outlines of things, as how far the edge is from the center in each direction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DIRECTIONS = 360
_ANGLES = np.linspace(0, 2 * math.pi, _DIRECTIONS, endpoint=False)
_KINDS = ("disc", "ellipse", "polygon", "box", "bar", "star", "blob", "ring", "pair")
_SHARES = (0.2, 0.14, 0.12, 0.12, 0.05, 0.06, 0.19, 0.05, 0.07)


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """`reach` (360,) of 0..1 by direction, the circle `hole` in it left out; `other` is joined at `offset`."""

    reach: NDArray[np.float64]
    hole: float = 0.0
    other: NDArray[np.float64] | None = None
    offset: tuple[float, float] = (0.0, 0.0)

    def depth(self, radius: float) -> NDArray[np.float32]:
        """How many pixels each pixel is within the edge, (2n + 1, 2n + 1) about the center; negative outside."""
        half = math.ceil(radius * (1 + math.hypot(*self.offset))) + 2
        down, across = np.mgrid[-half : half + 1, -half : half + 1] / radius
        within = _within(self.reach, down, across)
        if self.other is not None:
            within = np.maximum(within, _within(self.other, down - self.offset[0], across - self.offset[1]))
        if self.hole:
            within = np.minimum(within, np.hypot(down, across) - self.hole)
        return (within * radius).astype(np.float32)


def outline(rng: np.random.Generator) -> Outline:
    kind = str(rng.choice(_KINDS, p=_SHARES))
    if kind == "ring":
        return Outline(_reach(rng, "disc"), hole=rng.uniform(0.35, 0.7))
    if kind == "pair":
        one, other = (str(rng.choice(_KINDS[:7])) for _ in range(2))
        angle, apart = rng.uniform(0, 2 * math.pi), rng.uniform(0.3, 0.7)
        offset = (apart * math.sin(angle), apart * math.cos(angle))
        return Outline(_reach(rng, one), other=_reach(rng, other) * rng.uniform(0.4, 0.9), offset=offset)
    return Outline(_reach(rng, kind))


def _reach(rng: np.random.Generator, kind: str) -> NDArray[np.float64]:
    """By direction, the farthest 1."""
    turned = _ANGLES + rng.uniform(0, 2 * math.pi)
    match kind:
        case "disc":
            reach = np.ones(_DIRECTIONS)
        case "ellipse":
            reach = _superellipse(turned, aspect=rng.uniform(0.35, 0.9), power=2)
        case "box":
            reach = _superellipse(turned, aspect=rng.uniform(0.35, 1), power=rng.uniform(3, 16))
        case "bar":
            reach = _superellipse(turned, aspect=rng.uniform(0.12, 0.3), power=rng.uniform(2, 12))
        case "polygon":
            reach = _polygon(turned, sides=int(rng.integers(3, 8)))
        case "star":
            points, inner = int(rng.integers(4, 8)), rng.uniform(0.4, 0.65)
            wave = np.abs((turned * points / math.pi) % 2 - 1)
            reach = inner + (1 - inner) * wave**1.3
        case _:
            reach = _blob(rng, turned)
    if kind in ("disc", "polygon", "box") and rng.random() < 0.3:
        reach = reach * (1 + 0.04 * _blob(rng, turned))
    return np.asarray(reach / reach.max())


def _superellipse(turned: NDArray[np.float64], *, aspect: float, power: float) -> NDArray[np.float64]:
    across, down = np.abs(np.cos(turned)), np.abs(np.sin(turned)) / aspect
    return np.asarray((across**power + down**power) ** (-1 / power))


def _polygon(turned: NDArray[np.float64], *, sides: int) -> NDArray[np.float64]:
    wedge = 2 * math.pi / sides
    return math.cos(wedge / 2) / np.cos(turned % wedge - wedge / 2)


def _blob(rng: np.random.Generator, turned: NDArray[np.float64]) -> NDArray[np.float64]:
    waves = np.arange(1, 8)
    heights = rng.standard_normal(7) * rng.uniform(0.1, 0.4) / waves**0.8
    shifts = rng.uniform(0, 2 * math.pi, 7)
    return np.asarray(np.exp((heights[:, None] * np.cos(waves[:, None] * turned + shifts[:, None])).sum(axis=0)))


def _within(reach: NDArray[np.float64], down: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.float64]:
    direction = np.arctan2(down, across) % (2 * math.pi)
    places = (direction * (_DIRECTIONS / (2 * math.pi))).astype(np.intp) % _DIRECTIONS
    return reach[places] - np.hypot(down, across)
