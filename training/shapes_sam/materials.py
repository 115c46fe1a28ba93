"""What grounds and things are made of: (height, width, 3) of 0..1, drawn from a generator of random numbers."""

from __future__ import annotations

import colorsys
import math
from functools import cache

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

Pixels = NDArray[np.float32]

PHOTOGRAPHS = (
    "brick", "camera", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "microaneurysms", "moon",
    "page", "retina", "stereo_motorcycle",
)  # fmt: skip
"""Those of scikit-image's that are cut up in training, with scikit-learn's two; no other is ever seen in training."""

_KINDS = ("flat", "gradient", "clouds", "stripes", "grain", "relief", "photograph")
_OF_GROUNDS = (1, 2, 3, 1, 2, 1, 5)
_OF_THINGS = (3, 3, 2, 1.5, 1.5, 2.5, 2.5)


def ground(rng: np.random.Generator, height: int, width: int) -> Pixels:
    return _material(rng, height, width, _OF_GROUNDS)


def substance(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Of a thing."""
    return _material(rng, height, width, _OF_THINGS)


def noise(rng: np.random.Generator, height: int, width: int, cells: float) -> Pixels:
    """Smooth, about `cells` bumps along the longer side, of variance about 1."""
    longest = max(height, width)
    rows, columns = (max(2, round(cells * length / longest)) + 3 for length in (height, width))
    coarse = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def color(rng: np.random.Generator) -> Pixels:
    """Any; a third of them nearly gray."""
    saturation = rng.uniform(0, 0.12) if rng.random() < 0.35 else rng.uniform(0.1, 1)
    return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.05, 1)), dtype=np.float32)


def _material(rng: np.random.Generator, height: int, width: int, shares: tuple[float, ...]) -> Pixels:
    kind = rng.choice(_KINDS, p=np.array(shares) / sum(shares))
    if kind == "photograph":
        return _photograph(rng, height, width)
    if kind == "relief":
        return _relief(rng, height, width)
    if kind == "flat":
        return np.broadcast_to(color(rng), (height, width, 3))
    if kind == "grain":
        speckle = rng.standard_normal((height, width, 1), dtype=np.float32)
        return color(rng) + np.float32(rng.uniform(0.02, 0.15)) * speckle
    one, other = color(rng), color(rng)
    if rng.random() < 0.6:
        other = one + (other - one) * np.float32(rng.uniform(0.1, 0.5))
    share = _share(rng, height, width, str(kind))[..., None]
    return one * (1 - share) + other * share


def _share(rng: np.random.Generator, height: int, width: int, kind: str) -> Pixels:
    """How much of the second color is where, (height, width) of 0..1."""
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    along = (math.cos(angle) * columns + math.sin(angle) * rows).astype(np.float32)
    if kind == "gradient":
        return np.asarray(np.clip(along / 2 + 0.5, 0, 1))
    if kind == "stripes":
        waves = np.sin(along * np.float32(rng.uniform(4, 40)) + np.float32(rng.uniform(0, 6)))
        return np.asarray(np.clip(waves * rng.choice((0.5, 4.0)) + 0.5, 0, 1), dtype=np.float32)
    clouds = noise(rng, height, width, rng.uniform(2, 8)) + 0.5 * noise(rng, height, width, rng.uniform(8, 40))
    return np.asarray(np.clip(clouds * np.float32(rng.uniform(0.3, 1.5)) + 0.5, 0, 1))


def _relief(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """A surface with bumps under light from a side, as on a coin."""
    high = noise(rng, height, width, rng.uniform(2, 6)) + 0.6 * noise(rng, height, width, rng.uniform(6, 16))
    slope = (np.roll(high, 1, axis=0) - np.roll(high, -1, axis=0)) * rng.uniform(-1, 1)
    slope += (np.roll(high, 1, axis=1) - np.roll(high, -1, axis=1)) * rng.uniform(-1, 1)
    slope *= rng.uniform(0.08, 0.3) / (slope.std() + 1e-6)
    return (color(rng) * (1 + np.clip(slope, -0.8, 0.8)[..., None])).astype(np.float32)


def _photograph(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """A part of one, now and then of other colors."""
    pictures = _photographs()
    picture = pictures[rng.integers(len(pictures))]
    zoom = rng.uniform(0.25, 1) * min(picture.width / width, picture.height / height)
    across, down = max(2, int(width * zoom)), max(2, int(height * zoom))
    left, top = int(rng.integers(picture.width - across + 1)), int(rng.integers(picture.height - down + 1))
    part = picture.resize((width, height), Image.Resampling.BILINEAR, (left, top, left + across, top + down))
    pixels = np.asarray(part, dtype=np.float32) / 255
    if rng.random() < 0.4:
        pixels = pixels[..., rng.permutation(3)]
    if rng.random() < 0.3:
        pixels = pixels.mean(axis=2, keepdims=True) * (0.4 + color(rng))
    return np.asarray(pixels, dtype=np.float32)


@cache
def _photographs() -> tuple[Image.Image, ...]:
    shown = [getattr(skimage.data, name)() for name in PHOTOGRAPHS]
    flat = [picture[0] if isinstance(picture, tuple) else picture for picture in shown]
    pictures = [Image.fromarray(pixels).convert("RGB") for pixels in (*flat, *load_sample_images().images)]
    for picture in pictures:
        picture.thumbnail((1200, 1200))
    return tuple(pictures)
