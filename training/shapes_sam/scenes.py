"""Scenes with the truth about them: things of many shapes and materials on some ground, under some light."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.shapes_sam.materials import Pixels, ground, noise, substance
from training.shapes_sam.shapes import Outline, outline

SIDE = 384
MOST = 32
"""Labels, from 0."""

OUTSIDE = MOST - 1
"""The label of what is beside the picture; no thing has it."""

_SMALLEST = 40
_SEEN = 0.55
"""Things of fewer pixels, or of which less than this share is to be seen, are not asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """`pixels` (side, side, 3); `labels` (side, side) say which thing is where, 0 the ground, things from 1.

    `wholes` (MOST,): of which thing it is a part, itself where of none. `asked` (MOST,): whether enough of it
    is to be seen.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    wholes: NDArray[np.uint8]
    asked: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the center is, in pixels, the radius, and of which thing it is a part (0: of none)."""

    down: float
    across: float
    radius: float
    whole: int = 0


def draw(seed: int, number: int) -> Scene:
    """The same for the same two."""
    rng = np.random.default_rng((seed, number))
    canvas = _Canvas(rng)
    if rng.random() < 0.3:
        _tray(canvas, rng)
    else:
        _heap(canvas, rng)
    return canvas.finish(rng)


def _heap(canvas: _Canvas, rng: np.random.Generator) -> None:
    """A few things anywhere, one on the other, some with parts on them."""
    for _ in range(int(rng.integers(2, 13))):
        radius = SIDE * math.exp(rng.uniform(math.log(0.03), math.log(0.33)))
        down, across = rng.uniform(-0.02, 1.02, 2) * SIDE
        whole = canvas.put(_Place(down, across, radius), outline(rng), rng)
        if whole and radius > 0.1 * SIDE and rng.random() < 0.35:
            for _ in range(int(rng.integers(1, 4))):
                shift = rng.uniform(-0.45, 0.45, 2) * radius
                part = _Place(down + shift[0], across + shift[1], radius * rng.uniform(0.15, 0.4), whole)
                canvas.put(part, outline(rng), rng)


def _tray(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Rows of things that are alike, apart or touching."""
    rows, columns = (int(count) for count in rng.integers(2, 6, 2))
    pitch = SIDE / max(rows, columns)
    like = outline(rng)
    alike = rng.random() < 0.6
    top, left = (SIDE - rows * pitch) / 2, (SIDE - columns * pitch) / 2
    for row in range(rows):
        for column in range(columns):
            if rng.random() < 0.1:
                continue
            jitter = rng.uniform(-0.08, 0.08, 2) * pitch
            place = _Place(
                top + (row + 0.5) * pitch + jitter[0],
                left + (column + 0.5) * pitch + jitter[1],
                pitch * rng.uniform(0.25, 0.52),
            )
            canvas.put(place, like if alike else outline(rng), rng)


class _Canvas:
    """A scene in the making."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._pixels = np.array(ground(rng, SIDE, SIDE), dtype=np.float32)
        self._labels = np.zeros((SIDE, SIDE), dtype=np.uint8)
        self._wholes, self._areas = [0], [0]
        self._shadow = rng.uniform(0.2, 0.7) if rng.random() < 0.5 else 0.0
        self._light = rng.uniform(-1, 1, 2)
        self._lit = rng.uniform(0, 0.5) if rng.random() < 0.7 else 0.0
        self._rim = rng.uniform(-0.5, 0.5) if rng.random() < 0.4 else 0.0
        self._common = rng.random() < 0.3
        self._substance: Pixels | None = None

    def put(self, place: _Place, shape: Outline, rng: np.random.Generator) -> int:
        """The label of the new thing, 0 where it does not fit into the picture."""
        depth = shape.depth(place.radius)
        half = depth.shape[0] // 2
        top, left = round(place.down) - half, round(place.across) - half
        rows, columns = (slice(max(0, start), max(0, min(SIDE, start + len(depth)))) for start in (top, left))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return 0
        depth = depth[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        if place.whole:
            depth = np.where(self._labels[rows, columns] == place.whole, depth, -1)
        inside = depth > 0
        if len(self._wholes) >= OUTSIDE or not inside.any():
            return 0
        label = len(self._wholes)
        self._cast_shadow(inside, (rows, columns), place.radius)
        under = self._pixels[rows, columns]
        made = self._made(under, depth, inside, place.radius, rng)
        cover = np.clip(depth + 0.5, 0, 1)[..., None]
        self._pixels[rows, columns] = under * (1 - cover) + made * cover
        self._labels[rows, columns][inside] = label
        self._wholes.append(place.whole or label)
        self._areas.append(int(inside.sum()))
        return label

    def finish(self, rng: np.random.Generator) -> Scene:
        counts = np.bincount(self._labels.ravel(), minlength=MOST)
        wholes = np.arange(MOST, dtype=np.uint8)
        wholes[: len(self._wholes)] = self._wholes
        areas = np.full(MOST, np.inf)
        areas[: len(self._areas)] = self._areas
        whole_counts = np.bincount(wholes, weights=counts, minlength=MOST)
        asked = (counts >= _SMALLEST) & (np.maximum(counts, whole_counts) >= _SEEN * areas)
        return Scene(_photographed(self._pixels, rng), self._labels, wholes, asked)

    def _made(
        self, under: Pixels, depth: Pixels, inside: NDArray[np.bool_], radius: float, rng: np.random.Generator
    ) -> Pixels:
        """The thing's own pixels, of which those inside differ from what is under them."""
        height, width = inside.shape
        for _ in range(4):
            made = self._of(height, width, rng)
            if np.abs(made[inside].mean(axis=0) - under[inside].mean(axis=0)).max() > 0.08:
                break
        shade = np.ones((height, width), dtype=np.float32)
        if self._lit:
            rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            shade += (self._lit * (self._light[0] * rows + self._light[1] * columns)).astype(np.float32)
        if self._rim:
            shade += np.float32(self._rim) * (depth < max(1.5, radius * 0.12))
        return np.asarray(made * shade[..., None], dtype=np.float32)

    def _of(self, height: int, width: int, rng: np.random.Generator) -> Pixels:
        """Something new, or from the same piece as the things before."""
        if not self._common:
            return substance(rng, height, width)
        if self._substance is None:
            self._substance = substance(rng, 2 * SIDE, 2 * SIDE)
        top, left = rng.integers(2 * SIDE - height), rng.integers(2 * SIDE - width)
        return self._substance[top : top + height, left : left + width] * np.float32(rng.uniform(0.6, 1.4))

    def _cast_shadow(self, inside: NDArray[np.bool_], where: tuple[slice, slice], radius: float) -> None:
        if not self._shadow:
            return
        cast = np.zeros((SIDE, SIDE), dtype=np.uint8)
        cast[where][inside] = 255
        shift = -self._light * min(radius * 0.2, 8)
        soft = Image.fromarray(cast).filter(ImageFilter.BoxBlur(1 + min(radius * 0.15, 8)))
        moved = soft.transform(soft.size, Image.Transform.AFFINE, (1, 0, -shift[1], 0, 1, -shift[0]))
        self._pixels *= 1 - np.float32(self._shadow) * (np.asarray(moved, dtype=np.float32) / 255)[..., None]


def _photographed(pixels: Pixels, rng: np.random.Generator) -> NDArray[np.uint8]:
    """As a camera would have it: uneven light, some blur, some noise, in gray now and then."""
    if rng.random() < 0.5:
        light = 1 + np.float32(rng.uniform(0.05, 0.3)) * noise(rng, SIDE, SIDE, 2)
        pixels = pixels * light[..., None]
    pixels = np.clip(pixels, 0, 1) ** np.float32(math.exp(rng.uniform(-0.4, 0.4)))
    if rng.random() < 0.35:
        pixels = np.broadcast_to(pixels.mean(axis=2, keepdims=True), pixels.shape)
    picture = Image.fromarray((pixels * 255).astype(np.uint8))
    if rng.random() < 0.6:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6)))
    if rng.random() < 0.6:
        grain = rng.standard_normal((SIDE, SIDE, int(rng.choice((1, 3)))), dtype=np.float32)
        noisy = np.asarray(picture, dtype=np.float32) + np.float32(rng.uniform(1, 14)) * grain
        return np.clip(noisy, 0, 255).astype(np.uint8)
    return np.asarray(picture)
