"""Connected parts of a mask, without a library of computer vision: by the runs of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Stretches of set pixels: `row`, first column `start`, one behind the last `stop`; in reading order."""

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.stop - self.start


def without_small(mask: NDArray[np.bool_], min_area: int) -> tuple[NDArray[np.bool_], bool]:
    """The mask without holes and then without parts of fewer pixels, and whether that changed it.

    The largest part stays in any case. Pixels that touch at a corner belong together, in the mask as in its holes:
    segment_anything/utils/amg.py, `remove_small_regions`.
    """
    holes = runs_of(~mask)
    parts = labelled(holes)
    small = sizes(holes, parts)[parts] < min_area
    filled = painted(holes, small, mask.shape) | mask if small.any() else mask
    islands = runs_of(filled)
    parts = labelled(islands)
    areas = sizes(islands, parts)
    lost = areas < min_area
    if not lost.any():
        return filled, bool(small.any())
    if lost.all():
        lost[np.argmax(areas)] = False
    return painted(islands, ~lost[parts], mask.shape), True


def runs_of(mask: NDArray[np.bool_]) -> Runs:
    """Of a (height, width) mask."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    _, stop = np.nonzero(edges == -1)
    return Runs(row, start, stop)


def labelled(runs: Runs) -> NDArray[np.int64]:
    """The number of each run's part, from 0, in the order of their first pixels."""
    parents = np.arange(len(runs.row))
    above, below = _touching(runs)
    while True:
        low, high = parents[above], parents[below]
        apart = low != high
        if not apart.any():
            break
        smaller, larger = np.minimum(low, high)[apart], np.maximum(low, high)[apart]
        np.minimum.at(parents, larger, smaller)
        while (parents != parents[parents]).any():
            parents = parents[parents]
    _, parts = np.unique(parents, return_inverse=True)
    return parts.reshape(-1)


def sizes(runs: Runs, parts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of each part."""
    counted = np.zeros(int(parts.max(initial=-1)) + 1, dtype=np.int64)
    np.add.at(counted, parts, runs.lengths)
    return counted


def painted(runs: Runs, which: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask of some of the runs."""
    steps = np.zeros((shape[0], shape[1] + 1), dtype=np.int8)
    steps[runs.row[which], runs.start[which]] = 1
    steps[runs.row[which], runs.stop[which]] -= 1
    return np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1].astype(bool)


def _touching(runs: Runs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of runs in neighbouring rows that share a column or touch at a corner."""
    wide = int(runs.stop.max(initial=0)) + 2
    begins, ends = runs.row * wide + runs.start, runs.row * wide + runs.stop
    # Of the row above: the first run that ends at or behind this one's start, up to the last that starts before its end
    first = np.searchsorted(ends, begins - wide, side="left")
    last = np.searchsorted(begins, ends - wide, side="right")
    counts = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(len(below)) - np.repeat(np.cumsum(counts) - counts, counts)
    return first[below] + offsets, below
