"""Events carried within a process and by a real Kafka: order, at least once, commits, members, a broker that dies."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from adapters.events.kafka import Cluster
from adapters.events.kafka_publisher import KafkaPublisher
from adapters.events.kafka_subscription import KafkaSubscription
from adapters.events.memory import MemoryBus
from adapters.events.null import NullPublisher
from load.components.kafka import Kafka
from modelmora.errors import DependencyUnavailable
from modelmora.ports import Delivery, Kept, Publisher, Subscription
from tests.support import reserve_port

pytestmark = pytest.mark.timeout(90)


def events(topic: str, keys: str, *, start: int = 0) -> list[Kept]:
    return [
        Kept(number=n, topic=topic, key=key.encode(), value=f"{key}{n}".encode(), headers=(("h", b"\xff"),))
        for n, key in enumerate(keys, start)
    ]


@dataclass
class Way:
    """A topic with who publishes to it and who may read it."""

    topic: str
    publisher: Publisher
    subscribe: Callable[[], Subscription]
    opened: list[Subscription] = field(default_factory=list)

    def member(self) -> Subscription:
        made = self.subscribe()
        self.opened.append(made)
        return made


@pytest.fixture(params=["memory", "kafka"])
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Way]:
    topic = f"t-{secrets.token_hex(6)}"
    if request.param == "memory":
        bus = MemoryBus()
        made = Way(topic, bus, lambda: bus.subscribe([topic]))
    else:
        cluster = Cluster(request.getfixturevalue("kafka"))
        publisher = KafkaPublisher(cluster, topics=[topic], partitions=4)
        made = Way(topic, publisher, lambda: KafkaSubscription(cluster, [topic], group=topic, session_ms=6_000))
    yield made
    for member in made.opened:
        await member.close()
    await made.publisher.close()
    await made.publisher.close()


async def received(member: Subscription, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            found += await member.receive(limit=100, timeout_s=0.2)
    return found


def after(found: Sequence[Delivery]) -> dict[tuple[str, int], int]:
    return {(one.topic, one.partition): one.offset + 1 for one in found}


async def test_events_come_in_the_order_of_their_keys_as_they_were(way: Way) -> None:
    assert await way.publisher.publish(events(way.topic, "abcab" * 10)) == [True] * 50
    assert await way.publisher.publish([]) == []
    found = await received(way.member(), 50)
    for key in (b"a", b"b", b"c"):
        numbers = [int(one.value[1:]) for one in found if one.key == key]
        assert numbers == sorted(numbers)
    assert {one.headers for one in found} == {(("h", b"\xff"),)}
    assert await way.publisher.ping() >= 0


async def test_what_was_not_committed_comes_again(way: Way) -> None:
    await way.publisher.publish(events(way.topic, "aaaa"))
    first = way.member()
    found = await received(first, 4)
    await first.commit(after(found[:2]))
    assert sum((await first.lag()).values()) == 2
    await first.close()
    again = await received(way.member(), 2)
    assert [one.value for one in again] == [b"a2", b"a3"]


async def test_while_paused_nothing_comes_and_afterwards_everything(way: Way) -> None:
    member = way.member()
    await way.publisher.publish(events(way.topic, "ab"))
    await received(member, 2)
    member.pause()
    member.pause()
    await way.publisher.publish(events(way.topic, "ab", start=2))
    for _ in range(3):
        assert await member.receive(limit=10, timeout_s=0.1) == []
    assert member.assigned
    member.resume()
    assert {one.value for one in await received(member, 2)} == {b"a2", b"b3"}


async def test_rubbish_is_carried_as_it_is(way: Way) -> None:
    await way.publisher.publish([Kept(number=1, topic=way.topic, key=b"", value=bytes(range(256)))])
    (one,) = await received(way.member(), 1)
    assert (one.value, one.headers) == (bytes(range(256)), ())


async def test_two_members_share_the_partitions_and_lose_nothing_when_one_leaves(kafka: str) -> None:
    cluster, topic = Cluster(kafka), f"t-{secrets.token_hex(6)}"
    publisher = KafkaPublisher(cluster, topics=[topic], partitions=4)
    await publisher.publish(events(topic, "abcdefgh"))
    told: list[frozenset[tuple[str, int]]] = []

    async def revoked(partitions: frozenset[tuple[str, int]]) -> None:
        told.append(partitions)

    one = KafkaSubscription(cluster, [topic], group=topic, session_ms=6_000, on_revoked=revoked)
    two = KafkaSubscription(cluster, [topic], group=topic, session_ms=6_000)
    seen: set[bytes] = set()

    async def both(until: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not until():
                for found in await asyncio.gather(*(m.receive(limit=10, timeout_s=0.2) for m in (one, two))):
                    seen.update(each.value for each in found)

    async with asyncio.timeout(60):
        while len(one.assigned) != 4:
            seen.update(each.value for each in await one.receive(limit=10, timeout_s=0.2))
    await both(lambda: len(one.assigned) == 2 and len(two.assigned) == 2)
    assert one.assigned.isdisjoint(two.assigned)
    assert told
    await one.close()
    await publisher.publish(events(topic, "abcdefgh", start=8))
    async with asyncio.timeout(60):
        while len(seen) < 16:
            seen.update(each.value for each in await two.receive(limit=50, timeout_s=0.2))
    await two.close()
    await publisher.close()


async def test_a_static_member_that_comes_back_soon_keeps_its_partitions(kafka: str) -> None:
    cluster, topic = Cluster(kafka), f"t-{secrets.token_hex(6)}"
    publisher = KafkaPublisher(cluster, topics=[topic], partitions=2)
    await publisher.publish(events(topic, "ab"))

    def member(instance: str) -> KafkaSubscription:
        return KafkaSubscription(cluster, [topic], group=topic, instance=instance, session_ms=20_000)

    one, two = member("one"), member("two")

    async def turn(*members: KafkaSubscription) -> None:
        await asyncio.gather(*(each.receive(limit=10, timeout_s=0.2) for each in members))

    async with asyncio.timeout(60):
        while len(one.assigned) != 1 or len(two.assigned) != 1:
            await turn(one, two)
    before, others = one.assigned, two.assigned
    await one.close()
    back = member("one")
    async with asyncio.timeout(60):
        while not back.assigned:
            await turn(back, two)
    assert (back.assigned, two.assigned) == (before, others)
    for each in (back, two):
        await each.close()
    await publisher.close()


async def test_a_broker_that_was_killed_is_found_again_by_both_ends(kafka_server: Kafka) -> None:
    cluster, topic = Cluster(kafka_server.brokers), f"t-{secrets.token_hex(6)}"
    publisher = KafkaPublisher(cluster, topics=[topic], partitions=1)
    member = KafkaSubscription(cluster, [topic], group=topic, session_ms=6_000)
    await publisher.publish(events(topic, "a"))
    await member.commit(after(await received(member, 1)))
    kafka_server.kill()
    try:
        with pytest.raises(DependencyUnavailable, match="MODELMORA_EVENTS_URL"):
            await publisher.publish(events(topic, "a", start=1))
    finally:
        kafka_server.start()
    async with asyncio.timeout(60):
        while True:
            try:
                assert await publisher.publish(events(topic, "a", start=2)) == [True]
                break
            except DependencyUnavailable:
                await asyncio.sleep(0.2)
    values = [one.value for one in await received(member, 1)]
    assert values[-1] in (b"a1", b"a2")
    await member.close()
    await publisher.close()


async def test_what_no_broker_takes_does_not_keep_back_the_others(kafka: str) -> None:
    cluster, topic = Cluster(kafka), f"t-{secrets.token_hex(6)}"
    publisher = KafkaPublisher(cluster, topics=[topic], partitions=1)
    large = Kept(number=1, topic=topic, key=b"a", value=b"x" * 2**23)
    assert await publisher.publish([large, *events(topic, "a", start=2)]) == [True, True]
    await publisher.close()


async def test_nobody_at_the_address_is_told_without_the_password() -> None:
    cluster = Cluster.of(f"kafka://me:secret@127.0.0.1:{reserve_port()}")
    publisher = KafkaPublisher(cluster)
    with pytest.raises(DependencyUnavailable) as told:
        await publisher.publish(events("t", "a"))
    assert "secret" not in f"{told.value!r}{cluster!r}"
    member = KafkaSubscription(cluster, ["t"], group="g")
    with pytest.raises(DependencyUnavailable):
        await member.receive(limit=1, timeout_s=0.1)


def test_urls_name_brokers_and_who_asks() -> None:
    cluster = Cluster.of("kafka+ssl://me:p%40ss@one:9092,two:9093")
    assert (cluster.brokers, cluster.user, cluster.password) == ("one:9092,two:9093", "me", "p@ss")
    assert cluster.options()["security_protocol"] == "SASL_SSL"
    assert Cluster.of("kafka://one:9092").options()["security_protocol"] == "PLAINTEXT"


async def test_a_partition_that_is_full_keeps_back_and_nothing_is_lost() -> None:
    bus = MemoryBus(partitions=1, room=2)
    assert await bus.publish(events("t", "aaa")) == [True, True, False]
    member = bus.subscribe(["t"])
    found = await member.receive(limit=10, timeout_s=0)
    await member.commit(after(found))
    assert await bus.publish(events("t", "a")) == [True]
    assert await NullPublisher().publish(events("t", "a")) == [True]
