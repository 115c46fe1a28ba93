"""Masks of a picture: limits, version, capability, the runners, one record left behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from modelmora.domain.inference import Call, Content, Image
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Outcome, unwrap
from modelmora.domain.segmentation import (
    Everything,
    MaskOptions,
    Prompt,
    Segmented,
    check_count,
    check_everything,
)
from modelmora.errors import ModelMoraError, ValidationFailed
from modelmora.ports import Segmenter, Watch
from modelmora.usecases.admission import Admission


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What became of the prompt `index`, or one mask of everything. `total_ms` are since the request."""

    index: int
    outcome: Outcome[Segmented]
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """Which version serves, and each part as it comes; whoever does not want them all closes `parts`."""

    model: ModelSpec
    parts: AsyncGenerator[Part, None]


class Segment:
    """The use case behind every segmenting face."""

    def __init__(self, admission: Admission, segmenter: Segmenter) -> None:
        self._admission = admission
        self._segmenter = segmenter

    def __call__(
        self,
        ref: str | None,
        image: Outcome[Content],
        asked: Sequence[Prompt] | Everything,
        *,
        options: MaskOptions,
        call: Call,
        watch: Watch | None = None,
    ) -> Segmentation:
        """Raises for the request as a whole: ValidationFailed (no prompts, no picture), LimitExceeded, ModelNotFound,
        VersionNotFound, CapabilityMissing, or what was wrong with the picture already; `parts` raise what the picture
        or the runner has against it, and of a request of one prompt its error.
        """
        _check(asked)
        model = self._admission.serving(ref, "segment")
        content = unwrap(self._admission.checked(image))
        if not isinstance(content, Image):
            raise ValidationFailed("a text cannot be segmented", field="image", found="a text", expected="a picture")

        def parts() -> AsyncGenerator[tuple[int, Outcome[Segmented]], None]:
            return self._segmenter.segment(model, content, asked, options=options, call=call, watch=watch)

        only = not isinstance(asked, Everything) and len(asked) == 1
        return Segmentation(model=model, parts=self._parts(model, call, parts, only=only))

    async def _parts(
        self,
        model: ModelSpec,
        call: Call,
        segment: Callable[[], AsyncGenerator[tuple[int, Outcome[Segmented]], None]],
        *,
        only: bool,
    ) -> AsyncGenerator[Part, None]:
        clock, started = self._admission.clock, self._admission.clock()
        outcomes = dict[int, Outcome[Segmented]]()
        try:
            async with aclosing(segment()) as answers:
                async for index, outcome in answers:
                    outcomes[index] = outcome
                    if not (only and isinstance(outcome, Failed)):
                        yield Part(index=index, outcome=outcome, total_ms=(clock() - started) * 1e3)
        except ModelMoraError as error:
            in_order = [*(outcomes[index] for index in sorted(outcomes)), Failed(error)]
            self._admission.record(call, model, "segment", in_order, (clock() - started) * 1e3)
            raise
        in_order = [outcomes[index] for index in sorted(outcomes)]
        self._admission.record(call, model, "segment", in_order, (clock() - started) * 1e3)
        if only:
            unwrap(in_order[0])


def _check(asked: Sequence[Prompt] | Everything) -> None:
    if isinstance(asked, Everything):
        return check_everything(asked)
    if not asked:
        raise ValidationFailed(
            "the request has no prompts", field="prompts", found="0", expected="at least 1, or `everything`"
        )
    check_count(len(asked))
