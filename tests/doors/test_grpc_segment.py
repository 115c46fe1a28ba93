"""The RPC `Segment` over an application of fakes."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec, ModelSpec
from modelmora.domain.segmentation import Box, Everything, MaskOptions, Point, Prompt
from modelmora.domain.tensors import Tensor
from modelmora.errors import ValidationFailed
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc, types_pb2
from tests.doors.test_http_segment import DRAWN, LOGITS, PIXELS
from tests.fakes import CLIP, STAGES, World, until

DEFAULT_SAM = ModelSpec(
    name="sam", version="2.0.0", type="segmentation", provider="sam", source="hub:somebody/sam", default=True
)
CENTRE = pb.Prompt(points=[pb.Point(x=1, y=1)])


@pytest.fixture
def world() -> World:
    world = World(catalogue=Catalogue((CLIP, DEFAULT_SAM), (GroupSpec(),)))
    world.segmenter.gives, world.segmenter.size = (DRAWN,), (2, 3)
    return world


@pytest.fixture
def inference(channel: grpc.aio.Channel) -> Any:
    return inference_pb2_grpc.ModelInferenceStub(channel)


def request(*prompts: pb.Prompt, **more: Any) -> pb.SegmentRequest:
    return pb.SegmentRequest(image=b"picture", prompts=prompts, **more)


async def answers(inference: Any, asked: pb.SegmentRequest) -> list[pb.SegmentResponse]:
    return [answer async for answer in inference.Segment(asked)]


async def refusal(inference: Any, asked: pb.SegmentRequest) -> tuple[grpc.StatusCode, types_pb2.ItemError]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(inference, asked)
    metadata = dict(caught.value.trailing_metadata() or ())
    return caught.value.code(), types_pb2.ItemError.FromString(metadata["modelmora-error-bin"])


async def test_masks_come_as_the_prompts_complete(inference: Any) -> None:
    call = inference.Segment(request(pb.Prompt(id="cup", box=pb.Box(left=1, top=2, right=3, bottom=4)), CENTRE))

    second, first = [answer async for answer in call]

    assert [(answer.index, answer.id) for answer in (first, second)] == [(0, "cup"), (1, "")]
    assert (first.model, first.version, first.height, first.width) == ("sam", "2.0.0", 2, 3)
    assert re.fullmatch(STAGES, first.server_timing)
    [mask] = first.masks
    assert (mask.data, mask.score, mask.area, mask.stability) == (DRAWN.counts, 0.5, 3, 0.25)
    assert mask.box == pb.Box(left=1, top=0, right=3, bottom=2)
    assert mask.logits == types_pb2.Vector(data=LOGITS.data, dtype=types_pb2.DTYPE_FLOAT32, shape=[2, 2])
    assert re.fullmatch(STAGES, dict(await call.trailing_metadata())["server-timing"])


async def test_masks_as_bytes_and_as_pictures(inference: Any) -> None:
    [of_bytes] = await answers(inference, request(CENTRE, format=pb.MASK_FORMAT_BYTES))
    [of_png] = await answers(inference, request(CENTRE, format=pb.MASK_FORMAT_PNG))

    assert of_bytes.masks[0].data == PIXELS.tobytes()
    assert of_png.masks[0].data.startswith(b"\x89PNG")


async def test_what_was_asked_reaches_the_use_case(inference: Any, world: World) -> None:
    earlier = types_pb2.Vector(data=np.zeros((2, 2), "<f4").tobytes(), shape=[2, 2])
    prompt = pb.Prompt(
        points=[pb.Point(x=1, y=2), pb.Point(x=3, y=4, background=True)],
        box=pb.Box(left=0, top=0, right=3, bottom=2),
        mask=earlier,
    )

    await answers(inference, request(prompt, model="sam@2.0.0", multimask=False, logits=True))
    await answers(inference, request(CENTRE))

    (model, image, asked, options, call), (_, _, _, usual, _) = world.segmenter.asked
    assert (model, image.data, call.face) == (DEFAULT_SAM, b"picture", "grpc")
    assert asked == [
        Prompt(
            points=(Point(x=1, y=2), Point(x=3, y=4, background=True)),
            box=Box(left=0, top=0, right=3, bottom=2),
            mask=Tensor(dtype="float32", shape=(2, 2), data=bytes(16)),
        )
    ]
    assert options == MaskOptions(multimask=False, logits=True)
    assert usual == MaskOptions(multimask=None, logits=False)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (pb.Everything(), Everything()),
        (
            pb.Everything(points_per_side=8, min_score=0.5, min_stability=0.25, min_area=7),
            Everything(points_per_side=8, min_score=0.5, min_stability=0.25, min_area=7),
        ),
    ],
)
async def test_everything_may_be_asked_for(
    inference: Any, world: World, given: pb.Everything, asked: Everything
) -> None:
    world.segmenter.gives = (DRAWN, DRAWN)

    found = await answers(inference, pb.SegmentRequest(image=b"picture", everything=given))

    assert [(answer.index, len(answer.masks)) for answer in found] == [(0, 1), (1, 1)]
    assert world.segmenter.asked[0][2] == asked


async def test_a_prompt_that_fails_fails_alone(inference: Any, world: World) -> None:
    world.segmenter.fails = {"bad": ValidationFailed("outside", field="prompts[1].box")}
    bad = pb.Prompt(id="bad", box=pb.Box(right=1, bottom=1))

    found = {answer.index: answer for answer in await answers(inference, request(CENTRE, bad))}

    assert not found[0].HasField("error")
    assert (found[1].error.code, found[1].error.field, found[1].id) == ("validation", "prompts[1].box", "bad")


async def test_a_request_of_one_prompt_has_its_status(inference: Any, world: World) -> None:
    world.segmenter.fails = {"": ValidationFailed("outside", field="prompts[0].box")}

    status, error = await refusal(inference, request(CENTRE))

    assert (status, error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "validation", "prompts[0].box")


@pytest.mark.parametrize(
    ("asked", "status", "field"),
    [
        (pb.SegmentRequest(image=b"a"), grpc.StatusCode.INVALID_ARGUMENT, "prompts"),
        (
            pb.SegmentRequest(image=b"a", prompts=[CENTRE], everything=pb.Everything()),
            grpc.StatusCode.INVALID_ARGUMENT,
            "everything",
        ),
        (
            pb.SegmentRequest(image=b"a", everything=pb.Everything(points_per_side=99)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "everything.points_per_side",
        ),
        (
            pb.SegmentRequest(image=b"a", everything=pb.Everything(min_score=float("nan"))),
            grpc.StatusCode.INVALID_ARGUMENT,
            "everything.min_score",
        ),
        (
            pb.SegmentRequest(image=b"a", prompts=[CENTRE], format=9),  # type: ignore[arg-type] # that is the point
            grpc.StatusCode.INVALID_ARGUMENT,
            "format",
        ),
        (
            pb.SegmentRequest(
                image=b"a",
                prompts=[pb.Prompt(points=CENTRE.points, mask=types_pb2.Vector(dtype=types_pb2.DTYPE_INT64))],
            ),
            grpc.StatusCode.INVALID_ARGUMENT,
            "prompts[0].mask.dtype",
        ),
        (
            pb.SegmentRequest(
                image=b"a",
                prompts=[CENTRE, pb.Prompt(points=CENTRE.points, mask=types_pb2.Vector(shape=[1] * 1_000))],
            ),
            grpc.StatusCode.INVALID_ARGUMENT,
            "prompts[1].mask.shape",
        ),
        (
            pb.SegmentRequest(
                image=b"a",
                prompts=[pb.Prompt(points=CENTRE.points, mask=types_pb2.Vector(shape=[2**32 - 1] * 2, data=b"1234"))],
            ),
            grpc.StatusCode.INVALID_ARGUMENT,
            "prompts[0].mask.data",
        ),
        (pb.SegmentRequest(image=b"a", prompts=[CENTRE], model="clip"), grpc.StatusCode.FAILED_PRECONDITION, "model"),
        (pb.SegmentRequest(image=b"a", prompts=[CENTRE] * 1_001), grpc.StatusCode.RESOURCE_EXHAUSTED, "prompts"),
    ],
)
async def test_what_is_wrong_is_told_by_its_place(
    inference: Any, world: World, asked: pb.SegmentRequest, status: grpc.StatusCode, field: str
) -> None:
    found, error = await refusal(inference, asked)

    assert (found, error.field) == (status, field)
    assert world.segmenter.asked == []


async def test_masks_too_large_for_a_message_say_what_to_ask_for(inference: Any, world: World) -> None:
    world.segmenter.size = (8_000, 8_000)

    status, error = await refusal(inference, request(CENTRE, format=pb.MASK_FORMAT_BYTES))
    both = await answers(inference, request(CENTRE, CENTRE, format=pb.MASK_FORMAT_BYTES))

    assert (status, error.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "limit_exceeded")
    assert [answer.error.code for answer in both] == ["limit_exceeded"] * 2


async def test_one_who_does_not_read_frees_the_work_at_the_deadline(inference: Any, world: World) -> None:
    large = replace(DRAWN, counts=bytes(2**19))
    world.segmenter.gives, prompts = (large,), [CENTRE] * 400
    call = inference.Segment(request(*prompts), metadata=(("x-modelmora-timeout-ms", "500"),))

    await until(world.segmenter.left.is_set)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        assert len([answer async for answer in call]) < len(prompts)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_caller_who_leaves_frees_the_work(inference: Any, world: World) -> None:
    world.segmenter.hold = asyncio.Event()
    call = inference.Segment(request(CENTRE, CENTRE))
    await call.read()
    await until(world.segmenter.entered.is_set)

    call.cancel()

    await until(world.segmenter.left.is_set)
