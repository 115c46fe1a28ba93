"""The use case behind streams of items: results as they complete, bounded memory, nothing left running."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import pytest

from modelmora.domain.inference import Call, Content, Image, Inference, Text
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import (
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    ModelLoadFailed,
    ModelMoraError,
    ModelNotFound,
    Overloaded,
    ValidationFailed,
)
from modelmora.usecases.embed_stream import TOGETHER, EmbedStream, Entry, Streamed
from modelmora.window import Window
from tests.fakes import CLIP, OLD, VIT, Clock, World, until

CALL = Call(request_id="r", deadline=math.inf, priority="bulk")
TORN = InvalidInput("cut off")


@dataclass(slots=True)
class Source:
    """Entries one after the other; counts what was taken, and whether it was closed."""

    entries: Sequence[Entry]
    trouble: Exception | None = None
    pause: asyncio.Event | None = None
    taken: int = 0
    closed: bool = False

    async def __call__(self) -> AsyncGenerator[Entry, None]:
        try:
            for entry in self.entries:
                self.taken += 1
                yield entry
            if self.pause is not None:
                await self.pause.wait()
            if self.trouble is not None:
                raise self.trouble
        finally:
            self.closed = True


def pictures(count: int, size: int = 0) -> list[Entry]:
    return [picture(f"{index:04}".encode() + b"." * size, tag=f"t{index}") for index in range(count)]


def picture(data: bytes, **more: object) -> Entry:
    return Entry(content=Ok(Image(data)), **more)  # type: ignore[arg-type] # more are Entry's own fields


def text(content: str, **more: object) -> Entry:
    return Entry(content=Ok(Text(content)), **more)  # type: ignore[arg-type] # as above


async def streamed(stream: EmbedStream, source: Source, call: Call = CALL) -> list[Streamed]:
    return [result async for part in stream(source(), call=call) for result in part]


async def ended(stream: EmbedStream, source: Source, call: Call = CALL) -> tuple[list[Streamed], ModelMoraError]:
    """What was answered before the error that ended the stream, and the error."""
    results: list[Streamed] = []
    try:
        async for part in stream(source(), call=call):
            results += part
    except ModelMoraError as error:
        return results, error
    raise AssertionError("the stream did not end with an error")


def codes(results: Sequence[Streamed]) -> list[str]:
    """Each item's code, in the order of the items."""
    by_index = sorted(results, key=lambda result: result.index)
    assert [result.index for result in by_index] == list(range(len(by_index)))
    return ["ok" if isinstance(r.outcome, Ok) else r.outcome.error.code for r in by_index]


async def test_every_item_is_answered_once_with_its_tag_and_version() -> None:
    world = World()

    results = await streamed(world.embed_stream(), Source(pictures(150)))

    assert codes(results) == ["ok"] * 150
    assert all(result.tag == f"t{result.index}" and result.model is CLIP for result in results)


async def test_a_slow_item_delays_nobody() -> None:
    world = World()
    world.embedder.holds = {b"slow": asyncio.Event()}
    order = []

    async for part in world.embed_stream()(Source([text("slow"), text("a"), text("b")])(), call=CALL):
        order += [result.index for result in part]
        if len(order) == 2:
            world.embedder.holds[b"slow"].set()

    assert sorted(order[:2]) == [1, 2]
    assert order[2] == 0


async def test_nothing_in_nothing_out() -> None:
    assert await streamed(World().embed_stream(), Source([])) == []


async def test_the_input_is_not_read_further_than_the_window_has_room() -> None:
    world, source = World(), Source(pictures(100))
    world.embedder.hold = asyncio.Event()
    stream = world.embed_stream(window_items=10)

    async with aclosing(stream(source(), call=CALL)) as parts:
        first = asyncio.ensure_future(anext(parts))
        await until(lambda: world.embedder.running == 10)
        await settled()
        assert source.taken == 11  # one in the hand of who reads

        world.embedder.hold.set()
        rest = [*(await first), *[result async for part in parts for result in part]]

    assert codes(rest) == ["ok"] * 100
    assert world.embedder.most == 10


async def held(world: World, stream: EmbedStream, source: Source, *, running: int) -> list[Streamed]:
    """All results, after it was seen that so many items run at once and no more are begun."""
    world.embedder.hold = asyncio.Event()
    reading = asyncio.create_task(streamed(stream, source))
    await until(lambda: world.embedder.running == running)
    await settled()
    assert world.embedder.running == running
    world.embedder.hold.set()
    return await reading


async def test_large_items_fill_the_window_by_their_bytes() -> None:
    world = World()
    stream = world.embed_stream(window_items=10, window_bytes=3_500)

    assert codes(await held(world, stream, Source(pictures(20, 1_000)), running=3)) == ["ok"] * 20
    assert world.embedder.most == 3


async def test_an_item_larger_than_the_window_goes_alone() -> None:
    world = World()
    stream = world.embed_stream(window_bytes=1_000)

    assert codes(await held(world, stream, Source(pictures(5, 3_000)), running=1)) == ["ok"] * 5
    assert world.embedder.most == 1


@pytest.mark.parametrize("enter", [(5,), (1, 1, 1), (3, 1)])
async def test_a_window_lets_in_what_fits_and_then_nothing(enter: tuple[int, ...]) -> None:
    window = Window(items=3, size=4)
    for size in enter:
        await window.enter(size)
    waiting = asyncio.ensure_future(window.enter(1))
    await settled()
    assert not waiting.done()

    window.leave(enter[0])
    await asyncio.wait_for(waiting, 10)


async def test_who_reads_only_after_having_sent_everything_is_served() -> None:
    world, source = World(), Source(pictures(150))

    async with aclosing(world.embed_stream()(source(), call=CALL)) as parts:
        results = await anext(parts)
        await until(lambda: source.closed)
        results += [result async for part in parts for result in part]

    assert codes(results) == ["ok"] * 150


async def test_results_that_wait_come_together_but_not_all_at_once() -> None:
    world, source = World(), Source(pictures(150))

    async with aclosing(world.embed_stream(window_items=200)(source(), call=CALL)) as parts:
        sizes = [len(await anext(parts))]
        await until(lambda: source.closed and world.embedder.running == 0)
        sizes += [len(part) async for part in parts]

    assert max(sizes) == TOGETHER
    assert sum(sizes) == 150


async def test_items_fail_alone_whatever_the_reason() -> None:
    world = World()
    world.embedder.fails = {b"torn": TORN}
    unread: Outcome[Content] = Failed(ValidationFailed("the door could not read it"))
    items = [text("a"), text("torn"), Entry(content=unread), text(" "), text("x" * 101), picture(b"p")]

    results = await streamed(world.embed_stream(), Source(items))

    assert codes(results) == ["ok", "invalid_input", "validation", "validation", "limit_exceeded", "ok"]


async def test_what_fails_a_request_fails_the_item_and_the_stream_goes_on() -> None:
    world = World()
    world.embedder.raises = ModelLoadFailed("no such file")
    assert codes(await streamed(world.embed_stream(), Source([text("a"), text("b")]))) == ["model_load_failed"] * 2

    world.embedder.raises = RuntimeError("secret")
    results = await streamed(world.embed_stream(), Source([text("a"), text("b")]))
    assert codes(results) == ["internal"] * 2
    assert "secret" not in repr(results)


async def test_an_item_that_finds_the_queue_full_waits_for_room_until_its_deadline() -> None:
    world, clock, pauses = World(), Clock(), list[float]()
    world.embedder.fails = {b"": Overloaded("full", retry_after_s=2.0)}

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.now += seconds
        if len(pauses) == 3:
            world.embedder.fails = {}

    stream = EmbedStream(world.embed(), limits=world.limits, clock=clock, sleep=sleep)
    assert codes(await streamed(stream, Source([text("a")]))) == ["ok"]
    assert all(1.0 <= pause <= 3.0 for pause in pauses)

    world.embedder.fails = {b"": Overloaded("full", retry_after_s=2.0)}
    began = clock.now
    assert codes(await streamed(stream, Source([text("a")]))) == ["overloaded"]
    assert 7.0 <= clock.now - began < 10.0


async def test_each_item_goes_to_the_model_it_names() -> None:
    items = [text("a"), text("b", model="vit"), text("c", model="vit@1.0.0"), text("d", model="gone"), text("e")]

    results = await streamed(World().embed_stream(), Source(items))

    assert codes(results) == ["ok", "ok", "ok", "model_not_found", "ok"]
    assert [r.model for r in sorted(results, key=lambda r: r.index)] == [CLIP, VIT, OLD, None, CLIP]


async def test_a_first_item_for_an_unknown_model_fails_the_whole() -> None:
    world = World()

    with pytest.raises(ModelNotFound):
        await streamed(world.embed_stream(), Source([text("a", model="gone"), text("b")]))
    assert world.embedder.asked == []


async def test_truncation_priority_and_request_travel_with_each_item() -> None:
    world = World()

    await streamed(world.embed_stream(), Source([text("a", truncate=True), text("b")]))

    calls = [asked.call for asked in world.embedder.asked]
    assert [(call.truncate, call.priority, call.request_id) for call in calls] == [
        (True, "bulk", "r"),
        (False, "bulk", "r"),
    ]


async def test_a_deadline_of_the_whole_holds_for_each_item_and_without_one_each_has_the_usual_time() -> None:
    world, clock = World(), Clock()
    stream = EmbedStream(world.embed(), limits=world.limits, clock=clock)

    await streamed(stream, Source([text("a")]), replace(CALL, deadline=clock.now + 500))
    await streamed(stream, Source([text("a")]))

    assert [asked.call.deadline for asked in world.embedder.asked] == [clock.now + 500, clock.now + 10]


async def test_an_input_that_goes_on_beyond_the_deadline_ends_the_stream() -> None:
    source = Source([text("a")], pause=asyncio.Event())

    results, error = await ended(World().embed_stream(), source, replace(CALL, deadline=time.monotonic() + 0.05))

    assert codes(results) == ["ok"]
    assert isinstance(error, DeadlineExceeded)
    assert source.closed


async def test_items_beyond_the_limit_end_the_stream_after_the_others_are_answered() -> None:
    source = Source(pictures(300))

    results, error = await ended(World().embed_stream(), source)

    assert codes(results) == ["ok"] * 200
    assert isinstance(error, LimitExceeded)
    assert error.expected == "at most 200"
    assert source.taken == 201


async def test_trouble_with_the_input_is_told_once_what_was_read_is_answered() -> None:
    world = World()
    world.embedder.hold = asyncio.Event()
    source = Source(pictures(3), trouble=TORN)
    reading = asyncio.create_task(ended(world.embed_stream(), source))
    await until(lambda: source.closed)

    world.embedder.hold.set()
    results, error = await reading

    assert codes(results) == ["ok"] * 3
    assert error is TORN


async def test_an_input_whose_sender_is_gone_ends_everything_at_once() -> None:
    world = World()
    world.embedder.hold = asyncio.Event()

    with pytest.raises(ConnectionError):
        await streamed(world.embed_stream(), Source(pictures(3), trouble=ConnectionError()))
    assert world.embedder.cancelled.is_set()
    assert world.embedder.running == 0


async def test_leaving_early_frees_all_work_and_closes_the_input() -> None:
    world, source = World(), Source(pictures(100))
    world.embedder.holds = {b"000": asyncio.Event()}  # the first ten

    async with aclosing(world.embed_stream()(source(), call=CALL)) as parts:
        await anext(parts)

    assert world.embedder.running == 0
    assert source.closed
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_cancelled_caller_frees_all_work() -> None:
    world, source = World(), Source(pictures(100))
    world.embedder.hold = asyncio.Event()
    caller = asyncio.create_task(streamed(world.embed_stream(), source))
    await until(lambda: world.embedder.running == 16)

    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

    assert world.embedder.running == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_each_item_leaves_a_record() -> None:
    records: list[Inference] = []

    def keep(record: Inference) -> None:
        records.append(record)

    world = World(hooks=[keep])
    world.embedder.fails = {b"torn": TORN}

    await streamed(world.embed_stream(), Source([text("a"), text("torn"), picture(b"p")]))

    assert sorted((record.task, record.items) for record in records) == [
        ("embed_image", 1),
        ("embed_text", 1),
        ("embed_text", 1),
    ]


async def settled() -> None:
    """Lets everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)
