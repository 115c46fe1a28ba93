"""Pictures to the uint8 pixels a model wants, as the reference libraries' own pipelines do it, without torch."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from modelmora.errors import LimitExceeded
from runners.inputs.pictures import MAX_PIXELS, decode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modelmora.domain.preprocess import Interpolation, Preprocess

_Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

_LONG = 8
"""Once a whole scaled picture has so many times the pixels that are kept, only the centre is computed."""

_FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def prepare_image(data: bytes, how: Preprocess, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """(height, width, 3) RGB of the bytes of a picture file, resized and cropped or padded as `how` says.

    Pure and safe to call from many threads; Pillow releases the interpreter while it decodes and resizes. With
    `resize: none` the size is the picture's own, and of `longest` without `pad` one side may be shorter. Raises
    InvalidInput, UnsupportedMedia, LimitExceeded.
    """
    return prepare_sized(data, how, max_pixels=max_pixels)[0]


def prepare_sized(
    data: bytes, how: Preprocess, *, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The same, and the height and width that the upright picture had before."""
    image = decode(data, max_pixels=max_pixels)
    try:
        return _fit(image, how), (image.height, image.width)
    except MemoryError as cause:
        raise LimitExceeded(f"not enough memory to resize a picture of {image.width}x{image.height}") from cause


def _fit(image: Image.Image, how: Preprocess) -> NDArray[np.uint8]:
    match how.resize:
        case "shortest":
            return _pixels(_crop(image, how))
        case "longest":
            return _pad(image, how) if how.pad else _pixels(_shrunk(image, how))
        case "exact":
            return _pixels(_squashed(image, how))
        case "none":
            return _pixels(image)


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    # Grey is made colour as late as this: a third of the work for the same pixels.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _crop(image: Image.Image, how: Preprocess) -> Image.Image:
    """The shortest side to its size, then the centre: bit-equal to the library unless the picture is very long."""
    width, height = _scaled_to_shortest(how, image.width, image.height)
    centre = _centre(how, width, height)
    if width * height > _LONG * how.width * how.height:
        left, top, right, bottom = centre
        x, y = max(0, left), max(0, top)
        part = _resize_part(image, (width, height), (x, y, min(right, width), min(bottom, height)), how)
        return part.crop((left - x, top - y, right - x, bottom - y))
    return image.resize((width, height), _FILTERS[how.interpolation]).crop(centre)


def _squashed(image: Image.Image, how: Preprocess) -> Image.Image:
    """Both sides to their sizes; with `shortest` to a square of it, and then the centre."""
    if not how.shortest:
        return image.resize((how.width, how.height), _FILTERS[how.interpolation])
    side = how.shortest
    return image.resize((side, side), _FILTERS[how.interpolation]).crop(_centre(how, side, side))


def _centre(how: Preprocess, width: int, height: int) -> _Box:
    """Half a pixel goes to the even side in torchvision's `CenterCrop`, down in transformers' (image_transforms.py)."""
    across, down = width - how.width, height - how.height
    left, top = (across // 2, down // 2) if how.shortest else (round(across / 2), round(down / 2))
    return left, top, left + how.width, top + how.height


def _scaled_to_shortest(how: Preprocess, width: int, height: int) -> tuple[int, int]:
    """The size before the crop: torchvision's `Resize` and transformers truncate, `ResizeKeepRatio` rounds."""
    if how.shortest or how.width == how.height:
        short = how.shortest or how.width
        long = int(short * max(width, height) / min(width, height))
        return (short, long) if width <= height else (long, short)
    ratio = min(height / how.height, width / how.width)
    return max(how.width, round(width / ratio)), max(how.height, round(height / ratio))


def _resize_part(image: Image.Image, size: tuple[int, int], part: _Box, how: Preprocess) -> Image.Image:
    """What `image.resize(size).crop(part)` gives, without making the rest: 20000x1 would become 4,480,000x224.

    A grey level may differ here and there, since Pillow keeps the borders of `box` in single precision.
    """
    across, down = image.width / size[0], image.height / size[1]
    left, top, right, bottom = part[0] * across, part[1] * down, part[2] * across, part[3] * down
    # The filter reaches two (scaled) pixels beyond; cut generously, for speed alone.
    reach_x, reach_y = ceil(3 * max(1, across)), ceil(3 * max(1, down))
    x, y = max(0, int(left) - reach_x), max(0, int(top) - reach_y)
    near = image.crop((x, y, min(image.width, ceil(right) + reach_x), min(image.height, ceil(bottom) + reach_y)))
    box = (left - x, top - y, min(right - x, near.width), min(bottom - y, near.height))
    return near.resize((part[2] - part[0], part[3] - part[1]), _FILTERS[how.interpolation], box=box)


def _shrunk(image: Image.Image, how: Preprocess) -> Image.Image:
    """The longest side to its size, the other one as it comes: segment_anything's `ResizeLongestSide`."""
    scale = min(how.height / image.height, how.width / image.width)
    width, height = max(1, int(image.width * scale + 0.5)), max(1, int(image.height * scale + 0.5))
    return image.resize((width, height), _FILTERS[how.interpolation])


def _pad(image: Image.Image, how: Preprocess) -> NDArray[np.uint8]:
    """The longest side to its size, centred on `fill`; a side that would vanish keeps one pixel."""
    ratio = max(image.height / how.height, image.width / how.width)
    width = max(1, min(how.width, round(image.width / ratio)))
    height = max(1, min(how.height, round(image.height / ratio)))
    canvas = np.full((how.height, how.width, 3), how.fill, dtype=np.uint8)
    left, top = (how.width - width) // 2, (how.height - height) // 2
    scaled = image.resize((width, height), _FILTERS[how.interpolation])
    canvas[top : top + height, left : left + width] = _pixels(scaled)
    return canvas
