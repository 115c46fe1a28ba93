"""Everything in a picture: the grid of points before, what is left out and cleaned up of their masks after.

segment_anything/automatic_mask_generator.py without crops, done where the masks come together: the model's part is
asked for a few points at a time, so that other callers are served in between and a caller who leaves stops it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
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


def choosing(
    masks: Sequence[Mask], *, min_area: int, height: int, width: int
) -> Generator[None, None, list[tuple[int, Mask]]]:
    """The masks without doubles and, with `min_area`, without small parts and holes; the best first, with their places.

    Pauses after every piece of work: a mask of a large picture is one.
    """
    kept = apart(masks, [mask.score for mask in masks])
    chosen = [masks[place] for place in kept]
    if min_area:
        for row, mask in enumerate(chosen):
            yield
            chosen[row] = _cleaned(mask, min_area, height, width)
        yield
        # Those that were clean before are preferred, as `postprocess_small_regions` does it.
        untouched = [float(one.counts == masks[place].counts) for one, place in zip(chosen, kept, strict=True)]
        rows = apart(chosen, untouched)
        kept, chosen = [kept[row] for row in rows], [chosen[row] for row in rows]
    return sorted(zip(kept, chosen, strict=True), key=lambda placed: -placed[1].score)


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
