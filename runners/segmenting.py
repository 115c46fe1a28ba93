"""The API's side of segmenting: prompts to the runner that knows the picture, masks back as they come."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

from modelmora.domain.capability import cannot
from modelmora.domain.inference import Call, Image, Timings
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome, unwrap
from modelmora.domain.progress import Step
from modelmora.domain.segmentation import (
    Everything,
    Mask,
    MaskOptions,
    Prompt,
    Segmented,
    check,
    check_inside,
)
from modelmora.errors import InternalError, LimitExceeded, OutOfMemory, ValidationFailed
from modelmora.ports import Watch
from runners.hop.errands import Errand, Errands
from runners.hop.sitting import Answered, Sitting, in_window
from runners.inputs import everything
from runners.inputs.prompts import asking, asking_for_everything, check_mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOGETHER = 8
"""Prompts sent together: few enough that masks come soon, enough that the hop costs nothing beside them."""

KNOWN = 4_096
"""Pictures whose size is remembered, and that a runner may know as well."""

EVERYTHING_BYTES = 128 * 2**20
"""That the masks of everything may take before the doubles among them are left out."""


class RunnerSegmenter:
    """Implements the port Segmenter over a fleet of runner workers."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands
        self._known: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    async def segment(
        self,
        model: ModelSpec,
        image: Image,
        asked: Sequence[Prompt] | Everything,
        *,
        options: MaskOptions,
        call: Call,
        watch: Watch | None = None,
    ) -> AsyncGenerator[tuple[int, Outcome[Segmented]], None]:
        """See `ports.Segmenter`. A prompt that is wrong fails alone, with its place in the error's field."""
        refused = {} if isinstance(asked, Everything) else _refused(asked)
        hopeless = not isinstance(asked, Everything) and len(refused) == len(asked)
        with self._errands.permit(1):
            errand = Errand(model, "segment", await self._errands.describe(model, deadline=call.deadline), call)
            sitting = self._sitting(errand, image)
            if not hopeless:
                await sitting.begin(self._known)
            for index, error in refused.items():
                yield index, Failed(error)
            if hopeless:
                return
            if isinstance(asked, Everything):
                parts = self._everything(sitting, asked, options, watch)
            else:
                good = {index: prompt for index, prompt in enumerate(asked) if index not in refused}
                parts = self._prompted(sitting, good, options, watch)
            async with aclosing(parts):
                async for part in parts:
                    yield part

    def _sitting(self, errand: Errand, image: Image) -> Sitting:
        how = errand.description.image
        if how is None:
            raise cannot(errand.model, errand.task, errand.description)
        while len(self._known) >= KNOWN:
            self._known.popitem(last=False)
        return Sitting(self._errands, errand, image, how)

    async def _prompted(
        self, sitting: Sitting, prompts: Mapping[int, Prompt], options: MaskOptions, watch: Watch | None
    ) -> AsyncGenerator[tuple[int, Outcome[Segmented]], None]:
        inside = dict(prompts)
        for index, prompt in prompts.items():
            try:
                check_inside(prompt, f"prompts[{index}]", height=sitting.size[0], width=sitting.size[1])
                check_mask(prompt, sitting.mask_side, f"prompts[{index}].mask")
            except ValidationFailed as error:
                del inside[index]
                yield index, Failed(error)
        works = [partial(self._some, sitting, some, options, watch) for some in _shares(inside)]
        async with aclosing(in_window(works, first_alone=sitting.fresh)) as answers:
            async for answer in answers:
                for one in answer:
                    yield one

    async def _some(
        self, sitting: Sitting, prompts: Mapping[int, Prompt], options: MaskOptions, watch: Watch | None
    ) -> list[tuple[int, Outcome[Segmented]]]:
        """A few prompts together; one by one where the memory is too small for that."""

        def told(step: Step) -> None:
            for index in prompts:
                if watch is not None:
                    watch(index, step)

        given = list(prompts.values())
        outcome = await sitting.ask(lambda picture: asking(picture, given, options), told if watch else None)
        if isinstance(outcome, Ok):
            return [(index, _segmented(sitting, outcome.value, place)) for place, index in enumerate(prompts)]
        if isinstance(outcome.error, OutOfMemory) and len(prompts) > 1:
            alone = [await self._some(sitting, {index: one}, options, watch) for index, one in prompts.items()]
            return [one for each in alone for one in each]
        return [(index, outcome) for index in prompts]

    async def _everything(
        self, sitting: Sitting, asked: Everything, options: MaskOptions, watch: Watch | None
    ) -> AsyncGenerator[tuple[int, Outcome[Segmented]], None]:
        """Raises what a part of the grid fails with; a picture without masks gives one answer that has none."""
        height, width = sitting.size
        grid = everything.grid(asked.points_per_side, height=height, width=width)
        shares = [grid[start : start + TOGETHER] for start in range(0, len(grid), TOGETHER)]
        works = [partial(self._share, sitting, place, share, asked, options) for place, share in enumerate(shares)]
        answers, taken = dict[int, Answered](), 0
        async with aclosing(in_window(works, first_alone=sitting.fresh)) as done:
            async for place, answer in done:
                answers[place], taken = answer, taken + sum(_bytes_of(mask) for _, mask in answer.masks)
                _check_room(taken)
                if watch is not None:
                    watch(0, Step("inference", len(answers), len(shares)))
        masks = [mask for place in sorted(answers) for _, mask in answers[place].masks]
        choose = partial(everything.chosen, masks, min_area=asked.min_area, height=height, width=width)
        chosen = await self._errands.in_thread(choose)
        timings = _together([answer.timings for answer in answers.values()])
        for index, each in enumerate([(mask,) for mask in chosen] or [()]):
            yield index, Ok(Segmented(masks=each, height=height, width=width, timings=timings))

    async def _share(
        self, sitting: Sitting, place: int, points: NDArray[np.float64], asked: Everything, options: MaskOptions
    ) -> tuple[int, Answered]:
        """The good masks of a few points of the grid."""
        outcome = await sitting.ask(
            lambda picture: asking_for_everything(picture, points, asked, logits=options.logits), None
        )
        return place, unwrap(outcome)


def _refused(prompts: Sequence[Prompt]) -> dict[int, ValidationFailed]:
    """What is wrong with each, whatever the picture."""
    faults = dict[int, ValidationFailed]()
    for index, prompt in enumerate(prompts):
        try:
            check(prompt, f"prompts[{index}]")
        except ValidationFailed as error:
            faults[index] = error
    return faults


def _shares(prompts: Mapping[int, Prompt]) -> Iterator[dict[int, Prompt]]:
    """Of about equal size, `TOGETHER` at most."""
    indices = list(prompts)
    size = ceil(len(indices) / max(1, ceil(len(indices) / TOGETHER))) or 1
    for start in range(0, len(indices), size):
        yield {index: prompts[index] for index in indices[start : start + size]}


def _segmented(sitting: Sitting, answer: Answered, place: int) -> Outcome[Segmented]:
    """The masks of the prompt at `place`, the best first."""
    own: list[Mask] = [mask for prompt, mask in answer.masks if prompt == place]
    if not own:
        said = f"{sitting.errand.model.key} gave masks that are not finite for this prompt"
        return Failed(InternalError(said))
    own.sort(key=lambda mask: -mask.score)
    height, width = sitting.size
    return Ok(Segmented(masks=tuple(own), height=height, width=width, timings=answer.timings))


def _together(timings: Sequence[Timings]) -> Timings:
    """Of what was computed one after the other."""
    slowest = max(timings, key=lambda each: each.queue_ms)
    return replace(slowest, inference_ms=sum(each.inference_ms for each in timings))


def _bytes_of(mask: Mask) -> int:
    return len(mask.counts) + (len(mask.logits.data) if mask.logits else 0)


def _check_room(taken: int) -> None:
    if taken > EVERYTHING_BYTES:
        raise LimitExceeded(
            "there are too many masks in this picture; ask for a higher min_score or min_stability, or without logits",
            field="everything",
            found=f"more than {EVERYTHING_BYTES} bytes",
        )
