"""Pictures to the uint8 pixels a model wants, as open_clip's own pipeline does it, without torch."""

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
    `resize: none` the size is the picture's own. Raises InvalidInput, UnsupportedMedia, LimitExceeded.
    """
    image = decode(data, max_pixels=max_pixels)
    try:
        return _fit(image, how)
    except MemoryError as cause:
        raise LimitExceeded(f"not enough memory to resize a picture of {image.width}x{image.height}") from cause


def _fit(image: Image.Image, how: Preprocess) -> NDArray[np.uint8]:
    match how.resize:
        case "shortest":
            return _pixels(_crop(image, how))
        case "longest":
            return _pad(image, how)
        case "exact":
            return _pixels(image.resize((how.width, how.height), _FILTERS[how.interpolation]))
        case "none":
            return _pixels(image)


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    # Grey is made colour as late as this: a third of the work for the same pixels.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _crop(image: Image.Image, how: Preprocess) -> Image.Image:
    """The shortest side to its size, then the centre: bit-equal to open_clip unless the picture is very long."""
    width, height = _scaled_to_shortest(how, image.width, image.height)
    left, top = round((width - how.width) / 2), round((height - how.height) / 2)
    centre = (left, top, left + how.width, top + how.height)
    if width * height > _LONG * how.width * how.height:
        return _resize_part(image, (width, height), centre, how)
    return image.resize((width, height), _FILTERS[how.interpolation]).crop(centre)


def _scaled_to_shortest(how: Preprocess, width: int, height: int) -> tuple[int, int]:
    """The size before the crop: torchvision's `Resize` for a square (it truncates), else `ResizeKeepRatio` (rounds)."""
    if how.width == how.height:
        long = int(how.width * max(width, height) / min(width, height))
        return (how.width, long) if width <= height else (long, how.height)
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
