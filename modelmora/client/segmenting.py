"""One call for masks: what was not answered is asked for again, and nothing is handed out twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from operator import index as whole
from typing import TypeAlias

from modelmora.client.retry import Retrier, most_patient
from modelmora.client.segmentation import Segmentation
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.segmentation import Box, Everything, Point, Prompt, check, check_everything
from modelmora.errors import RETRYABLE, InternalError, ModelMoraError, ValidationFailed

Parts: TypeAlias = AsyncGenerator[tuple[int, Outcome[Segmentation]], None]
Ask: TypeAlias = Callable[[Sequence[Prompt] | Everything, str | None], Parts]
"""One request for these prompts of this model; the numbers of its parts are places among the prompts."""


class Segmenting:
    """From the first answer on the same version is asked: the masks of one call are of one version."""

    def __init__(self, ask: Ask, *, model: str | None, retrier: Retrier, deadline: float) -> None:
        self._ask = ask
        self._model = model
        self._retrier = retrier
        self._deadline = deadline
        self._answered = 0
        self._attempt = 0

    async def prompts(self, given: Mapping[int, Prompt]) -> Parts:
        """The outcome of each, as they come. Raises what ended the call while nothing was answered; later each prompt
        that is left fails with it."""
        left, later = dict(given), dict[int, ModelMoraError]()
        while left:
            before, later = self._answered, {}
            try:
                async with aclosing(self._round(left, later)) as parts:
                    async for part in parts:
                        yield part
                reason = most_patient(later.values()) if later else InternalError(f"{len(left)} prompts were left out")
            except ModelMoraError as error:
                reason = error
            if left and not await self._waited(reason, grew=self._answered > before):
                if not (self._answered or later or _is_of_a_prompt(reason)):
                    raise reason
                for index in left:
                    yield index, Failed(later.get(index, reason))
                return

    async def everything(self, asked: Everything) -> Parts:
        """Each mask with its number. Raises what ended the call."""
        seen = set[int]()
        while True:
            before = self._answered
            try:
                async with aclosing(self._ask(asked, self._model)) as parts:
                    async for index, outcome in parts:
                        if index not in seen:
                            seen.add(index)
                            self._note(outcome)
                            yield index, outcome
                return
            except ModelMoraError as error:
                if not await self._waited(error, grew=self._answered > before):
                    raise

    async def _round(self, left: dict[int, Prompt], later: dict[int, ModelMoraError]) -> Parts:
        """One request for all that are left: takes out what is answered, and notes in `later` what may yet pass."""
        numbers = list(left)
        async with aclosing(self._ask([left[number] for number in numbers], self._model)) as parts:
            async for place, outcome in parts:
                index = numbers[place] if 0 <= place < len(numbers) else -1
                if index not in left:  # made up, or twice
                    continue
                if isinstance(outcome, Failed) and outcome.error.code in RETRYABLE:
                    later[index] = outcome.error
                    continue
                del left[index]
                self._note(outcome)
                yield index, outcome

    def _note(self, outcome: Outcome[Segmentation]) -> None:
        self._answered += 1
        if isinstance(outcome, Ok):
            self._model = outcome.value.key

    async def _waited(self, error: ModelMoraError, *, grew: bool) -> bool:
        """Whether there is to be another try, once it is time for it."""
        self._attempt = 0 if grew else self._attempt
        try:
            await self._retrier.pause(self._attempt, error, deadline=self._deadline)
        except ModelMoraError:
            return False
        self._attempt += 1
        return True


def plain(asked: Everything) -> Everything:
    """With numbers of any library as Python's; raises ValidationFailed."""
    try:
        checked = Everything(
            points_per_side=whole(asked.points_per_side),
            min_score=float(asked.min_score),
            min_stability=float(asked.min_stability),
            min_area=whole(asked.min_area),
        )
    except (TypeError, ValueError) as cause:
        raise ValidationFailed(
            f"everything is asked for with something else than numbers: {cause}", field="everything"
        ) from cause
    check_everything(checked)
    return checked


def sendable(prompt: Prompt, index: int) -> Outcome[Prompt]:
    """With numbers of any library as Python's; Failed where no picture could answer it."""
    field = f"prompts[{index}]"
    try:
        points = tuple(
            Point(x=float(point.x), y=float(point.y), background=bool(point.background)) for point in prompt.points
        )
        box = prompt.box and Box(**{side: float(getattr(prompt.box, side)) for side in Box.__slots__})
        checked = replace(prompt, id=str(prompt.id), points=points, box=box)
        check(checked, field)
    except ValidationFailed as error:
        return Failed(error)
    except (AttributeError, TypeError, ValueError, OverflowError) as cause:
        expected = "points and a box of numbers"
        return Failed(ValidationFailed(f"{field} is no prompt: {cause}", field=field, expected=expected))
    return Ok(checked)


def _is_of_a_prompt(error: ModelMoraError) -> bool:
    """A request of one prompt fails with what is wrong with it."""
    return (error.field or "").startswith("prompts[")
