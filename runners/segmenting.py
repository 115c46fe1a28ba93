"""The API's side of segmenting: prompts to the runner that knows the picture, masks back as they come."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from math import ceil

from modelmora.domain.capability import cannot
from modelmora.domain.inference import Call, Image, Timings
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
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
from modelmora.errors import InternalError, ValidationFailed
from modelmora.ports import Watch
from runners.everything import Allowance, everything
from runners.hop.errands import Errand, Errands
from runners.hop.sitting import TOGETHER, Sitting, in_window
from runners.inputs.prompts import asking, check_mask, masks_of

KNOWN = 4_096
"""Pictures whose size is remembered, and that a runner may know as well."""


class RunnerSegmenter:
    """Implements the port Segmenter over a fleet of runner workers."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands
        self._known: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        self._allowance = Allowance()

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
                parts = everything(sitting, asked, self._allowance, logits=options.logits, watch=watch)
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
        shares = list(_shares(inside))
        works = [partial(self._some, sitting, some, options, watch, more=some is not shares[-1]) for some in shares]
        async with aclosing(in_window(works, first_alone=sitting.fresh)) as answers:
            async for answer in answers:
                for one in answer:
                    yield one

    async def _some(
        self, sitting: Sitting, prompts: Mapping[int, Prompt], options: MaskOptions, watch: Watch | None, *, more: bool
    ) -> list[tuple[int, Outcome[Segmented]]]:
        """A few prompts together; `more` follow."""

        def told(step: Step) -> None:
            for index in prompts:
                if watch is not None:
                    watch(index, step)

        given = list(prompts.values())
        ask = partial(asking, prompts=given, options=options)
        outcome = await sitting.ask(ask, more=more, watch=told if watch else None)
        if isinstance(outcome, Failed):
            return [(index, outcome) for index in prompts]
        answer, timings = outcome.value
        masks = masks_of(answer)
        return [(index, _segmented(sitting, masks, place, timings)) for place, index in enumerate(prompts)]


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


def _segmented(sitting: Sitting, masks: Sequence[tuple[int, Mask]], place: int, timings: Timings) -> Outcome[Segmented]:
    """The masks of the prompt at `place`, the best first."""
    own = [mask for prompt, mask in masks if prompt == place]
    if not own:
        said = f"{sitting.errand.model.key} gave masks that are not finite for this prompt"
        return Failed(InternalError(said))
    own.sort(key=lambda mask: -mask.score)
    height, width = sitting.size
    return Ok(Segmented(masks=tuple(own), height=height, width=width, timings=timings))
