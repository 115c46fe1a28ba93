"""The use case Segment over a fake of its port, and the rules for what may be asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from math import inf, nan
from typing import Any

import pytest

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.inference import Call, Content, Image, Inference, Text
from modelmora.domain.models import GroupSpec, ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.segmentation import (
    Box,
    Everything,
    MaskOptions,
    Point,
    Prompt,
    check,
    check_everything,
    check_inside,
    wants_three,
)
from modelmora.domain.tensors import Tensor
from modelmora.errors import (
    CapabilityMissing,
    InvalidInput,
    LimitExceeded,
    ModelNotFound,
    Overloaded,
    ValidationFailed,
)
from modelmora.usecases.segment import Part
from tests.fakes import CLIP, MASK, SAM, TIMINGS, FakeSegmenter, World

CALL = Call(request_id="r", deadline=time.monotonic() + 60)
PICTURE: Outcome[Content] = Ok(Image(b"picture"))
OPTIONS = MaskOptions()
CENTRE = Prompt(points=(Point(x=1.0, y=1.0),))
DEFAULT_SAM = ModelSpec(
    name="sam", version="2.0.0", type="segmentation", provider="sam", source="hub:somebody/sam", default=True
)


def world(**more: Any) -> World:
    return World(catalogue=Catalogue((CLIP, SAM, DEFAULT_SAM), (GroupSpec(),)), **more)


def named(*ids: str) -> list[Prompt]:
    return [Prompt(id=id_, points=CENTRE.points) for id_ in ids]


async def parts(
    own: World,
    asked: Sequence[Prompt] | Everything,
    *,
    ref: str | None = None,
    image: Outcome[Content] = PICTURE,
    options: MaskOptions = OPTIONS,
) -> list[Part]:
    done = own.segment()(ref, image, asked, options=options, call=CALL)
    return [part async for part in done.parts]


async def test_each_prompt_is_answered_with_its_index_as_it_comes() -> None:
    found = await parts(world(), named("a", "b", "c"))

    assert [part.index for part in found] == [2, 1, 0]
    assert all(isinstance(part.outcome, Ok) and part.outcome.value.masks == (MASK,) for part in found)


async def test_what_was_asked_reaches_the_port_as_it_is() -> None:
    own, options = world(), MaskOptions(multimask=True, logits=True)

    await parts(own, Everything(points_per_side=4), options=options)

    [(model, image, asked, given, call)] = own.segmenter.asked
    assert (model, image, asked, given, call) == (
        DEFAULT_SAM,
        Image(b"picture"),
        Everything(points_per_side=4),
        options,
        CALL,
    )


async def test_a_prompt_that_fails_fails_alone() -> None:
    own = world(segmenter=FakeSegmenter(fails={"bad": ValidationFailed("no")}))

    found = {part.index: part.outcome for part in await parts(own, named("good", "bad", "good"))}

    assert [isinstance(found[index], Failed) for index in range(3)] == [False, True, False]


async def test_a_request_of_one_prompt_fails_with_its_error_and_leaves_a_record() -> None:
    left: list[Inference] = []
    own = world(segmenter=FakeSegmenter(fails={"bad": ValidationFailed("no", field="prompts[0]")}), hooks=[left.append])

    with pytest.raises(ValidationFailed, match="no"):
        await parts(own, named("bad"))

    [record] = left
    assert [type(outcome) for outcome in record.outcomes] == [Failed]


async def test_one_record_is_left_with_the_outcomes_in_order() -> None:
    left: list[Inference] = []
    own = world(segmenter=FakeSegmenter(fails={"bad": ValidationFailed("no")}), hooks=[left.append])

    await parts(own, named("a", "bad", "c"), ref="sam@2.0.0")

    [record] = left
    assert (record.task, record.items, record.model, record.call) == ("segment", 3, DEFAULT_SAM, CALL)
    assert [isinstance(outcome, Failed) for outcome in record.outcomes] == [False, True, False]
    first = record.outcomes[0]
    assert isinstance(first, Ok)
    assert first.value.timings == TIMINGS


async def test_who_stops_reading_stops_the_work_and_leaves_no_record() -> None:
    left: list[Inference] = []
    own = world(hooks=[left.append])
    own.segmenter.hold = asyncio.Event()
    done = own.segment()(None, Ok(Image(b"picture")), named("a", "b"), options=MaskOptions(), call=CALL)

    async with aclosing(done.parts):
        await anext(done.parts)

    assert own.segmenter.left.is_set()
    assert left == []


async def test_no_prompts_are_an_error() -> None:
    with pytest.raises(ValidationFailed) as caught:
        await parts(world(), [])
    assert (caught.value.field, caught.value.found) == ("prompts", "0")


async def test_too_many_prompts_are_refused_before_anything_is_decoded() -> None:
    own = world()

    with pytest.raises(LimitExceeded) as caught:
        await parts(own, [CENTRE] * 1_001)

    assert (caught.value.field, caught.value.found, caught.value.expected) == ("prompts", "1001", "at most 1000")
    assert own.segmenter.asked == []


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (Ok(Text("a cat")), ValidationFailed),
        (Ok(Image(b"x" * 5_000)), LimitExceeded),
        (Failed(InvalidInput("unreadable")), InvalidInput),
    ],
)
async def test_what_is_no_picture_is_refused(image: Outcome[Content], error: type[Exception]) -> None:
    own = world()

    with pytest.raises(error):
        await parts(own, [CENTRE], image=image)

    assert own.segmenter.asked == []


async def test_a_model_that_cannot_segment_says_what_it_can() -> None:
    with pytest.raises(CapabilityMissing, match=r"clip@1\.0\.0 cannot segment; it can embed pictures and embed texts"):
        await parts(world(), [CENTRE], ref="clip")


async def test_without_a_default_there_is_no_model() -> None:
    with pytest.raises(ModelNotFound):
        await parts(World(), [CENTRE])


async def test_what_concerns_the_whole_request_is_raised() -> None:
    own = world(segmenter=FakeSegmenter(raises=Overloaded("full")))

    with pytest.raises(Overloaded):
        await parts(own, named("a", "b"))


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (Prompt(), "prompts[3]"),
        (Prompt(mask=Tensor(dtype="float32", shape=(1, 1), data=bytes(4))), "prompts[3]"),
        (Prompt(points=CENTRE.points * 101), "prompts[3].points"),
        (Prompt(points=(CENTRE.points[0], Point(x=nan, y=0))), "prompts[3].points[1]"),
        (Prompt(points=(Point(x=0, y=inf),)), "prompts[3].points[0]"),
        (Prompt(box=Box(left=0, top=0, right=nan, bottom=1)), "prompts[3].box"),
        (Prompt(box=Box(left=0, top=-inf, right=1, bottom=1)), "prompts[3].box"),
        (Prompt(box=Box(left=5, top=0, right=4, bottom=1)), "prompts[3].box"),
        (Prompt(box=Box(left=5, top=1, right=6, bottom=1)), "prompts[3].box"),
    ],
)
def test_a_prompt_that_no_picture_could_answer_is_refused_by_name(prompt: Prompt, field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        check(prompt, "prompts[3]")
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (Prompt(points=(CENTRE.points[0], Point(x=11, y=1))), "prompts[0].points[1]"),
        (Prompt(points=(Point(x=-0.1, y=1),)), "prompts[0].points[0]"),
        (Prompt(points=(Point(x=1, y=5.5),)), "prompts[0].points[0]"),
        (Prompt(box=Box(left=-1, top=0, right=4, bottom=1)), "prompts[0].box"),
        (Prompt(box=Box(left=1, top=0, right=4, bottom=6)), "prompts[0].box"),
    ],
)
def test_a_prompt_outside_of_the_picture_is_refused_by_name(prompt: Prompt, field: str) -> None:
    check(prompt, "prompts[0]")

    with pytest.raises(ValidationFailed, match="10 wide and 5 high") as caught:
        check_inside(prompt, "prompts[0]", height=5, width=10)
    assert caught.value.field == field


def test_the_edges_of_the_picture_are_in_it() -> None:
    corners = (Point(x=0, y=0), Point(x=10, y=5))

    check_inside(Prompt(points=corners, box=Box(left=0, top=0, right=10, bottom=5)), "p", height=5, width=10)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Everything(points_per_side=0), "everything.points_per_side"),
        (Everything(points_per_side=65), "everything.points_per_side"),
        (Everything(min_score=nan), "everything.min_score"),
        (Everything(min_score=1.1), "everything.min_score"),
        (Everything(min_stability=-0.1), "everything.min_stability"),
        (Everything(min_area=-1), "everything.min_area"),
    ],
)
async def test_everything_within_bounds_only(asked: Everything, field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        await parts(world(), asked)
    assert caught.value.field == field


def test_the_bounds_of_everything_are_in_them() -> None:
    check_everything(Everything(points_per_side=64, min_score=1.0, min_stability=0.0, min_area=0))


def test_three_masks_are_for_what_is_ambiguous_unless_told() -> None:
    box, mask = Box(left=0, top=0, right=1, bottom=1), Tensor(dtype="float32", shape=(1, 1), data=bytes(4))
    two = CENTRE.points * 2

    assert wants_three(CENTRE, MaskOptions())
    assert not wants_three(Prompt(points=two), MaskOptions())
    assert not wants_three(Prompt(points=CENTRE.points, box=box), MaskOptions())
    assert not wants_three(Prompt(points=CENTRE.points, mask=mask), MaskOptions())
    assert not wants_three(Prompt(box=box), MaskOptions())
    assert wants_three(Prompt(box=box), MaskOptions(multimask=True))
    assert not wants_three(CENTRE, MaskOptions(multimask=False))


async def test_what_fails_as_a_whole_leaves_a_record_too() -> None:
    left: list[Inference] = []
    own = world(segmenter=FakeSegmenter(raises=InvalidInput("no picture")), hooks=[left.append])

    with pytest.raises(InvalidInput):
        await parts(own, named("a", "b"))

    [record] = left
    [outcome] = record.outcomes
    assert isinstance(outcome, Failed)
    assert (record.task, outcome.error.code) == ("segment", "invalid_input")
