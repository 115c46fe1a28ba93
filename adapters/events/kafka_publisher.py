"""The port `Publisher` over Kafka: an idempotent producer that waits for all replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, TopicAlreadyExistsError

from adapters.events.kafka import Cluster
from modelmora.errors import DependencyUnavailable
from modelmora.ports import Kept

log = structlog.get_logger(__name__)

PARTITIONS = 12
REPLICAS = 3
"""Of a topic that is made here, where there are so many brokers."""
PUBLISH_S = 10.0


class KafkaPublisher:
    """Connects when it is first asked, and anew after a broker was away. `topics` are made where they are not there and
    that is allowed: elsewhere an operator makes them."""

    def __init__(self, cluster: Cluster, *, topics: Sequence[str] = (), partitions: int = PARTITIONS) -> None:
        self._cluster = cluster
        self._topics = tuple(topics)
        self._partitions = partitions
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def publish(self, events: Sequence[Kept]) -> list[bool]:
        """See the port. Messages leave in order; of a key that failed nothing later is told as safe."""
        if not events:
            return []
        with self._cluster.translated():
            async with asyncio.timeout(2 * PUBLISH_S):
                producer = await self._ready()
                sent = [await self._send(producer, event) for event in events]
                outcomes = await asyncio.gather(*sent, return_exceptions=True)
        failed: set[tuple[str, bytes]] = set()
        safe = [self._safe(event, outcome, failed) for event, outcome in zip(events, outcomes, strict=True)]
        troubles = [o for o in outcomes if isinstance(o, BaseException) and not isinstance(o, MessageSizeTooLargeError)]
        if troubles and not any(safe):
            await self._drop()
            raise self._cluster.unavailable(troubles[0]) from troubles[0]
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
        """What was given to it is sent, 10 s at most; idempotent."""
        await self._drop()

    async def _send(self, producer: AIOKafkaProducer, event: Kept) -> asyncio.Future[object]:
        headers = list(event.headers)
        try:
            sent: asyncio.Future[object] = await producer.send(event.topic, event.value, key=event.key, headers=headers)
        except MessageSizeTooLargeError as cause:
            sent = asyncio.get_running_loop().create_future()
            sent.set_exception(cause)
        return sent

    def _safe(self, event: Kept, outcome: object, failed: set[tuple[str, bytes]]) -> bool:
        where = (event.topic, event.key)
        if isinstance(outcome, MessageSizeTooLargeError):
            log.error("event_too_large", topic=event.topic, number=event.number, bytes=len(event.value))
            return True  # no waiting makes it smaller, and it would keep back all others of its key
        if isinstance(outcome, BaseException) or where in failed:
            failed.add(where)
            return False
        return True

    async def _ready(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._cluster.options(), acks="all", enable_idempotence=True, linger_ms=2, max_request_size=2**22
                )
                try:
                    await producer.start()
                    await self._make_topics()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def _make_topics(self) -> None:
        if not self._topics:
            return
        admin = AIOKafkaAdminClient(**self._cluster.options())
        await admin.start()
        try:
            there = set(await admin.list_topics())
            copies = min(REPLICAS, len((await admin.describe_cluster())["brokers"]))
            missing = [NewTopic(name, self._partitions, copies) for name in self._topics if name not in there]
            if missing:
                await admin.create_topics(missing)
                log.info("topics_made", topics=[one.name for one in missing], partitions=self._partitions)
        except TopicAlreadyExistsError:
            return
        except KafkaError as cause:  # the topics may come from elsewhere; if not, publishing says so
            log.warning("topics_not_made", topics=self._topics, why=str(cause))
        finally:
            await admin.close()

    async def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                async with asyncio.timeout(PUBLISH_S):
                    await producer.stop()
            except (KafkaError, OSError, TimeoutError, DependencyUnavailable) as cause:
                log.warning("publisher_stopped_late", why=str(cause) or type(cause).__name__)
