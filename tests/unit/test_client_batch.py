"""Any number of items over streams that break: each is answered once, and only what was unanswered goes out again."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modelmora.client import Embedding, Failed, Image, Ok, Outcome, Retry, Text
from modelmora.client import batch as module
from modelmora.client.batch import Batch
from modelmora.client.retry import Retrier
from modelmora.client.transport import Group
from modelmora.domain.inference import Call
from modelmora.errors import (
    DependencyUnavailable,
    InternalError,
    LimitExceeded,
    ModelLoading,
    ModelMoraError,
    ModelNotFound,
    Overloaded,
)
from tests.fakes import Clock, bytes_of, until

CALL = Call(request_id="r", deadline=math.inf, priority="bulk")
AWAY = DependencyUnavailable("the server is away")
FULL = LimitExceeded("the stream has too many items")


def embedding(content: bytes) -> Embedding:
    return Embedding(data=struct.pack("<f", len(content)), model="m", version="1.0.0")


@dataclass(slots=True)
class Breaking:
    """A transport whose streams answer so many items each and then end with their trouble; after that all is well.

    `fails` are the errors that an item of that content gets before it gets its vector.
    """

    breaks: list[tuple[int, ModelMoraError | None]] = field(default_factory=list)
    streams: list[list[bytes]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    fails: dict[bytes, list[ModelMoraError]] = field(default_factory=dict)

    async def batch(
        self, groups: AsyncGenerator[Group, None], *, model: str | None, call: Call
    ) -> AsyncGenerator[tuple[int, Outcome[Embedding]], None]:
        room, trouble = self.breaks.pop(0) if self.breaks else (math.inf, None)
        sent: list[bytes] = []
        self.streams.append(sent)
        async with aclosing(groups):
            async for group in groups:
                sent += [bytes_of(content) for _, content in group]
                if self.hold is not None:
                    await self.hold.wait()
                for number, content in reversed(group):
                    if room == 0:
                        break
                    room -= 1
                    errors = self.fails.get(bytes_of(content))
                    yield number, Failed(errors.pop()) if errors else Ok(embedding(bytes_of(content)))
                if room == 0:
                    break
        if trouble is not None:
            raise trouble


def batch(transport: Breaking, *, window: int = 64, pause_s: float = 0.0, clock: Clock | None = None) -> Batch:
    clock = clock or Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    retrier = Retrier(retry=Retry(initial_s=pause_s, max_s=pause_s), sleep=sleep, clock=clock, dice=lambda: 1.0)
    return Batch(transport, model=None, call=CALL, window=window, retrier=retrier, patience_s=60)


def texts(count: int) -> list[Text]:
    return [Text("x" * (index + 1)) for index in range(count)]


async def answers(it: Batch, items: object) -> dict[int, float | str]:
    """Each item's one component, or its error's code; fails when one is answered twice."""
    found: dict[int, float | str] = {}
    async for index, outcome in it.answers(items):  # type: ignore[arg-type] # anything a caller may hand over
        assert index not in found
        found[index] = outcome.value.tolist()[0] if isinstance(outcome, Ok) else outcome.error.code
    return found


def whole(count: int) -> dict[int, float]:
    return {index: index + 1.0 for index in range(count)}


async def test_everything_is_answered_over_one_stream() -> None:
    transport = Breaking()

    assert await answers(batch(transport), texts(100)) == whole(100)
    assert len(transport.streams) == 1


async def test_nothing_opens_no_stream() -> None:
    transport = Breaking()

    assert await answers(batch(transport), []) == {}
    assert transport.streams == []


@pytest.mark.parametrize("first", [0, 1, 7, 20, 96])
async def test_only_what_a_broken_stream_left_unanswered_goes_out_again(first: int) -> None:
    transport = Breaking(breaks=[(first, AWAY), (3, AWAY)])

    assert await answers(batch(transport, window=10), texts(100)) == whole(100)
    assert sum(len(sent) for sent in transport.streams) <= 100 + 2 * 10
    assert len(transport.streams) == 3


async def test_a_server_that_stays_away_is_given_up_after_the_clients_patience() -> None:
    clock = Clock()
    transport = Breaking(breaks=[(5, AWAY), *[(0, AWAY)] * 1000])
    found: list[int] = []

    async def read() -> None:
        async for index, _ in batch(transport, pause_s=1.0, clock=clock).answers(texts(9)):
            found.append(index)

    began = clock.now
    with pytest.raises(DependencyUnavailable, match="away"):
        await read()

    assert len(found) == 5
    assert 55 <= clock.now - began <= 61


async def test_each_answer_gives_the_server_new_patience() -> None:
    transport = Breaking(breaks=[(1, AWAY)] * 200)

    assert await answers(batch(transport, pause_s=1.0), texts(150)) == whole(150)


async def test_an_item_that_failed_for_a_passing_reason_goes_out_again_and_delays_nobody() -> None:
    transport = Breaking(fails={b"xx": [Overloaded("full")] * 3, b"xxxx": [ModelLoading("soon")]})

    assert await answers(batch(transport, pause_s=0.1), texts(20)) == whole(20)
    sent = [content for stream in transport.streams for content in stream]
    assert (sent.count(b"xx"), sent.count(b"xxxx"), len(sent)) == (4, 2, 24)


async def test_an_item_is_given_up_after_the_clients_patience_and_the_others_are_not() -> None:
    transport, clock = Breaking(fails={b"xx": [Overloaded("full")] * 1000}), Clock()
    began = clock.now

    found = await answers(batch(transport, pause_s=1.0, clock=clock), texts(3))

    assert found == {0: 1.0, 1: "overloaded", 2: 3.0}
    assert 55 <= clock.now - began <= 61


async def test_what_would_fail_again_is_not_tried_again() -> None:
    transport = Breaking(breaks=[(0, ModelNotFound("no model"))])

    with pytest.raises(ModelNotFound):
        await answers(batch(transport), texts(3))
    assert len(transport.streams) == 1


async def test_a_stream_that_took_all_it_takes_is_followed_by_another_one_at_once() -> None:
    clock = Clock()
    transport = Breaking(breaks=[(20, FULL), (7, FULL), (20, FULL)])
    began = clock.now

    assert await answers(batch(transport, window=30, pause_s=1.0, clock=clock), texts(60)) == whole(60)
    assert len(transport.streams) == 4
    assert clock.now == began


async def test_a_stream_that_is_full_without_an_answer_is_not_tried_again() -> None:
    transport = Breaking(breaks=[(3, FULL), (0, FULL)])
    found: list[int] = []

    async def read() -> None:
        async for index, _ in batch(transport).answers(texts(9)):
            found.append(index)

    with pytest.raises(LimitExceeded, match="too many items"):
        await read()
    assert len(found) == 3
    assert len(transport.streams) == 2


async def test_a_server_that_leaves_items_out_is_a_defect() -> None:
    with pytest.raises(InternalError, match="left out 2 items"):
        await answers(batch(Breaking(breaks=[(1, None)])), texts(3))


async def test_what_cannot_be_read_fails_alone_and_is_not_sent(tmp_path: Path) -> None:
    transport = Breaking()

    found = await answers(batch(transport), [Text("x"), tmp_path / "absent", 7, Text("xx")])

    assert found == {0: 1.0, 1: "invalid_input", 2: "validation", 3: 2.0}
    assert [content for sent in transport.streams for content in sent] == [b"x", b"xx"]


async def test_what_does_not_fit_into_a_message_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ITEM_BYTES", 10)
    found = {i: o async for i, o in batch(Breaking()).answers([Image(b"x" * 11), Image(b"x")])}

    assert isinstance(found[0], Failed)
    assert isinstance(found[0].error, LimitExceeded)
    assert isinstance(found[1], Ok)


async def test_no_more_items_are_taken_than_the_window_as_many_ahead_and_one_in_the_hand() -> None:
    taken = handed_out = 0

    def source() -> Iterator[Text]:
        nonlocal taken
        for each in texts(100):
            taken += 1
            yield each

    async for _ in batch(Breaking(), window=5).answers(source()):
        handed_out += 1
        assert taken <= handed_out + 5 + 5 + 1
    assert handed_out == 100


async def test_large_items_fill_the_window_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_BYTES", 3_000)
    transport = Breaking(hold=asyncio.Event())
    reading = asyncio.create_task(answers(batch(transport), [Image(b"x" * 1_000)] * 10))
    await until(lambda: bool(transport.streams))
    for _ in range(50):
        await asyncio.sleep(0)

    assert sum(len(sent) for sent in transport.streams) <= 3
    assert transport.hold is not None
    transport.hold.set()
    assert len(await reading) == 10


async def test_a_source_that_waits_for_answers_gets_them() -> None:
    answered = asyncio.Event()

    async def source() -> AsyncIterator[Text]:
        yield Text("x")
        await answered.wait()
        yield Text("xx")

    found = []
    async for index, _ in batch(Breaking()).answers(source()):
        found.append(index)
        answered.set()
    assert found == [0, 1]


async def test_a_source_that_fails_ends_it_with_its_own_error() -> None:
    def source() -> Iterator[Text]:
        yield Text("x")
        raise LookupError("the list is gone")

    with pytest.raises(LookupError, match="the list is gone"):
        await answers(batch(Breaking()), source())


async def test_a_broken_stream_does_not_break_the_source() -> None:
    """The source is waited for by a task of its own: a stream that ends meanwhile takes nothing from it."""
    go_on = asyncio.Event()
    transport = Breaking(breaks=[(0, AWAY), (1, AWAY)])

    async def source() -> AsyncIterator[Text]:
        yield Text("x")
        await go_on.wait()
        yield Text("xx")

    found: dict[int, float | str] = {}
    async for index, outcome in batch(transport).answers(source()):
        found[index] = outcome.value.tolist()[0] if isinstance(outcome, Ok) else "failed"
        go_on.set()

    assert found == whole(2)


async def test_leaving_early_leaves_nothing_running_and_closes_the_source() -> None:
    closed = False

    async def source() -> AsyncIterator[Text]:
        nonlocal closed
        try:
            for each in texts(1000):
                yield each
        finally:
            closed = True

    async with aclosing(batch(Breaking()).answers(source())) as found:
        await anext(found)

    assert closed
    assert asyncio.all_tasks() == {asyncio.current_task()}
