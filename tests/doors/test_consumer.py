"""The consumer's loop over a bus in memory: what it commits, how it meets an outage, how it stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from adapters.events.memory import MemoryBus
from modelmora.errors import DependencyUnavailable
from modelmora.ports import Delivery, Kept
from subscribers.consumer import Consumer, Pace


@dataclass
class Work:
    """Takes chunks; told, it is away, breaks, or holds what it got until it is let go."""

    chunks: list[list[Delivery]] = field(default_factory=list)
    lasts: list[bool] = field(default_factory=list)
    away: int = 0
    broken: int = 0
    poison: set[bytes] = field(default_factory=set)
    stubborn: set[bytes] = field(default_factory=set)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    done: list[bytes] = field(default_factory=list)

    async def __call__(self, deliveries: Sequence[Delivery], *, last: bool = False) -> None:
        self.chunks.append(list(deliveries))
        self.lasts.append(last)
        await self.held.wait()
        if self.away:
            self.away -= 1
            raise DependencyUnavailable("away")
        if self.broken:
            self.broken -= 1
            raise RuntimeError("a defect of ours")
        if self.poison & {one.value for one in deliveries}:
            raise RuntimeError("a defect of ours that one of them brings out")
        if not last and self.stubborn & {one.value for one in deliveries}:
            raise DependencyUnavailable("this one never")
        self.done += [one.value for one in deliveries]


class Setting:
    """A bus, a worker, and consumers that come and go."""

    def __init__(self) -> None:
        self.bus, self.work = MemoryBus(partitions=2), Work()
        self.work.held.set()
        self.drawn = -1.0  # which makes every wait none
        self._running: list[tuple[Consumer, asyncio.Task[None]]] = []

    async def publish(self, keys: str) -> None:
        events = [Kept(number=n, topic="t", key=k.encode(), value=f"{k}{n}".encode()) for n, k in enumerate(keys)]
        assert all(await self.bus.publish(events))

    def start(self, **pace: int) -> Consumer:
        consumer = Consumer(self.bus.subscribe(["t"]), self.work, pace=Pace(**pace), draw=lambda: self.drawn)
        self._running.append((consumer, asyncio.create_task(consumer.run())))
        return consumer

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - what is waited for is in several places
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        self.work.held.set()
        for consumer, task in self._running:
            await consumer.stop(within_s=1)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def left(self) -> int:
        return sum(self.bus.end_of(("t", n)) - self.bus.start_of(("t", n)) for n in range(2))


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    made = Setting()
    yield made
    await made.close()


async def test_everything_is_done_once_and_committed(setting: Setting) -> None:
    await setting.publish("abcabc" * 5)
    consumer = setting.start(batch=4)
    await setting.until(lambda: setting.left() == 0)
    assert len(setting.work.done) == 30
    for key in "abc":
        mine = [int(value[1:]) for value in setting.work.done if value.startswith(key.encode())]
        assert mine == sorted(mine)
    assert consumer.state().done == 30
    assert consumer.state().why == ""


async def test_no_more_is_taken_than_there_is_room_for(setting: Setting) -> None:
    setting.work.held.clear()
    await setting.publish("abcdefghijkl")
    consumer = setting.start(batch=2, chunks=2, in_flight=6)
    await setting.until(lambda: consumer.state().paused)
    assert consumer.state().in_flight == 6
    assert len(setting.work.chunks) == 2
    setting.work.held.set()
    await setting.until(lambda: setting.left() == 0)


async def test_an_outage_is_waited_out_without_losing_or_skipping_anything(setting: Setting) -> None:
    setting.work.away = 10**9
    await setting.publish("abcd")
    consumer = setting.start(batch=10)
    await setting.until(lambda: consumer.state().why == "away")
    setting.work.away = 0
    await setting.until(lambda: setting.left() == 0)
    assert sorted(setting.work.done) == [b"a0", b"b1", b"c2", b"d3"]
    assert consumer.state().why == ""
    assert not any(setting.work.lasts)


async def test_a_defect_does_not_end_the_consumer_nor_commit_what_it_hit(setting: Setting) -> None:
    setting.work.broken = 2
    await setting.publish("ab")
    setting.start()
    await setting.until(lambda: setting.left() == 0)
    assert sorted(setting.work.done) == [b"a0", b"b1"]


async def test_a_chunk_that_fails_while_others_go_through_is_told_that_it_is_the_last_try(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subscribers.consumer.BASE_S", 0.001)
    setting.work.stubborn = {b"a0"}
    await setting.publish("ab" + "cdefgh" * 4)
    setting.start(batch=1, chunks=2)
    await setting.until(lambda: setting.left() == 0)
    assert b"a0" in setting.work.done


async def test_what_fails_alone_keeps_nobody_from_going_on(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """It came when nothing else was there, and others come later."""
    monkeypatch.setattr("subscribers.consumer.BASE_S", 0.001)
    setting.work.stubborn = {b"a0"}
    await setting.publish("a")
    consumer = setting.start(batch=4, chunks=1)
    await setting.until(lambda: len(setting.work.chunks) > 5)
    assert not any(setting.work.lasts), "while nobody goes through it may be an outage"
    await setting.publish("bcd")
    await setting.until(lambda: setting.left() == 0)
    assert sorted(setting.work.done) == [b"a0", b"b0", b"c1", b"d2"]
    assert consumer.state().why == ""


async def test_while_nothing_goes_through_no_more_is_taken_than_there_is_room_for(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subscribers.consumer.BASE_S", 0.001)
    setting.work.away = 10**9
    await setting.publish("abcdefghijkl")
    consumer = setting.start(batch=2, chunks=2, in_flight=6)
    await setting.until(lambda: consumer.state().paused and len(setting.work.chunks) > 20)
    assert consumer.state().in_flight == 6
    assert not any(setting.work.lasts)
    setting.work.away = 0
    await setting.until(lambda: setting.left() == 0)
    assert len(setting.work.done) == 12


async def test_the_neighbours_of_one_that_brings_out_a_defect_go_through(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subscribers.consumer.BASE_S", 0.001)
    setting.work.poison = {b"c2"}
    await setting.publish("abcde")
    consumer = setting.start(batch=10)
    await setting.until(lambda: len(setting.work.done) == 4)
    assert setting.left() >= 1, "what was not done is not committed"
    assert consumer.state().in_flight == 1
    setting.work.poison = set()
    await setting.until(lambda: setting.left() == 0)


async def test_a_consumer_that_waits_stops_at_once(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subscribers.consumer.CAP_S", 1_000.0)
    monkeypatch.setattr("subscribers.consumer.BASE_S", 1_000.0)
    setting.work.away, setting.drawn = 10**9, 1.0
    await setting.publish("ab")
    consumer = setting.start()
    await setting.until(lambda: consumer.state().why != "")
    async with asyncio.timeout(10):
        await consumer.stop(within_s=1_000)
    assert setting.left() == 2
    assert not consumer.state().running


async def test_partitions_that_go_too_early_are_another_s(setting: Setting) -> None:
    setting.work.held.clear()
    await setting.publish("aaaa")
    consumer = setting.start(batch=1, chunks=1)
    await setting.until(lambda: len(setting.work.chunks) == 1)
    place = (setting.work.chunks[0][0].topic, setting.work.chunks[0][0].partition)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await consumer.revoked(frozenset({place}))
    assert consumer.state().in_flight == 0
    setting.work.held.set()
    await setting.until(lambda: len(setting.work.done) == 1)
    await asyncio.sleep(0)
    assert len(setting.work.chunks) == 1, "what waited is not begun"


async def test_a_stopping_consumer_ends_what_it_works_on_and_leaves_the_rest(setting: Setting) -> None:
    setting.work.held.clear()
    await setting.publish("abcdef")
    consumer = setting.start(batch=2, chunks=1)
    await setting.until(lambda: len(setting.work.chunks) == 1)
    stopping = asyncio.create_task(consumer.stop(within_s=10))
    await asyncio.sleep(0)
    setting.work.held.set()
    await stopping
    assert len(setting.work.done) == 2
    assert setting.left() >= 4, "what came before an open one may stay with it"
    setting.start()
    await setting.until(lambda: setting.left() == 0)
    assert set(setting.work.done) == {b"a0", b"b1", b"c2", b"d3", b"e4", b"f5"}


async def test_partitions_that_go_are_finished_and_committed_first(setting: Setting) -> None:
    setting.work.held.clear()
    await setting.publish("aaaa")
    consumer = setting.start(batch=1, chunks=1)
    await setting.until(lambda: len(setting.work.chunks) == 1)
    place = (setting.work.chunks[0][0].topic, setting.work.chunks[0][0].partition)
    going = asyncio.create_task(consumer.revoked(frozenset({place})))
    await asyncio.sleep(0)
    assert not going.done()
    setting.work.held.set()
    await going
    assert setting.left() <= 3
    assert consumer.state().in_flight == 0
