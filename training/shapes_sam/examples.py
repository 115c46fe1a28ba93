"""The training scenes, drawn once and held in memory, and what a step sees of them."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.shapes_sam.network import PATCH, TOKENS, Part
from training.shapes_sam.prompts import Asked, ask
from training.shapes_sam.scenes import MOST, OUTSIDE, SIDE, Scene, draw

_PROMPTS = 8
"""On each picture."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Every training scene; shapes as in `Scene`, one more in front."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    wholes: NDArray[np.uint8]
    asked: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pixels)

    def scene(self, place: int) -> Scene:
        return Scene(self.pixels[place], self.labels[place], self.wholes[place], self.asked[place])


def collect(count: int, *, seed: int, workers: int) -> Pool:
    """The same for a seed, however many workers draw."""
    pool = Pool(
        np.empty((count, SIDE, SIDE, 3), np.uint8),
        np.empty((count, SIDE, SIDE), np.uint8),
        np.empty((count, MOST), np.uint8),
        np.empty((count, MOST), np.bool_),
    )
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        drawn = executor.map(partial(draw, seed), range(count), chunksize=50)
        for place, scene in enumerate(drawn):
            pool.pixels[place], pool.labels[place] = scene.pixels, scene.labels
            pool.wholes[place], pool.asked[place] = scene.wholes, scene.asked
    return pool


@dataclass(frozen=True, slots=True)
class Example:
    """Normalized pixels (1, 3, side, side), their labels (side, side), and what is asked of them."""

    pixels: torch.Tensor
    labels: NDArray[np.uint8]
    asked: Asked


def example(rng: np.random.Generator, network: Any, scene: Scene, part: Part) -> Example | None:
    """Of a part of a scene; None where it shows nothing. A whole scene may leave some of the canvas empty."""
    pixels, labels = seen(rng, network, scene, part)
    height, width = _frame(rng, len(labels)) if part.tokens == TOKENS else labels.shape
    inside = np.zeros(labels.shape, dtype=bool)
    inside[:height, :width] = True
    labels = np.where(inside, labels, OUTSIDE)
    asked = ask(rng, labels, scene.wholes, scene.asked, count=_PROMPTS)
    return None if asked is None else Example(pixels * torch.from_numpy(inside), labels, asked)


def seen(rng: np.random.Generator, network: Any, scene: Scene, part: Part) -> tuple[torch.Tensor, NDArray[np.uint8]]:
    """Normalized pixels and labels of a part of a scene: turned, mirrored and its colors swapped at random."""
    pixels, labels = _turned(rng, scene)
    length = part.tokens * PATCH
    top, left = rng.integers(SIDE - length + 1, size=2)
    where = (slice(top, top + length), slice(left, left + length))
    given = torch.from_numpy(np.ascontiguousarray(pixels[where][..., rng.permutation(3)].transpose(2, 0, 1))).float()
    return ((given - network.pixel_mean) / network.pixel_std).unsqueeze(0), labels[where]


def _turned(rng: np.random.Generator, scene: Scene) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    pixels, labels = np.rot90(scene.pixels, turns), np.rot90(scene.labels, turns)
    return (pixels[:, ::-1], labels[:, ::-1]) if mirrored else (pixels, labels)


def _frame(rng: np.random.Generator, length: int) -> tuple[int, int]:
    """Height and width of the picture in a square canvas; the rest of that is empty."""
    shorter = round(length * rng.uniform(0.5, 1)) if rng.random() < 0.6 else length
    return (shorter, length) if rng.random() < 0.7 else (length, shorter)
