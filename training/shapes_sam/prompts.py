"""What is asked of a scene in training: points in a thing and beside it, boxes around it, some of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Form = Literal["point", "points", "box", "box and point"]
FORMS: tuple[Form, ...] = ("point", "points", "box", "box and point")
_SHARES = (0.45, 0.2, 0.25, 0.1)
_SMALLEST = 60
"""Pixels of a mask that is asked for."""

_OF_GROUND = 0.06


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Prompts of one form on a picture, and the masks (prompts, side, side) that they mean."""

    masks: NDArray[np.bool_]
    points: tuple[torch.Tensor, torch.Tensor] | None
    boxes: torch.Tensor | None


def mask_of(labels: NDArray[np.uint8], wholes: NDArray[np.uint8], thing: int) -> NDArray[np.bool_]:
    """All that is seen of a thing and of its parts."""
    return np.asarray((labels == thing) | ((wholes[labels] == thing) & (labels > 0)))


def ask(
    rng: np.random.Generator,
    labels: NDArray[np.uint8],
    wholes: NDArray[np.uint8],
    asked: NDArray[np.bool_],
    *,
    count: int,
) -> Asked | None:
    """So many prompts for things of a picture, or None where there is none."""
    seen = np.bincount(labels.ravel(), minlength=len(wholes))
    things = [int(thing) for thing in np.flatnonzero(asked & (seen >= _SMALLEST)) if thing]
    if not things:
        return None
    form = str(rng.choice(FORMS, p=_SHARES))
    chosen = [things[place % len(things)] for place in rng.permutation(max(count, len(things)))[:count]]
    if form == "point" and seen[0] > _SMALLEST and rng.random() < _OF_GROUND * count:
        chosen[0] = 0
    known = {thing: mask_of(labels, wholes, thing) for thing in set(chosen)}
    masks = np.stack([known[thing] for thing in chosen])
    points = None if form == "box" else _points(rng, masks, 1 if form != "points" else int(rng.integers(2, 4)))
    return Asked(masks, points, _boxes(rng, masks) if form.startswith("box") else None)


def place_in(rng: np.random.Generator, region: NDArray[np.bool_]) -> tuple[int, int]:
    """x and y of any pixel of a region; of an empty one, of the picture."""
    places = np.flatnonzero(region)
    place = int(places[rng.integers(len(places))]) if len(places) else int(rng.integers(region.size))
    return place % region.shape[1], place // region.shape[1]


def _points(rng: np.random.Generator, masks: NDArray[np.bool_], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    places = np.zeros((len(masks), count, 2), dtype=np.float32)
    kinds = np.ones((len(masks), count), dtype=np.int64)
    for row, mask in enumerate(masks):
        for column in range(count):
            if column and rng.random() < 0.35:
                kinds[row, column] = 0
                places[row, column] = place_in(rng, _around(mask) & ~mask)
            elif not column and rng.random() < 0.4:
                places[row, column] = _middle(rng, mask)
            else:
                places[row, column] = place_in(rng, mask)
    return torch.from_numpy(places), torch.from_numpy(kinds)


def _middle(rng: np.random.Generator, mask: NDArray[np.bool_]) -> tuple[int, int]:
    """About where one would click: near the center, if that is in the mask."""
    rows, columns = np.nonzero(mask)
    spread = 0.15 * np.sqrt(len(rows))
    x, y = columns.mean() + rng.normal() * spread, rows.mean() + rng.normal() * spread
    nearest = int(np.argmin((columns - x) ** 2 + (rows - y) ** 2))
    return int(columns[nearest]), int(rows[nearest])


def _around(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The box of a mask, half as large again on each side."""
    left, top, right, bottom = box_of(mask)
    across, down = (right - left) // 2 + 4, (bottom - top) // 2 + 4
    near = np.zeros_like(mask)
    near[max(0, top - down) : bottom + down, max(0, left - across) : right + across] = True
    return near


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom, the last two exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _boxes(rng: np.random.Generator, masks: NDArray[np.bool_]) -> torch.Tensor:
    """Each off by about a tenth of its size, 20 pixels at most: as in the paper."""
    boxes = np.array([box_of(mask) for mask in masks], dtype=np.float32)
    sizes = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    off = np.clip(rng.standard_normal(boxes.shape) * 0.05 * sizes, -20, 20)
    return torch.from_numpy(np.clip(boxes + off, 0, masks.shape[-1]).astype(np.float32))
