"""Topics are made where they are not there and that is allowed; elsewhere an operator makes them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, NoError, TopicAlreadyExistsError, for_code

from adapters.events.kafka import Cluster

log = structlog.get_logger(__name__)

PARTITIONS = 12
REPLICAS = 3
"""Of a topic that is made here, where there are so many brokers."""


async def make_topics(cluster: Cluster, topics: Sequence[str], *, partitions: int = PARTITIONS) -> None:
    """Before anybody asks for them: a broker that makes topics by itself gives them too few partitions.

    Raises the library's errors where no broker answers; what may not be made is only logged, publishing tells more.
    """
    if not topics:
        return
    admin = AIOKafkaAdminClient(**cluster.options())
    try:
        await admin.start()
        there = set(await admin.list_topics())
        missing = [name for name in topics if name not in there]
        if missing:
            await _make(admin, missing, partitions)
    except KafkaError as cause:
        if cause.retriable:
            raise
        log.warning("topics_not_made", topics=topics, why=str(cause) or type(cause).__name__)
    finally:
        await admin.close()


async def _make(admin: Any, missing: Collection[str], partitions: int) -> None:
    copies = min(REPLICAS, len((await admin.describe_cluster())["brokers"]))
    answer = await admin.create_topics([NewTopic(name, partitions, copies) for name in missing])
    refused = {name: for_code(code) for name, code, *_ in answer.topic_errors}
    made = [name for name, error in refused.items() if error is NoError]
    if made:
        log.info("topics_made", topics=made, partitions=partitions)
    left = {name: error.__name__ for name, error in refused.items() if error not in (NoError, TopicAlreadyExistsError)}
    if left:
        log.warning("topics_not_made", topics=list(left), why=", ".join(sorted(set(left.values()))))
