"""How far an item is: percentages that never fall, the newest step for a slow reader, the result always."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.domain.inference import Call, Content, Image, Text
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.progress import SPANS, Gauge, Stage, Step
from modelmora.errors import InvalidInput, LimitExceeded, ModelMoraError, ModelNotFound, Overloaded, ValidationFailed
from modelmora.usecases.embed_watched import EmbedWatched, Watched
from tests.fakes import OLD, World, until

CALL = Call(request_id="r", deadline=5_000.0)
STEPS = (
    Step("preprocessing", 0, 1),
    Step("preprocessing", 1, 1),
    Step("loading", 512, 2048),
    Step("loading", 2048, 2048),
    Step("inference", 6, 12),
)


def texts(*contents: str) -> list[Outcome[Content]]:
    return [Ok(Text(content)) for content in contents]


async def watched(world: World, items: list[Outcome[Content]], ref: str | None = None) -> list[Watched]:
    return [news async for news in EmbedWatched(world.embed())(ref, items, call=CALL)]


def test_every_stage_has_its_part_of_the_whole_one_after_the_other() -> None:
    assert list(SPANS) == [*get_args(Stage)]
    ends = [end for _, end in SPANS.values()]
    assert ends == sorted(ends)
    assert SPANS["done"] == (100.0, 100.0)


@pytest.mark.parametrize(
    ("step", "percent"),
    [
        (Step("queued"), 0.0),
        (Step("preprocessing", 1, 2), 5.0),
        (Step("loading"), 10.0),
        (Step("loading", 1, 2), 35.0),
        (Step("loading", 3, 2), 60.0),
        (Step("inference", 12, 12), 100.0),
        (Step("done"), 100.0),
    ],
)
def test_a_step_is_so_much_of_the_whole(step: Step, percent: float) -> None:
    assert step.percent() == percent


@given(st.lists(st.builds(Step, st.sampled_from(get_args(Stage)), st.integers(0, 9), st.integers(0, 9))))
def test_a_gauge_never_falls_whatever_it_is_told(steps: list[Step]) -> None:
    gauge = Gauge()
    seen = [gauge.take(step) for step in steps]
    assert seen == sorted(seen)
    assert all(0 <= percent <= 100 for percent in seen)


async def test_every_step_that_is_waited_for_is_told_and_then_the_result() -> None:
    world = World()
    world.embedder.hold = asyncio.Event()
    told: list[tuple[str, float]] = []

    async with aclosing(EmbedWatched(world.embed())(None, texts("a"), call=CALL)) as news:
        told.append(stage(await anext(news)))
        for step in STEPS:
            await until(lambda: world.embedder.watch is not None)
            assert world.embedder.watch is not None
            world.embedder.watch(0, step)
            told.append(stage(await anext(news)))
        world.embedder.hold.set()
        last = [each async for each in news]

    assert told == [
        ("queued", 0.0),
        ("preprocessing", 0.0),
        ("preprocessing", 10.0),
        ("loading", 22.5),
        ("loading", 60.0),
        ("inference", 80.0),
    ]
    assert [stage(each) for each in last] == [("done", 100.0)]
    assert isinstance(last[0].outcome, Ok)


async def test_a_slow_reader_gets_the_newest_step_only_and_the_result() -> None:
    world = World()
    world.embedder.steps = STEPS
    world.embedder.hold = asyncio.Event()

    async with aclosing(EmbedWatched(world.embed())(None, texts("a"), call=CALL)) as news:
        first = asyncio.ensure_future(anext(news))
        await until(world.embedder.entered.is_set)
        seen = [stage(await first)]
        world.embedder.hold.set()
        await until(lambda: world.embedder.running == 0)
        seen += [stage(each) async for each in news]

    assert seen[-1] == ("done", 100.0)
    assert len(seen) <= 3


async def test_a_step_back_leaves_the_percentage_where_it_was() -> None:
    world = World()
    world.embedder.hold = asyncio.Event()

    async with aclosing(EmbedWatched(world.embed())(None, texts("a"), call=CALL)) as news:
        await anext(news)
        await until(lambda: world.embedder.watch is not None)
        assert world.embedder.watch is not None
        world.embedder.watch(0, Step("inference", 1, 2))
        await anext(news)
        world.embedder.watch(0, Step("loading", 0, 100))
        assert stage(await anext(news)) == ("loading", 80.0)


async def test_a_step_that_comes_after_the_result_is_left_out() -> None:
    world = World()
    world.embedder.hold = asyncio.Event()

    async with aclosing(EmbedWatched(world.embed())(None, texts("a"), call=CALL)) as news:
        await anext(news)
        world.embedder.hold.set()
        await until(lambda: world.embedder.running == 0)
        assert world.embedder.watch is not None
        world.embedder.watch(0, Step("inference", 1, 2))
        rest = [each async for each in news]

    assert [stage(each) for each in rest] == [("done", 100.0)]
    assert isinstance(rest[0].outcome, Ok)


async def test_each_of_many_items_has_its_own_steps_and_result_as_they_complete() -> None:
    world = World()
    world.embedder.holds = {b"slow": asyncio.Event()}
    world.embedder.fails = {b"torn": InvalidInput("cut off")}
    items: list[Outcome[Content]] = [Ok(Text("slow")), Ok(Image(b"p")), Ok(Text("torn"))]
    done: list[Watched] = []

    async for news in EmbedWatched(world.embed())("vit@1.0.0", items, call=CALL):
        assert news.model is OLD
        done += [news] if news.outcome is not None else []
        if len(done) == 2:
            world.embedder.holds[b"slow"].set()

    assert [each.index for each in done][-1] == 0
    assert {each.index: type(each.outcome) for each in done} == {0: Ok, 1: Ok, 2: Failed}


async def test_what_was_never_begun_is_told_as_its_failure_only() -> None:
    items: list[Outcome[Content]] = [Failed(InvalidInput("not read")), Ok(Text("x" * 101))]

    news = await watched(World(), items)

    assert [(each.index, each.step.stage) for each in news] == [(0, "done"), (1, "done")]
    assert all(isinstance(each.outcome, Failed) for each in news)


@pytest.mark.parametrize(
    ("ref", "count", "error"), [("gone", 1, ModelNotFound), (None, 0, ValidationFailed), (None, 9, LimitExceeded)]
)
async def test_a_request_that_cannot_be_served_is_refused_before_anything_is_told(
    ref: str | None, count: int, error: type[ModelMoraError]
) -> None:
    world = World()

    with pytest.raises(error):
        await watched(world, texts(*["a"] * count), ref)
    assert world.embedder.asked == []


async def test_what_fails_the_request_is_the_items_outcome() -> None:
    world = World()
    world.embedder.raises = Overloaded("full")

    last = (await watched(world, texts("a")))[-1]

    assert isinstance(last.outcome, Failed)
    assert last.outcome.error.code == "overloaded"


async def test_leaving_early_frees_the_work() -> None:
    world = World()
    world.embedder.hold = asyncio.Event()

    async with aclosing(EmbedWatched(world.embed())(None, texts("a", "b"), call=CALL)) as news:
        await anext(news)
        await until(lambda: world.embedder.running == 2)

    assert world.embedder.running == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_who_does_not_watch_pays_nothing() -> None:
    world = World()
    world.embedder.steps = STEPS

    await world.embed()(None, texts("a"), call=CALL)

    assert world.embedder.watch is None


async def test_steps_of_mixed_items_are_told_by_their_place_in_the_request() -> None:
    world = World()
    world.embedder.steps = STEPS[:1]
    told: list[int] = []
    items: list[Outcome[Content]] = [Ok(Text("a")), Ok(Image(b"1")), Ok(Text("b")), Ok(Image(b"2"))]

    await world.embed()(None, items, call=CALL, watch=lambda index, _: told.append(index))

    assert sorted(told) == [0, 1, 2, 3]


def stage(news: Watched) -> tuple[str, float]:
    return news.step.stage, news.percent
