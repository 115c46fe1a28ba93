"""Everything in a picture: the grid of points before, what is left out and cleaned up of their masks after.

segment_anything/automatic_mask_generator.py without crops, done where the masks come together: the model's part is
asked for a few points at a time, so that other callers are served in between and a caller who leaves stops it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco

from modelmora.domain.segmentation import Box, Mask
from runners.inputs.regions import without_small

if TYPE_CHECKING:
    from numpy.typing import NDArray

OVERLAP = 0.7
"""Of two boxes that overlap more (IoU), the worse mask goes: `box_nms_thresh`."""


def grid(points_per_side: int, *, height: int, width: int) -> NDArray[np.float64]:
    """(points, 2) x and y in pixels, row by row: segment_anything/utils/amg.py, `build_point_grid`."""
    offset = 1 / (2 * points_per_side)
    places = np.linspace(offset, 1 - offset, points_per_side)
    x, y = np.meshgrid(places, places)
    points: NDArray[np.float64] = np.stack([x, y], axis=-1).reshape(-1, 2) * np.array([width, height])
    return points


def chosen(masks: Sequence[Mask], *, min_area: int, height: int, width: int) -> list[Mask]:
    """The masks without doubles and, with `min_area`, without small parts and holes; the best first."""
    kept = [masks[place] for place in apart(masks, [mask.score for mask in masks])]
    if min_area:
        cleaned = [_cleaned(mask, min_area, height, width) for mask in kept]
        # Those that were clean before are preferred, as `postprocess_small_regions` does it.
        untouched = [float(one.counts == mask.counts) for one, mask in zip(cleaned, kept, strict=True)]
        kept = [cleaned[place] for place in apart(cleaned, untouched)]
    return sorted(kept, key=lambda mask: -mask.score)


def apart(masks: Sequence[Mask], ranks: Sequence[float]) -> list[int]:
    """Places of the masks, by falling rank, whose boxes do not overlap with one before them: torchvision's `nms`."""
    order = np.argsort(-np.array(ranks, dtype=np.float32), kind="stable")
    boxes = np.array([_inclusive(mask.box) for mask in masks], dtype=np.float32).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = list[int]()
    while len(order):
        best, others = order[0], order[1:]
        kept.append(int(best))
        order = others[~(_overlap(boxes, areas, best, others) > OVERLAP)]
    return kept


def _overlap(boxes: NDArray[np.float32], areas: NDArray[np.float32], one: Any, others: Any) -> NDArray[np.float32]:
    first, last = np.maximum(boxes[one, :2], boxes[others, :2]), np.minimum(boxes[one, 2:], boxes[others, 2:])
    common = np.maximum(last - first, 0).prod(axis=1)
    with np.errstate(invalid="ignore"):  # lines have no area: they overlap with nothing
        shares: NDArray[np.float32] = common / (areas[one] + areas[others] - common)
    return shares


def _inclusive(box: Box) -> tuple[float, float, float, float]:
    """The library's boxes end with the last pixel, ours behind it."""
    return box.left, box.top, box.right - 1, box.bottom - 1


def _cleaned(mask: Mask, min_area: int, height: int, width: int) -> Mask:
    before = {"size": [height, width], "counts": mask.counts}
    pixels, changed = without_small(coco.decode(before).astype(bool), min_area)
    if not changed:
        return mask
    after = coco.encode(np.asfortranarray(pixels, dtype=np.uint8))
    left, top, across, down = map(float, coco.toBbox(after))
    box = Box(left=left, top=top, right=left + across, bottom=top + down)
    return replace(mask, counts=after["counts"], area=int(coco.area(after)), box=box)
