"""Masks through the client, over each wire, against the real doors."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from modelmora.client import (
    Box,
    Client,
    Everything,
    Failed,
    Ok,
    Outcome,
    Point,
    Prompt,
    Retry,
    Segmentation,
    SyncClient,
    Tensor,
    unwrap,
)
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec
from modelmora.domain.segmentation import Everything as AskedForEverything
from modelmora.errors import (
    CapabilityMissing,
    DeadlineExceeded,
    DependencyUnavailable,
    InvalidInput,
    ModelNotFound,
    OutOfMemory,
    Overloaded,
    ValidationFailed,
    WrongState,
)
from tests.doors.client_doors import connected, over
from tests.doors.client_script import Script
from tests.doors.client_servers import grpc_server
from tests.doors.test_http_segment import DEFAULT_SAM, DRAWN, LOGITS, PIXELS, drawn
from tests.fakes import CLIP, MASK, TIMINGS, World, until
from tests.support import reserve_port

SOMEWHERE = Prompt(points=(Point(x=1, y=1),))
THREE = [replace(SOMEWHERE, id=name) for name in ("a", "b", "c")]
Serve = Callable[[], AbstractAsyncContextManager[None]]


@pytest.fixture(params=["grpc", "http"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world() -> World:
    return World(catalogue=Catalogue((CLIP, DEFAULT_SAM), (GroupSpec(),)))


@pytest.fixture
async def client(wire: str, world: World) -> AsyncIterator[Client]:
    async with connected(wire, world) as client:
        yield client


async def test_masks_come_as_arrays_as_picture_files_and_as_coco_has_them(client: Client, world: World) -> None:
    drawn(world)

    (outcome,) = await client.segment_all(b"a picture", [SOMEWHERE], logits=True)

    found = unwrap(outcome)
    assert (found.key, found.height, found.width, found.timings) == ("sam@2.0.0", 2, 3, TIMINGS)
    (mask,) = found.masks
    assert mask.to_array().tolist() == PIXELS.astype(bool).tolist()
    assert np.array_equal(np.array(Image.open(io.BytesIO(mask.to_png()))), PIXELS.astype(bool))
    assert np.array_equal(coco.decode(mask.rle), PIXELS)
    assert (mask.score, mask.area, mask.box, mask.stability) == (0.5, 3, DRAWN.box, 0.25)
    assert mask.logits is not None
    assert np.asarray(mask.logits).tolist() == [[0, 1], [2, 3]]


async def test_what_is_asked_arrives_as_it_was_given(client: Client, world: World) -> None:
    background = Point(x=2.5, y=0, background=True)
    prompts = [
        Prompt(
            id="cup", points=(Point(x=1, y=1.5), background), box=Box(left=0, top=0, right=2, bottom=2), mask=LOGITS
        ),
        Prompt(box=Box(left=0, top=1, right=2, bottom=2)),
    ]

    await client.segment_all(b"a picture", prompts, multimask=False, logits=True, model="sam@2.0.0", timeout=5)
    await client.segment_all(b"a picture", prompts[1:])

    (_, image, asked, options, call), (_, _, _, usual, _) = world.segmenter.asked
    assert (image.data, asked) == (b"a picture", prompts)
    assert (options.multimask, options.logits) == (False, True)
    assert (usual.multimask, usual.logits) == (None, False)
    assert call.deadline - time.monotonic() < 5.1


async def test_coordinates_of_numpy_are_taken(client: Client, world: World) -> None:
    x, y = np.array([1, 2])
    left, bottom = np.array([0.5, 2], "<f4")
    box = Box(left=left, top=x, right=y, bottom=bottom)
    await client.segment_all(b"a picture", [Prompt(points=(Point(x=x, y=y),), box=box)])
    assert world.segmenter.asked[0][2] == [
        Prompt(points=(Point(x=1, y=2),), box=Box(left=0.5, top=1, right=2, bottom=2))
    ]


async def test_parts_come_as_they_are_done_and_are_collected_in_order(client: Client) -> None:
    assert [index async for index, _ in client.segment(b"a picture", THREE)] == [2, 1, 0]
    outcomes = await client.segment_all(b"a picture", THREE)
    assert [type(outcome) for outcome in outcomes] == [Ok] * 3


async def test_a_prompt_that_fails_leaves_the_others_whole(client: Client, world: World) -> None:
    world.segmenter.fails = {
        "b": ValidationFailed("out of the picture", field="prompts[1].box", found="(9, 9)", expected="inside"),
        "c": OutOfMemory("too large"),
    }
    found = await client.segment_all(b"a picture", THREE)
    assert [type(outcome) for outcome in found] == [Ok, Failed, Failed]
    assert isinstance(found[1], Failed)
    assert (found[1].error.field, found[1].error.found) == ("prompts[1].box", "(9, 9)")


async def test_what_no_picture_could_answer_is_not_sent(client: Client, world: World) -> None:
    wrong = [
        Prompt(),
        Prompt(points=(Point(x=float("nan"), y=0),)),
        Prompt(box=Box(left=2, top=0, right=1, bottom=1)),
        Prompt(points=(Point(x="left", y=0),)),  # type: ignore[arg-type]
        "left",
    ]
    outcomes = await client.segment_all(b"a picture", [SOMEWHERE, *wrong])  # type: ignore[list-item]
    assert [type(outcome) for outcome in outcomes] == [Ok, *[Failed] * 5]
    assert [one.error.field for one in outcomes if isinstance(one, Failed)] == [
        "prompts[1]",
        "prompts[2].points[0]",
        "prompts[3].box",
        "prompts[4]",
        "prompts[5]",
    ]
    assert [asked for _, _, asked, _, _ in world.segmenter.asked] == [[SOMEWHERE]]


async def test_an_only_prompt_fails_as_one_of_many_would(client: Client, world: World) -> None:
    world.segmenter.fails = {"a": ValidationFailed("out of the picture", field="prompts[0].points[0]")}
    (outcome,) = await client.segment_all(b"a picture", THREE[:1])
    assert isinstance(outcome, Failed)
    assert outcome.error.field == "prompts[0].points[0]"


@pytest.mark.parametrize("prompts", [THREE, THREE[:1]])
async def test_what_is_wrong_with_the_request_is_raised(client: Client, world: World, prompts: list[Prompt]) -> None:
    with pytest.raises(ModelNotFound, match="gone"):
        await client.segment_all(b"a picture", prompts, model="gone")
    with pytest.raises(CapabilityMissing):
        await client.segment_all(b"a picture", prompts, model="clip")
    world.segmenter.raises = InvalidInput("the picture is cut off", field="image")
    with pytest.raises(InvalidInput, match="cut off"):
        await client.segment_all(b"a picture", prompts)


async def test_what_cannot_be_asked_is_refused(client: Client, world: World, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="absent: No such file"):
        await client.segment_all(tmp_path / "absent", [SOMEWHERE])
    with pytest.raises(ValidationFailed, match="points_per_side"):
        await client.segment_all(b"a picture", Everything(points_per_side=0))
    for wrong in (4.5, "many"):
        with pytest.raises(ValidationFailed, match="something else than numbers"):
            await client.segment_all(b"a picture", Everything(points_per_side=wrong))  # type: ignore[arg-type]
    with pytest.raises(ValidationFailed, match="prompts is no list"):
        await client.segment_all(b"a picture", SOMEWHERE)  # type: ignore[arg-type]
    assert await client.segment_all(b"a picture", []) == []
    assert world.segmenter.asked == []
    await client.close()
    with pytest.raises(WrongState, match="closed"):
        await client.segment_all(b"a picture", [SOMEWHERE])


async def test_everything_comes_a_mask_at_a_time(client: Client, world: World) -> None:
    world.segmenter.gives = (MASK, replace(MASK, score=0.5, stability=0.97))

    first, second = await client.segment_all(b"a picture", Everything(points_per_side=4, min_score=0, min_area=3))

    assert (unwrap(first).masks[0].score, unwrap(second).masks[0].stability) == (0.75, 0.97)
    asked = world.segmenter.asked[0][2]
    assert isinstance(asked, AskedForEverything)
    assert (asked.points_per_side, asked.min_stability, asked.min_area) == (4, 0.95, 3)
    assert asked.min_score < 1e-300  # not the usual 0.88


async def test_prompts_that_met_a_full_queue_are_asked_again_alone(client: Client, world: World) -> None:
    world.segmenter.fails = {"b": Overloaded("the queue is full", retry_after_s=0.01)}

    async def recover() -> None:
        await until(lambda: len(world.segmenter.asked) > 1)
        world.segmenter.fails = {}

    recovering = asyncio.create_task(recover())
    found = await collected(client.segment(b"a picture", THREE))
    await recovering

    assert {index: type(outcome) for index, outcome in found.items()} == {0: Ok, 1: Ok, 2: Ok}
    # `id`s travel along, so that the fake knows them apart.
    assert [len(asked) for _, _, asked, _, _ in world.segmenter.asked if isinstance(asked, list)][:2] == [3, 1]


async def test_prompts_that_stay_refused_fail_with_the_reason(wire: str, world: World) -> None:
    world.segmenter.fails = {"b": Overloaded("the queue is full"), "c": Overloaded("the queue is full")}
    async with connected(wire, world, retry=Retry(initial_s=0.001, retries=2)) as client:
        found = await client.segment_all(b"a picture", THREE)
        with pytest.raises(Overloaded):
            await client.segment_all(b"a picture", THREE[1:2])
    assert [o.error.code if isinstance(o, Failed) else "ok" for o in found] == ["ok", "overloaded", "overloaded"]


@pytest.mark.parametrize("asked", [THREE, Everything()], ids=["prompts", "everything"])
async def test_a_server_that_restarts_in_the_middle_is_not_heard_twice(
    wire: str, world: World, asked: list[Prompt] | Everything
) -> None:
    port = reserve_port()
    world.segmenter.gives = (MASK, replace(MASK, score=0.5), replace(MASK, score=0.25))
    world.segmenter.hold = asyncio.Event()
    seen = []
    retry = Retry(initial_s=0.05, max_s=0.1)
    async with (
        Client(f"{wire}://127.0.0.1:{port}", retry=retry, timeout=20) as client,
        aclosing(client.segment(b"a picture", asked)) as parts,
    ):
        async with over(wire, world, port):
            seen.append((await anext(parts))[0])
        world.segmenter.hold = None
        async with over(wire, world, port):
            seen += [index async for index, _ in parts]
    assert sorted(seen) == [0, 1, 2]
    again = world.segmenter.asked[-1]
    assert again[0].key == "sam@2.0.0"
    assert isinstance(again[2], Everything) or again[2] == THREE[:2]


async def test_a_server_that_stays_away_fails_what_was_not_answered(wire: str, world: World) -> None:
    port = reserve_port()
    world.segmenter.hold = asyncio.Event()
    found = {}
    async with Client(f"{wire}://127.0.0.1:{port}", retry=Retry(initial_s=0.01, retries=2)) as client:
        async with aclosing(client.segment(b"a picture", THREE)) as parts:
            async with over(wire, world, port):
                index, outcome = await anext(parts)
                found[index] = outcome
            async for index, outcome in parts:
                found[index] = outcome
        with pytest.raises(DependencyUnavailable):
            await client.segment_all(b"a picture", THREE)
    codes = {index: o.error.code if isinstance(o, Failed) else "ok" for index, o in found.items()}
    assert codes == {0: "dependency_unavailable", 1: "dependency_unavailable", 2: "ok"}


async def test_leaving_early_frees_the_server(client: Client, world: World) -> None:
    world.segmenter.hold = asyncio.Event()
    async with aclosing(client.segment(b"a picture", THREE)) as parts:
        await anext(parts)
        assert not world.segmenter.left.is_set()
    await asyncio.wait_for(world.segmenter.left.wait(), 10)


async def test_a_client_that_is_closed_meanwhile_says_so_of_what_was_not_answered(client: Client, world: World) -> None:
    world.segmenter.hold = asyncio.Event()
    parts = client.segment(b"a picture", THREE)
    await anext(parts)
    rest = asyncio.ensure_future(collected(parts))
    await asyncio.wait_for(world.segmenter.entered.wait(), 10)
    await client.close()
    assert {index: type(outcome) for index, outcome in (await rest).items()} == {0: Failed, 1: Failed}


async def test_the_deadline_is_kept(client: Client, world: World) -> None:
    world.segmenter.hold = asyncio.Event()
    began = time.monotonic()
    found = {}
    try:
        found = await collected(client.segment(b"a picture", THREE, timeout=0.4))
    except DeadlineExceeded:  # before the first part: a loaded machine
        return
    assert time.monotonic() - began < 5
    assert {index: type(outcome) for index, outcome in found.items()} == {2: Ok, 1: Failed, 0: Failed}


async def test_a_mask_of_an_earlier_answer_goes_back_as_it_came(client: Client, world: World) -> None:
    drawn(world)
    (outcome,) = await client.segment_all(b"a picture", [SOMEWHERE], logits=True)
    earlier = unwrap(outcome).masks[0].logits
    await client.segment_all(b"a picture", [replace(SOMEWHERE, mask=earlier)])
    prompts = world.segmenter.asked[1][2]
    assert isinstance(prompts, list)
    assert prompts[0].mask == Tensor(dtype="float32", shape=(2, 2), data=LOGITS.data)


def test_the_sync_client_segments() -> None:
    with grpc_server(Script()) as url, SyncClient(url) as client:
        assert [index for index, _ in client.segment(b"a picture", THREE)] == [2, 1, 0]
        found = client.segment_all(b"a picture", Everything())
    assert [unwrap(outcome).masks[0].score for outcome in found] == [0.5, 0.75]


async def collected(parts: AsyncIterator[tuple[int, Outcome[Segmentation]]]) -> dict[int, Outcome[Segmentation]]:
    found: dict[int, Outcome[Segmentation]] = {}
    async for index, outcome in parts:
        assert index not in found
        found[index] = outcome
    return found
