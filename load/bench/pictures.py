"""Distinct 640x480 JPEGs cut from the photographs that scikit-image ships."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path

from PIL import Image

SIZE = (640, 480)
COUNT = 64
QUALITY = 85
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
_START_OF_IMAGE = b"\xff\xd8"
_COMMENT = b"\xff\xfe\x00\x0a"  # the marker and the length of the segment: itself and eight digits


def draw(folder: Path, *, count: int = COUNT, seed: int = 0) -> list[Path]:
    """Writes the pictures, the same ones for the same seed, and returns their paths; needs scikit-image."""
    from skimage import data  # noqa: PLC0415 (only the harness itself needs it, its load processes read files)

    sources = [Path(data.data_dir) / name for name in PHOTOGRAPHS]
    photographs = [Image.open(path).convert("RGB") for path in sources if path.exists()]
    if not photographs:
        raise FileNotFoundError(f"none of {', '.join(PHOTOGRAPHS)} in {data.data_dir}; reinstall scikit-image")
    folder.mkdir(parents=True, exist_ok=True)
    dice = random.Random(seed)
    paths = [folder / f"{number:03}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(_cut(photographs[number % len(photographs)], dice))
    return paths


def read(folder: Path) -> list[bytes]:
    """The pictures of a folder, by name."""
    return [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]


def unique(jpeg: bytes, number: int) -> bytes:
    """The same picture as bytes nobody sent before, so that no cache can answer: a comment with `number`."""
    return b"".join(unique_parts(jpeg, number))


def unique_parts(jpeg: bytes, number: int) -> tuple[bytes, bytes]:
    """`unique` in two parts, the comment and the untouched rest; the length depends on the picture alone."""
    return _START_OF_IMAGE + _COMMENT + b"%08x" % (number & 0xFFFFFFFF), jpeg[2:]


class Fresh:
    """Pictures of `draw` in turn, each as bytes nobody sent before."""

    def __init__(self, folder: Path) -> None:
        self._jpegs = read(draw(folder)[0].parent)
        self._numbers = itertools.count()

    def next(self) -> bytes:
        number = next(self._numbers)
        return unique(self._jpegs[number % len(self._jpegs)], number)

    def some(self, count: int) -> list[bytes]:
        return [self.next() for _ in range(count)]


def _cut(photograph: Image.Image, dice: random.Random) -> bytes:
    """A random 4:3 part of at least 60 % of the photograph, perhaps mirrored, as a JPEG."""
    width = min(photograph.width, photograph.height * SIZE[0] / SIZE[1]) * dice.uniform(0.6, 1.0)
    height = width * SIZE[1] / SIZE[0]
    left, top = dice.uniform(0, photograph.width - width), dice.uniform(0, photograph.height - height)
    part = photograph.resize(SIZE, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
    if dice.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sink = io.BytesIO()
    part.save(sink, "JPEG", quality=QUALITY)
    return sink.getvalue()
