"""A photograph with clear things in it, and where they are without any network: scikit-image's coins."""

from __future__ import annotations

import numpy as np
import skimage.data
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, label  # type: ignore[import-untyped]
from skimage.filters import sobel
from skimage.segmentation import watershed

Mask = NDArray[np.bool_]

_DARK, _BRIGHT, _SMALLEST = 30, 150, 500


def photograph() -> NDArray[np.uint8]:
    """24 coins of Pompeii in gray, (303, 384); nothing of it is seen in training."""
    pixels: NDArray[np.uint8] = skimage.data.coins()  # type: ignore[no-untyped-call]
    return pixels


def outlines() -> list[Mask]:
    """The mask of each coin, from dark and bright seeds to where the brightness changes most.

    As scikit-image's example of region-based segmentation does it.
    """
    pixels = photograph()
    seeds = np.where(pixels < _DARK, 1, np.where(pixels > _BRIGHT, 2, 0))
    changes = sobel(pixels)  # type: ignore[no-untyped-call]
    found, count = label(binary_fill_holes(watershed(changes, seeds) == 2))  # type: ignore[no-untyped-call]
    each = [found == place for place in range(1, count + 1)]
    return [mask for mask in each if mask.sum() > _SMALLEST]
