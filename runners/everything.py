"""Everything in a picture: a grid of points over the hop, a few at a time; of the masks those that are good."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from modelmora.domain.inference import Timings
from modelmora.domain.outcome import Ok, Outcome, unwrap
from modelmora.domain.progress import Step
from modelmora.domain.segmentation import Everything, Mask, Segmented
from modelmora.domain.tensors import Tensor
from modelmora.errors import LimitExceeded, Overloaded
from modelmora.ports import Watch
from runners.hop.sitting import TOGETHER, Sitting, in_window
from runners.inputs.everything import choosing, grid
from runners.inputs.prompts import asking_for_everything, asking_for_logits, logits_of, masks_of, which_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PICTURE_BYTES = 128 * 2**20
"""That the masks of one picture may take before the doubles among them are left out."""

PROCESS_BYTES = 256 * 2**20
"""That those of all pictures may take together which are looked through in this process."""

MASK_BYTES = 1_024
"""What a mask takes beside its run lengths, roughly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A good mask, by the place of its point in the grid and which of the point's masks it is."""

    point: int
    which: int
    mask: Mask

    @property
    def bytes(self) -> int:
        return len(self.mask.counts) + MASK_BYTES


class Allowance:
    """Counts what masks take, of a picture and in this process."""

    def __init__(self) -> None:
        self.taken = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Of one picture, until the block ends."""
        share = Share(self)
        try:
            yield share
        finally:
            self.taken -= share.taken


class Share:
    """Of one picture."""

    def __init__(self, whole: Allowance) -> None:
        self.taken = 0
        self._whole = whole

    def take(self, size: int) -> None:
        """So many bytes more, or less; raises LimitExceeded (of the picture), Overloaded (in this process)."""
        self.taken += size
        self._whole.taken += size
        if self.taken > PICTURE_BYTES:
            raise LimitExceeded(
                "there are too many masks in this picture; ask for a higher min_score or min_stability",
                field="everything",
                found=f"more than {PICTURE_BYTES} bytes",
            )
        if size > 0 and self._whole.taken > PROCESS_BYTES:
            raise Overloaded("everything is asked of too many pictures at once in this API worker", retry_after_s=5.0)


async def everything(
    sitting: Sitting, asked: Everything, allowance: Allowance, *, logits: bool, watch: Watch | None = None
) -> AsyncGenerator[tuple[int, Outcome[Segmented]], None]:
    """A part for each mask, the best first; a picture without masks gives one answer that has none.

    Raises what a part of the grid fails with, DeadlineExceeded, LimitExceeded and Overloaded (see `Share`). Logits are
    asked for once it is known of which masks, and as they are taken: those of all doubles would be a quarter of a
    megabyte each.
    """
    height, width = sitting.size
    points = grid(asked.points_per_side, height=height, width=width)
    with allowance.share() as share:
        found, timings = await _found(sitting, points, asked, share, more=logits, watch=watch)
        chosen = await _chosen(sitting, found, asked.min_area)
        share.take(sum(one.bytes for one in chosen) - share.taken)
        del found
        whole = Segmented(masks=(), height=height, width=width, timings=timings)
        if not chosen:
            yield 0, Ok(whole)
        index = 0
        async with aclosing(_complete(sitting, points, chosen, logits=logits)) as masks:
            async for mask in masks:
                yield index, Ok(replace(whole, masks=(mask,)))
                index += 1


async def _found(
    sitting: Sitting, points: NDArray[np.float64], asked: Everything, share: Share, *, more: bool, watch: Watch | None
) -> tuple[list[Found], Timings]:
    """In the order of the grid."""
    starts = range(0, len(points), TOGETHER)
    works = [partial(_of_share, sitting, points, at, asked, more=more or at != starts[-1]) for at in starts]
    answers, timings = dict[int, list[Found]](), list[Timings]()
    async with aclosing(in_window(works, first_alone=sitting.fresh)) as done:
        async for start, answer, spent in done:
            answers[start] = answer
            timings.append(spent)
            share.take(sum(one.bytes for one in answer))
            if watch is not None:
                watch(0, Step("inference", len(answers), len(works)))
    return [one for start in sorted(answers) for one in answers[start]], _together(timings)


async def _of_share(
    sitting: Sitting, points: NDArray[np.float64], start: int, asked: Everything, *, more: bool
) -> tuple[int, list[Found], Timings]:
    """The good masks of a few points."""
    ask = partial(asking_for_everything, grid=points[start : start + TOGETHER], asked=asked)
    answer, timings = unwrap(await sitting.ask(ask, more=more))
    found = [
        Found(point=start + row, which=which, mask=mask)
        for (row, mask), which in zip(masks_of(answer), which_of(answer), strict=True)
    ]
    return start, found, timings


async def _chosen(sitting: Sitting, found: Sequence[Found], min_area: int) -> list[Found]:
    """Without doubles, small parts and holes; the best first. Others have their turn between any two masks."""
    height, width = sitting.size
    steps = choosing([one.mask for one in found], min_area=min_area, height=height, width=width)

    def step() -> list[tuple[int, Mask]] | None:
        try:
            return next(steps)
        except StopIteration as end:
            placed: list[tuple[int, Mask]] = end.value
            return placed

    while (placed := await sitting.in_turn(step)) is None:
        pass
    return [replace(found[place], mask=mask) for place, mask in placed]


async def _complete(
    sitting: Sitting, points: NDArray[np.float64], chosen: Sequence[Found], *, logits: bool
) -> AsyncGenerator[Mask, None]:
    """The masks, with their logits where those are asked for."""
    if not logits:
        for one in chosen:
            yield one.mask
        return
    parts = [chosen[start : start + TOGETHER] for start in range(0, len(chosen), TOGETHER)]
    works = [partial(_logits, sitting, points, part, more=part is not parts[-1]) for part in parts]
    async with aclosing(in_window(works, width=1)) as done:
        async for part in done:
            for one, tensor in part:
                yield replace(one.mask, logits=tensor)


async def _logits(
    sitting: Sitting, points: NDArray[np.float64], some: Sequence[Found], *, more: bool
) -> list[tuple[Found, Tensor]]:
    places = [one.point for one in some]
    ask = partial(asking_for_logits, points=points[places], which=[one.which for one in some])
    answer, _ = unwrap(await sitting.ask(ask, more=more))
    return list(zip(some, logits_of(answer), strict=True))


def _together(timings: Sequence[Timings]) -> Timings:
    """Of what was computed one after the other."""
    slowest = max(timings, key=lambda each: each.queue_ms)
    return replace(slowest, inference_ms=sum(each.inference_ms for each in timings))
