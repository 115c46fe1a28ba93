"""What Kafka does to who trusts it: messages it refuses, brokers that fall silent, members that die, transactions."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from adapters.events.kafka import Cluster
from adapters.events.kafka_publisher import PUBLISH_S, KafkaPublisher
from adapters.events.kafka_subscription import ANSWER_S, KafkaSubscription
from load.components.kafka import Kafka
from modelmora.errors import DependencyUnavailable
from modelmora.ports import Delivery, Kept
from tests.support import start, wait_until

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[2]
CRASHING = """
import asyncio, sys
from adapters.events.kafka import Cluster
from adapters.events.kafka_subscription import KafkaSubscription

async def main():
    brokers, topic = sys.argv[1:]
    member = KafkaSubscription(Cluster(brokers), [topic], group=topic, session_ms=1_500)
    while True:
        for one in await member.receive(limit=100, timeout_s=0.2):
            print(one.value.decode(), flush=True)

asyncio.run(main())
"""


class Room:
    """A topic of a test's own, with who publishes to it and who reads it; all of them end with the test."""

    def __init__(self, brokers: str, stack: AsyncExitStack) -> None:
        self.cluster = Cluster(brokers)
        self.topic = f"t-{secrets.token_hex(6)}"
        self._stack = stack

    def publisher(self, *, partitions: int = 1) -> KafkaPublisher:
        made = KafkaPublisher(self.cluster, topics=[self.topic], partitions=partitions)
        self._stack.push_async_callback(made.close)
        return made

    def member(
        self, *, session_ms: int = 6_000, poll_ms: int = 300_000, on_revoked: object = None, instance: str | None = None
    ) -> KafkaSubscription:
        made = KafkaSubscription(
            self.cluster,
            [self.topic],
            group=self.topic,
            instance=instance,
            on_revoked=on_revoked,  # type: ignore[arg-type] # the tests' own functions
            session_ms=session_ms,
            poll_ms=poll_ms,
            partitions=2,
        )
        self._stack.push_async_callback(made.close)
        return made

    def events(self, *values: str, key: str = "a", topic: str | None = None) -> list[Kept]:
        return [
            Kept(number=number, topic=topic or self.topic, key=key.encode(), value=value.encode())
            for number, value in enumerate(values)
        ]


@pytest.fixture
async def room(kafka: str) -> AsyncIterator[Room]:
    async with AsyncExitStack() as stack:
        yield Room(kafka, stack)


async def until(member: KafkaSubscription, done: Callable[[list[Delivery]], bool]) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(60):
        while not done(found):
            found += await member.receive(limit=100, timeout_s=0.1)
    return found


async def values(member: KafkaSubscription, count: int) -> list[str]:
    return [one.value.decode() for one in await until(member, lambda found: len(found) >= count)]


async def put(room: Room, *events: Kept) -> None:
    """Once the broker is there again."""
    publisher = room.publisher()
    async with asyncio.timeout(60):
        while True:
            try:
                assert await publisher.publish(events) == [True] * len(events)
                return
            except DependencyUnavailable:
                await asyncio.sleep(0.1)


async def test_what_the_broker_finds_too_large_keeps_nothing_back(room: Room) -> None:
    publisher = room.publisher()
    assert await publisher.publish(room.events("first")) == [True]
    safe = await publisher.publish(room.events("x" * 2**21, "second"))
    if safe == [True, False]:  # the broker lost count at the large one; the second goes with a new count
        safe = [True, *await publisher.publish(room.events("second"))]
    assert safe == [True, True]
    assert await publisher.publish(room.events("third")) == [True]
    assert await values(room.member(), 3) == ["first", "second", "third"]


async def test_a_topic_that_cannot_be_keeps_back_only_its_own_events(room: Room) -> None:
    impossible = room.events("lost", topic="no topic")
    publisher = room.publisher()
    assert await publisher.publish([*impossible, *room.events("a")]) == [False, True]
    with pytest.raises(DependencyUnavailable, match="MODELMORA_EVENTS_URL"):
        await publisher.publish(impossible)


@pytest.mark.slow
async def test_a_broker_that_falls_silent_is_given_up_in_time_and_what_it_swallowed_does_not_come_late(
    kafka_server: Kafka, room: Room
) -> None:
    publisher, member = room.publisher(), room.member()
    await publisher.publish(room.events("0"))
    await values(member, 1)
    started = time.monotonic()
    with kafka_server_silent(kafka_server):
        with pytest.raises(DependencyUnavailable, match="MODELMORA_EVENTS_URL"):
            await publisher.publish(room.events("1", "2"))
        assert time.monotonic() - started < PUBLISH_S + 4
    await put(room, *room.events("1", "2", "3"))
    found = await until(member, lambda found: any(one.value == b"3" for one in found))
    seen = [one.value.decode() for one in found]
    assert seen[-3:] == ["1", "2", "3"]


def kafka_server_silent(server: Kafka) -> Silence:
    assert server._process is not None
    return Silence(server._process.pid)


class Silence:
    """A process that is there and does nothing."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGCONT)


@pytest.mark.slow
async def test_a_member_whose_broker_is_killed_says_so_in_time_and_goes_on_with_the_next(
    kafka_server: Kafka, room: Room
) -> None:
    await room.publisher().publish(room.events("0", "1"))
    member = room.member()
    found = await until(member, lambda found: len(found) == 2)
    kafka_server.kill()
    try:
        started = time.monotonic()
        assert await member.receive(limit=1, timeout_s=0.1) == []
        with pytest.raises(DependencyUnavailable, match="MODELMORA_EVENTS_URL"):
            await member.commit({(room.topic, found[0].partition): 1})
        with pytest.raises(DependencyUnavailable, match="MODELMORA_EVENTS_URL"):
            await member.lag()
        assert time.monotonic() - started < 2 * ANSWER_S + 2
    finally:
        kafka_server.start()
    await put(room, *room.events("2"))
    await until(member, lambda found: any(one.value == b"2" for one in found))
    async with asyncio.timeout(60):
        while not await caught_up(member, {(room.topic, 0): 3}):
            await member.receive(limit=1, timeout_s=0.1)


async def caught_up(member: KafkaSubscription, reached: Mapping[tuple[str, int], int]) -> bool:
    """Commits; whether nothing is left."""
    try:
        await member.commit(reached)
        return list((await member.lag()).values()) == [0]
    except DependencyUnavailable:
        return False


async def test_a_pause_may_last_longer_than_a_group_waits_for_work(room: Room) -> None:
    await room.publisher().publish(room.events("a", "b"))
    member = room.member(session_ms=1_500, poll_ms=1_500)
    found = await until(member, lambda found: len(found) == 2)
    had = member.assigned
    member.pause()
    ends = time.monotonic() + 4
    while time.monotonic() < ends:
        assert await member.receive(limit=10, timeout_s=0.1) == []
        assert member.assigned == had
    await member.commit({(room.topic, found[0].partition): 2})
    assert sum((await member.lag()).values()) == 0


async def test_partitions_that_come_during_a_pause_are_paused_too(room: Room) -> None:
    await room.publisher(partitions=2).publish(room.events("a"))
    member = room.member()
    member.pause()
    async with asyncio.timeout(30):
        while len(member.assigned) < 2:
            assert await member.receive(limit=10, timeout_s=0.1) == []
    for _ in range(5):
        assert await member.receive(limit=10, timeout_s=0.1) == []
    member.resume()
    assert await values(member, 1) == ["a"]


async def test_what_is_committed_while_partitions_go_is_not_delivered_to_their_next_member(room: Room) -> None:
    publisher = room.publisher(partitions=4)
    await publisher.publish([event for key in "abcdefgh" for event in room.events(key, key=key)])
    reached: dict[tuple[str, int], int] = {}
    left: list[Mapping[tuple[str, int], int]] = []

    async def revoked(partitions: frozenset[tuple[str, int]]) -> None:
        left.append({where: offset for where, offset in reached.items() if where in partitions})
        await one.commit(left[-1])

    one = room.member(on_revoked=revoked)
    for each in await until(one, lambda found: len(found) == 8):
        reached[each.topic, each.partition] = max(each.offset + 1, reached.get((each.topic, each.partition), 0))
    two = room.member()
    seen: list[Delivery] = []
    async with asyncio.timeout(60):
        while not (two.assigned and len(one.assigned | two.assigned) == 4):
            for found in await asyncio.gather(*(m.receive(limit=10, timeout_s=0.1) for m in (one, two))):
                seen += found
    assert left
    await publisher.publish(room.events("new", key="a"))
    async with asyncio.timeout(60):
        while not any(each.value == b"new" for each in seen):
            for found in await asyncio.gather(*(m.receive(limit=10, timeout_s=0.1) for m in (one, two))):
                seen += found
    assert [each.value for each in seen] == [b"new"]


async def test_what_a_killed_member_had_not_committed_comes_to_the_next(kafka: str, room: Room, tmp_path: Path) -> None:
    await room.publisher().publish(room.events(*"abc"))
    log = tmp_path / "member"
    member = start([sys.executable, "-c", CRASHING, kafka, room.topic], log=log, cwd=ROOT)
    try:
        wait_until(lambda: log.read_text().split()[-3:] == ["a", "b", "c"], within_s=60, what="the first member")
    finally:
        member.kill()
        member.wait()
    assert await values(room.member(), 3) == ["a", "b", "c"]


async def test_lag_counts_everything_before_anything_is_committed(room: Room) -> None:
    await room.publisher().publish(room.events(*"abc"))
    member = room.member()
    assert await member.lag() == {}
    await until(member, lambda found: len(found) == 3)
    assert await member.lag() == {(room.topic, 0): 3}


async def test_who_subscribes_first_makes_the_topic(room: Room, kafka: str) -> None:
    member = room.member()
    await until(member, lambda _: len(member.assigned) == 2)
    assert await room.publisher(partitions=7).publish(room.events("a")) == [True]
    assert await values(member, 1) == ["a"]
    assert len(member.assigned) == 2


async def test_messages_without_a_key_a_value_or_a_headers_content_are_delivered(room: Room, kafka: str) -> None:
    await room.publisher().publish(room.events("first"))
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        await producer.send_and_wait(room.topic, key=b"gone", headers=[("h", None)])
        await producer.send_and_wait(room.topic, b"nobody's")
    found = await until(room.member(), lambda found: len(found) == 3)
    assert [(one.key, one.value, one.headers) for one in found[1:]] == [
        (b"gone", b"", (("h", b""),)),
        (b"", b"nobody's", ()),
    ]


async def test_what_a_transaction_took_back_is_not_delivered(room: Room, kafka: str) -> None:
    await room.publisher().publish(room.events("before"))
    async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=room.topic) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(room.topic, b"taken back", partition=0)
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send(room.topic, b"after", partition=0)
    assert await values(room.member(), 2) == ["before", "after"]


async def test_a_foreign_group_reads_our_messages(room: Room, kafka: str) -> None:
    await room.publisher().publish([Kept(number=1, topic=room.topic, key=b"k", value=b"v", headers=(("h", b"1"),))])
    async with AIOKafkaConsumer(
        room.topic, bootstrap_servers=kafka, group_id=f"{room.topic}-other", auto_offset_reset="earliest"
    ) as consumer:
        one = await asyncio.wait_for(consumer.getone(), 30)
    assert (one.key, one.value, tuple(one.headers)) == (b"k", b"v", (("h", b"1"),))
