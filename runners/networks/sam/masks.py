"""From the decoder's small logits to masks of the picture's own size, a few at a time and at once as run lengths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pycocotools import mask as coco

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOM = 256 * 2**20
"""Bytes that masks of full size may take at once; one alone may take more."""

_PER_PIXEL = 8
"""Logits of 4 bytes, what is above the threshold, and its transpose; rounded up."""


def full_size(
    network: Any, small: torch.Tensor, scaled: tuple[int, int], size: tuple[int, int]
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Parts of (masks, height, width) logits of `small` (masks, h, w), as `Sam.postprocess_masks` makes them.

    `scaled` is the picture's height and width as the encoder saw it, `size` its own.
    """
    side = network.image_encoder.img_size
    step = max(1, ROOM // (_PER_PIXEL * (size[0] * size[1] + side * side)))
    for start in range(0, len(small), step):
        part = slice(start, start + step)
        yield part, network.postprocess_masks(small[part].unsqueeze(0), scaled, size)[0]


def run_lengths(masks: torch.Tensor) -> list[dict[str, Any]]:
    """COCO's compressed run-length encoding of each of (masks, height, width) booleans."""
    columns = masks.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()  # column by column, as COCO counts
    encoded: list[dict[str, Any]] = coco.encode(columns.transpose(2, 1, 0))
    return encoded


def measures(encoded: list[dict[str, Any]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Areas in pixels, and boxes (left, top, right, bottom), right and bottom exclusive; zeros where nothing is set."""
    areas = np.asarray(coco.area(encoded), dtype=np.int64).reshape(-1)
    corners = np.asarray(coco.toBbox(encoded), dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return areas, corners.astype(np.int32)


def stability(logits: torch.Tensor, *, threshold: float = 0.0, offset: float = 1.0) -> torch.Tensor:
    """The overlap (IoU) of each mask at a higher and at a lower threshold, 0 where both are empty.

    segment_anything/utils/amg.py, `calculate_stability_score`, whose sums overflow beyond 32,767 columns.
    """
    inner = (logits > threshold + offset).sum(dim=(-2, -1), dtype=torch.int64)
    outer = (logits > threshold - offset).sum(dim=(-2, -1), dtype=torch.int64)
    return torch.nan_to_num(inner / outer)
