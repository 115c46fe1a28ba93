"""The port `Subscription` over Kafka: one member of a group, who commits what it is told and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from adapters.events.kafka import Cluster
from adapters.events.kafka_topics import PARTITIONS, make_topics
from modelmora.errors import DependencyUnavailable
from modelmora.ports import Delivery
from modelmora.ports.events import Revoked

log = structlog.get_logger(__name__)

SESSION_MS, HEARTBEAT_MS, POLL_MS = 15_000, 3_000, 300_000
METADATA_MS = 30_000
"""A topic that an operator makes later is seen so soon."""
REVOKED_S = 20.0
"""So long may a member finish what it works on before its partitions go to others."""
ANSWER_S = 8.0
"""One question to the group's broker, which the library repeats for as long as it is let."""


class KafkaSubscription:
    """Connects when it is first asked. `on_revoked` is waited for before partitions go. Topics that are not there are
    made, with that many `partitions`. What a producer's transaction took back is not delivered."""

    def __init__(
        self,
        cluster: Cluster,
        topics: Sequence[str],
        *,
        group: str,
        instance: str | None = None,
        on_revoked: Revoked | None = None,
        session_ms: int = SESSION_MS,
        poll_ms: int = POLL_MS,
        partitions: int = PARTITIONS,
    ) -> None:
        self._cluster = cluster
        self._topics = tuple(topics)
        self._partitions = partitions
        self._on_revoked = on_revoked
        self._told = {
            "group_id": group,
            "group_instance_id": instance,
            "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": min(HEARTBEAT_MS, session_ms // 3),
            "max_poll_interval_ms": poll_ms,
        }
        self._consumer: AIOKafkaConsumer | None = None
        self._paused = False

    async def receive(self, *, limit: int, timeout_s: float) -> Sequence[Delivery]:
        """See the port."""
        with self._cluster.translated():
            consumer = await self._ready()
            if self._paused:
                self._pause_all(consumer)
            found = await consumer.getmany(timeout_ms=int(timeout_s * 1e3), max_records=limit)
        return [
            Delivery(
                topic=one.topic,
                partition=one.partition,
                offset=one.offset,
                key=one.key or b"",
                value=one.value or b"",
                headers=tuple((name, content or b"") for name, content in one.headers),
            )
            for records in found.values()
            for one in records
        ]

    def pause(self) -> None:
        """See the port."""
        self._paused = True
        if self._consumer is not None:
            self._pause_all(self._consumer)

    def resume(self) -> None:
        """See the port."""
        self._paused = False
        if self._consumer is not None:
            self._consumer.resume(*self._consumer.paused())

    async def commit(self, reached: Mapping[tuple[str, int], int]) -> None:
        """See the port."""
        mine = self.assigned
        offsets = {TopicPartition(*where): offset for where, offset in reached.items() if where in mine}
        if not offsets or self._consumer is None:
            return
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError) as cause:  # they went to another, who does them again
            log.warning("commit_too_late", partitions=len(offsets), why=str(cause))
        except (KafkaError, OSError, TimeoutError) as cause:
            raise self._cluster.unavailable(cause) from cause

    @property
    def assigned(self) -> frozenset[tuple[str, int]]:
        """See the port."""
        if self._consumer is None:
            return frozenset()
        return _places(self._consumer.assignment())

    async def lag(self) -> Mapping[tuple[str, int], int]:
        """See the port."""
        consumer = self._consumer
        if consumer is None:
            return {}
        mine = list(consumer.assignment())
        if not mine:
            return {}
        with self._cluster.translated():
            async with asyncio.timeout(ANSWER_S):
                ends, starts = await consumer.end_offsets(mine), await consumer.beginning_offsets(mine)
                done = await asyncio.gather(*(consumer.committed(where) for where in mine))
        reached = {where: max(starts[where], mark or 0) for where, mark in zip(mine, done, strict=True)}
        return {(where.topic, where.partition): max(0, ends[where] - reached[where]) for where in mine}

    async def close(self) -> None:
        """Leaves the group, a static member keeps its place; idempotent."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            try:
                async with asyncio.timeout(10):
                    await consumer.stop()
            except (KafkaError, OSError, TimeoutError) as cause:
                log.warning("subscription_closed_late", why=str(cause) or type(cause).__name__)

    async def _ready(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            await make_topics(self._cluster, self._topics, partitions=self._partitions)
            consumer = AIOKafkaConsumer(
                **self._cluster.options(),
                **self._told,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                metadata_max_age_ms=METADATA_MS,
            )
            consumer.subscribe(self._topics, listener=_Listener(self))
            try:
                await consumer.start()
            except BaseException:
                await consumer.stop()
                raise
            self._consumer = consumer
        return self._consumer

    def _pause_all(self, consumer: AIOKafkaConsumer) -> None:
        consumer.pause(*(consumer.assignment() - consumer.paused()))

    def assigned_now(self, partitions: frozenset[tuple[str, int]]) -> None:
        """Those that it has from now on: while paused nothing comes of them either."""
        log.info("partitions_assigned", partitions=sorted(f"{topic}-{number}" for topic, number in partitions))
        if self._paused and self._consumer is not None:
            self._pause_all(self._consumer)

    async def revoked(self, partitions: frozenset[tuple[str, int]]) -> None:
        """Waits until what is under way of them is done, not longer than a group waits."""
        if self._on_revoked is None or not partitions:
            return
        try:
            async with asyncio.timeout(REVOKED_S):
                await self._on_revoked(partitions)
        except (TimeoutError, DependencyUnavailable) as cause:
            log.warning("revoked_unfinished", partitions=len(partitions), why=str(cause) or type(cause).__name__)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc] # the library ships no types
    def __init__(self, subscription: KafkaSubscription) -> None:
        self._subscription = subscription

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        await self._subscription.revoked(_places(revoked))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._subscription.assigned_now(_places(assigned))


def _places(partitions: Collection[TopicPartition]) -> frozenset[tuple[str, int]]:
    return frozenset((one.topic, one.partition) for one in partitions)
