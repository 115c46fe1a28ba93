"""The use case behind every embedding face: limits, versions, capabilities, order, one record each task."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from modelmora.domain.description import Description
from modelmora.domain.inference import Call, Content, Embedded, Image, Inference, Text, Timings
from modelmora.domain.links import Link
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.preprocess import Preprocess, TextPreprocess
from modelmora.errors import (
    CapabilityMissing,
    InternalError,
    InvalidInput,
    LimitExceeded,
    ModelMoraError,
    ModelNotFound,
    Overloaded,
    ValidationFailed,
    VersionNotFound,
)
from modelmora.usecases.admission import first_error
from tests.fakes import CLIP, OLD, TIMINGS, VIT, World, vector_of

CALL = Call(request_id="r", deadline=5_000.0)
DESCRIBED = Description(
    model=CLIP.key,
    dimension=4,
    image=Preprocess(resize="exact", height=1, width=1),
    text=TextPreprocess(tokenizer="bytes", context_length=0),
)
READ_ERROR = Failed(InvalidInput("the door could not read it"))


class Kept:
    """A hook that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[Inference] = []

    def __call__(self, record: Inference) -> None:
        self.records.append(record)


def texts(*contents: str) -> list[Outcome[Content]]:
    return [Ok(Text(content)) for content in contents]


async def embed(world: World, ref: str | None, items: list[Outcome[Content]]) -> list[list[float] | str]:
    """Each item's vector, or its error's code."""
    answer = await world.embed()(ref, items, call=CALL)
    return [
        np.frombuffer(o.value.vector.data, "<f4").tolist() if isinstance(o, Ok) else o.error.code
        for o in answer.outcomes
    ]


async def test_the_answer_says_which_version_served_and_how_long_it_took() -> None:
    world = World()

    answer = await world.embed()(None, texts("a"), call=CALL)

    assert answer.model is CLIP
    assert answer.timings == TIMINGS
    assert answer.total_ms == 0.0
    assert world.embedder.asked[0].call is CALL


@pytest.mark.parametrize(
    ("ref", "model"), [(None, CLIP), ("", CLIP), ("vit", VIT), ("vit@1.0.0", OLD), ("vit@2.0.0-rc.1", VIT)]
)
async def test_the_reference_decides_who_serves(ref: str | None, model: object) -> None:
    world = World()

    assert (await world.embed()(ref, texts("a"), call=CALL)).model is model


@pytest.mark.parametrize(
    ("ref", "error"),
    [
        ("nothing", ModelNotFound),
        ("clip@9.9.9", VersionNotFound),
        ("a/b", ValidationFailed),
        ("sam", CapabilityMissing),
    ],
)
async def test_who_cannot_serve_is_refused_before_the_runners(ref: str, error: type[ModelMoraError]) -> None:
    world = World()

    with pytest.raises(error):
        await world.embed()(ref, texts("a"), call=CALL)
    assert world.embedder.asked == []


@pytest.mark.parametrize(("count", "error"), [(0, ValidationFailed), (9, LimitExceeded)])
async def test_the_number_of_items_is_checked_first(count: int, error: type[ModelMoraError]) -> None:
    with pytest.raises(error) as caught:
        await World().embed()("nothing", texts(*["a"] * count), call=CALL)
    assert (caught.value.field, caught.value.found) == ("items", str(count))


async def test_as_many_items_as_allowed_pass() -> None:
    assert len(await embed(World(), None, texts(*"abcdefgh"))) == 8


async def test_pictures_and_texts_go_their_ways_and_come_back_in_order() -> None:
    world = World()
    items: list[Outcome[Content]] = [Ok(Text("a")), Ok(Image(b"1")), READ_ERROR, Ok(Text("b")), Ok(Image(b"2"))]

    assert await embed(world, None, items) == [
        vector_of(b"a"),
        vector_of(b"1"),
        "invalid_input",
        vector_of(b"b"),
        vector_of(b"2"),
    ]
    assert {(a.task, len(a.items)) for a in world.embedder.asked} == {("embed_text", 2), ("embed_image", 2)}


async def test_an_item_over_its_limit_fails_alone_and_never_reaches_the_runners() -> None:
    world = World()
    items: list[Outcome[Content]] = [
        Ok(Text("x" * 100)),
        Ok(Text("x" * 101)),
        Ok(Text(" \n")),
        Ok(Image(b"x" * 4096)),
        Ok(Image(b"x" * 4097)),
    ]

    assert [isinstance(o, str) for o in await embed(world, None, items)] == [False, True, True, False, True]
    assert sum(len(a.items) for a in world.embedder.asked) == 2


async def test_items_that_all_failed_at_the_door_ask_nobody() -> None:
    world = World()

    assert await embed(world, None, [READ_ERROR, READ_ERROR]) == ["invalid_input", "invalid_input"]
    assert world.embedder.asked == []


async def test_an_embedder_that_loses_an_outcome_is_a_defect_not_a_shift() -> None:
    world = World()
    world.embedder.lost = 1

    with pytest.raises(InternalError, match="1 outcomes for 2 items"):
        await world.embed()(None, texts("a", "b"), call=CALL)


async def test_what_fails_for_the_whole_request_is_raised() -> None:
    world = World()
    world.embedder.raises = Overloaded("full")

    with pytest.raises(Overloaded):
        await world.embed()(None, [Ok(Text("a")), Ok(Image(b"1"))], call=CALL)


async def test_one_record_is_left_for_each_task() -> None:
    kept = Kept()
    world = World(hooks=[kept])
    world.embedder.fails = {b"bad": InvalidInput("bad")}

    await world.embed()("vit", [Ok(Text("a")), Ok(Image(b"bad")), Ok(Text("b"))], call=CALL)

    by_task = {record.task: record for record in kept.records}
    assert {task: record.items for task, record in by_task.items()} == {"embed_text": 2, "embed_image": 1}
    assert all(record.model is VIT and record.call is CALL for record in kept.records)
    assert [type(o) for o in by_task["embed_text"].outcomes] == [Ok, Ok]
    assert [type(o) for o in by_task["embed_image"].outcomes] == [Failed]


async def test_timings_are_the_slowest_items_and_nothing_when_all_failed() -> None:
    world = World()
    world.embedder.fails = {b"": InvalidInput("bad")}

    answer = await world.embed()(None, texts("a", "b"), call=CALL)

    assert answer.timings == Timings()
    assert isinstance(first_error(answer.outcomes), InvalidInput)


async def test_no_failure_means_no_first_error() -> None:
    assert first_error((await World().embed()(None, texts("a"), call=CALL)).outcomes) is None


def components(outcome: Outcome[Embedded]) -> list[float]:
    assert isinstance(outcome, Ok)
    return list(np.frombuffer(outcome.value.vector.data, "<f4").tolist())


async def test_vectors_are_cut_and_normalised_where_the_model_allows_it() -> None:
    world = World()
    world.describer.known[CLIP.key] = replace(DESCRIBED, shortens=2)
    world.embedder.fails = {b"bad": InvalidInput("bad")}
    items: list[Outcome[Content]] = [Ok(Text("a")), Ok(Image(b"bad")), Ok(Image(b"1"))]

    answer = await world.embed()(None, items, call=CALL, dimensions=3)

    for index, content in ((0, b"a"), (2, b"1")):
        first = np.array(vector_of(content)[:3])
        assert components(answer.outcomes[index]) == pytest.approx((first / np.linalg.norm(first)).tolist(), abs=1e-7)
    assert isinstance(answer.outcomes[1], Failed)


async def test_the_models_own_dimension_is_always_allowed_and_changes_nothing() -> None:
    answer = await World().embed()(None, texts("a"), call=CALL, dimensions=4)

    assert components(answer.outcomes[0]) == vector_of(b"a")


@pytest.mark.parametrize(("shortens", "wanted", "expected"), [(0, 3, "4"), (2, 1, "2 to 4"), (2, 5, "2 to 4")])
async def test_dimensions_a_model_does_not_have_are_refused_before_any_work(
    shortens: int, wanted: int, expected: str
) -> None:
    kept = Kept()
    world = World(hooks=[kept])
    world.describer.known[CLIP.key] = replace(DESCRIBED, shortens=shortens)
    items: list[Outcome[Content | Link]] = [Ok(Link("https://a.test/")), Ok(Text("a"))]

    with pytest.raises(ValidationFailed) as caught:
        await world.embed()(None, items, call=CALL, dimensions=wanted)
    assert (caught.value.field, caught.value.found, caught.value.expected) == ("dimensions", str(wanted), expected)
    assert (world.embedder.asked, world.pictures.asked, kept.records) == ([], [], [])


async def test_who_asks_for_neither_dimensions_nor_links_does_not_wait_for_a_description() -> None:
    world = World()

    await world.embed()(None, [Ok(Text("a")), Ok(Image(b"1"))], call=CALL)

    assert world.describer.asked == []


async def test_a_link_becomes_the_picture_behind_it() -> None:
    world = World()
    world.pictures.behind = {"https://a.test/1": b"first", "https://a.test/2": b"second"}
    items: list[Outcome[Content | Link]] = [
        Ok(Link("https://a.test/2")),
        Ok(Text("https://a.test/1")),
        READ_ERROR,
        Ok(Link("https://a.test/1")),
        Ok(Image(b"third")),
    ]

    answer = await world.embed()(None, items, call=CALL)

    assert [components(o) for o in answer.outcomes if isinstance(o, Ok)] == [
        vector_of(each) for each in (b"second", b"https://a.test/1", b"first", b"third")
    ]
    assert world.pictures.asked == ["https://a.test/2", "https://a.test/1"]
    assert {a.task: a.items for a in world.embedder.asked}["embed_image"] == (
        Image(b"second"),
        Image(b"first"),
        Image(b"third"),
    )


async def test_a_picture_that_cannot_be_had_fails_alone_and_is_in_the_record() -> None:
    kept = Kept()
    world = World(hooks=[kept])
    world.pictures.behind = {"https://a.test/1": b"first", "https://a.test/big": b"x" * 4097}
    urls = ("https://a.test/1", "https://a.test/none", "https://a.test/big")

    answer = await world.embed()(None, [Ok(Link(url)) for url in urls], call=CALL)

    assert [o.error.code if isinstance(o, Failed) else "ok" for o in answer.outcomes] == [
        "ok",
        "validation",
        "limit_exceeded",
    ]
    assert [(record.task, record.items) for record in kept.records] == [("embed_image", 3)]


async def test_nothing_is_fetched_for_a_model_that_takes_no_pictures() -> None:
    world = World()
    world.describer.known[CLIP.key] = replace(DESCRIBED, image=None)

    answer = await world.embed()(None, [Ok(Link("https://a.test/1")), Ok(Text("a"))], call=CALL)

    assert [o.error.code if isinstance(o, Failed) else "ok" for o in answer.outcomes] == ["capability_missing", "ok"]
    assert world.pictures.asked == []


async def test_a_server_with_more_than_it_takes_fetches_nothing() -> None:
    world = World()
    world.capacity.most = 1

    with pytest.raises(Overloaded) as caught:
        await world.embed()(None, [Ok(Link("https://a.test/1")), Ok(Link("https://a.test/2"))], call=CALL)
    assert caught.value.retry_after_s == 1.0
    assert (world.pictures.asked, world.describer.asked, world.embedder.asked) == ([], [], [])


async def test_pictures_that_are_being_fetched_are_under_way_until_the_embedder_has_them() -> None:
    world = World()
    world.pictures.hold, world.pictures.behind = asyncio.Event(), {"https://a.test/1": b"first"}
    world.capacity.most = 1
    embed = world.embed()

    first = asyncio.create_task(embed(None, [Ok(Link("https://a.test/1"))], call=CALL))
    await world.pictures.entered.wait()
    with pytest.raises(Overloaded):
        await embed(None, [Ok(Link("https://a.test/2"))], call=CALL)
    assert (world.pictures.asked, world.capacity.taken) == (["https://a.test/1"], 1)
    world.pictures.hold.set()

    assert components((await first).outcomes[0]) == vector_of(b"first")
    assert world.capacity.taken == 0


async def test_who_leaves_while_pictures_are_fetched_gives_the_room_back() -> None:
    world = World()
    world.pictures.hold = asyncio.Event()
    asked = asyncio.create_task(world.embed()(None, [Ok(Link("https://a.test/1"))], call=CALL))
    await world.pictures.entered.wait()

    asked.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asked
    assert (world.capacity.taken, world.embedder.asked) == (0, [])
