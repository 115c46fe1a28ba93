"""The port `Publisher` over Kafka: an idempotent producer that waits for all replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed

from adapters.events.kafka import Cluster
from adapters.events.kafka_topics import PARTITIONS, make_topics
from modelmora.ports import Kept

log = structlog.get_logger(__name__)

PUBLISH_S = 8.0
REQUEST_MS = 4_000
"""One question to a broker; an idempotent producer repeats it for as long as it is let."""
ABANDON_S = 1.0
BATCH_BYTES = 2**14
LARGEST_BYTES = 2**22


class KafkaPublisher:
    """Connects when it is first asked, and anew after a broker was away. `topics` are made where they are not there and
    that is allowed: elsewhere an operator makes them."""

    def __init__(self, cluster: Cluster, *, topics: Sequence[str] = (), partitions: int = PARTITIONS) -> None:
        self._cluster = cluster
        self._topics = tuple(topics)
        self._partitions = partitions
        self._lost: frozenset[str] = frozenset()
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def publish(self, events: Sequence[Kept]) -> list[bool]:
        """See the port; 10 s at most. Of a key that failed nothing later is told as safe. What is larger than the
        broker ever takes is logged and told as safe: no waiting makes it smaller, and it would keep back its key."""
        if not events:
            return []
        outcomes = await self._outcomes(events)
        failed: set[tuple[str, bytes]] = set()
        safe = [self._safe(event, outcome, failed) for event, outcome in zip(events, outcomes, strict=True)]
        if failed and not any(safe):
            trouble = next(one for one in outcomes if isinstance(one, BaseException))
            raise self._cluster.unavailable(trouble) from trouble
        return safe

    async def ping(self) -> float:
        """See the port."""
        start = time.perf_counter()
        with self._cluster.translated():
            async with asyncio.timeout(PUBLISH_S):
                producer = await self._ready()
                await producer.client.fetch_all_metadata()
        return (time.perf_counter() - start) * 1e3

    async def close(self) -> None:
        """Idempotent."""
        await self._drop()

    async def _outcomes(self, events: Sequence[Kept]) -> list[object]:
        """What became of each; after any failure the producer goes, for the broker awaits the numbers it gave."""
        done = False
        try:
            with self._cluster.translated():
                async with asyncio.timeout(PUBLISH_S):
                    outcomes = await self._sent(await self._ready(), events)
            done = not any(isinstance(one, BaseException) for one in outcomes)
            return outcomes
        finally:
            if not done:
                await self._drop()

    async def _sent(self, producer: AIOKafkaProducer, events: Sequence[Kept]) -> list[object]:
        topics = list(dict.fromkeys(event.topic for event in events))
        found = await asyncio.gather(*(producer.partitions_for(topic) for topic in topics), return_exceptions=True)
        lost = {topic: one for topic, one in zip(topics, found, strict=True) if isinstance(one, KafkaError)}
        for topic in lost.keys() - self._lost:
            log.warning("topic_unreachable", topic=topic, why=str(lost[topic]) or type(lost[topic]).__name__)
        self._lost = frozenset(lost)
        sent: list[asyncio.Future[object]] = []
        try:
            for event in events:
                sent.append(await self._send(producer, event, lost))
            return list(await asyncio.gather(*sent, return_exceptions=True))
        finally:
            for one in sent:
                one.cancel()  # where the time was over: nobody asks any more

    async def _send(
        self, producer: AIOKafkaProducer, event: Kept, lost: Mapping[str, BaseException]
    ) -> asyncio.Future[object]:
        if event.topic in lost:
            return _failed(lost[event.topic])
        headers = list(event.headers)
        try:
            sent: asyncio.Future[object] = await producer.send(event.topic, event.value, key=event.key, headers=headers)
        except KafkaError as cause:
            return _failed(cause)
        return sent

    def _safe(self, event: Kept, outcome: object, failed: set[tuple[str, bytes]]) -> bool:
        where = (event.topic, event.key)
        # A broker refuses whole batches: of a small message that says nothing.
        if isinstance(outcome, MessageSizeTooLargeError) and len(event.value) > BATCH_BYTES:
            log.error("event_too_large", topic=event.topic, number=event.number, bytes=len(event.value))
            return True
        if isinstance(outcome, BaseException) or where in failed:
            failed.add(where)
            return False
        return True

    async def _ready(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                await make_topics(self._cluster, self._topics, partitions=self._partitions)
                self._producer = await self._started()
            return self._producer

    async def _started(self) -> AIOKafkaProducer:
        told: dict[str, Any] = self._cluster.options() | {"request_timeout_ms": REQUEST_MS}
        producer = AIOKafkaProducer(
            **told,
            acks="all",
            enable_idempotence=True,
            linger_ms=2,
            max_batch_size=BATCH_BYTES,
            max_request_size=LARGEST_BYTES,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _abandon(producer)


def _failed(cause: BaseException) -> asyncio.Future[object]:
    failed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    failed.set_exception(cause)
    return failed


async def _abandon(producer: Any) -> None:
    """Ends it with all that it still holds. Its own `stop` waits until everything is sent, however long that takes:
    what is told as not safe would then arrive after what is sent in its place."""
    producer._message_accumulator.fail_all(ProducerClosed())
    sender = producer._sender.sender_task
    for _ in range(2):  # the first lets it wait for what is on its way, the second does not
        sender.cancel()
        await asyncio.wait([sender], timeout=ABANDON_S)
    try:
        async with asyncio.timeout(ABANDON_S):
            await producer.stop()
    except (KafkaError, OSError, TimeoutError) as cause:
        log.warning("publisher_stopped_late", why=str(cause) or type(cause).__name__)
