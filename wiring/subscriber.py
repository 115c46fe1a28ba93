"""A subscriber put together: stores, the client that embeds, the use case, the consumer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from adapters.database import Database
from adapters.events.kafka import Cluster
from adapters.events.kafka_subscription import KafkaSubscription
from modelmora.client import Client
from modelmora.errors import ValidationFailed
from modelmora.ports import Subscription
from modelmora.settings import Settings
from modelmora.usecases.events.relay import Relay
from modelmora.usecases.registry.roster import Roster
from modelmora.usecases.steady_leases import SteadyLeases
from subscribers.consumer import Consumer
from subscribers.remote import RemoteEmbed
from wiring import load_catalogue
from wiring.gallery import HOLDER, Stores, core_of, pace_of, sweep_of
from wiring.stores import open_cache, open_events, open_files, open_vectors
from wiring.tracing import seen_events, seen_ingest

PATIENCE_S = 15.0
"""So long does the client try again before the consumer waits, and says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """What the process runs, and how it asks after its stores."""

    consumer: Consumer
    subscription: Subscription
    checks: Mapping[str, Callable[[], Awaitable[object]]]


def check_events(settings: Settings) -> None:
    """Raises ValidationFailed where events do not leave the API worker."""
    scheme = urlsplit(settings.events.url).scheme
    if not scheme.startswith("kafka"):
        said = f"MODELMORA_EVENTS_URL is {settings.events.url}: a subscriber of its own reads from Kafka"
        raise ValidationFailed(
            said + " (with memory:// the API worker takes events in itself)",
            field="MODELMORA_EVENTS_URL",
            found=settings.events.url,
            expected="kafka://host:port",
        )


async def open_subscriber(settings: Settings, stack: contextlib.AsyncExitStack) -> Subscriber:
    """Everything opened; it ends with the stack. Raises DependencyUnavailable."""
    database = await Database.open(settings.database.url, images_topic=settings.events.images_topic)
    stack.push_async_callback(database.close)
    stores = Stores(
        database=database,
        leases=SteadyLeases(database.leases),
        files=await open_files(settings, stack),
        vectors=await open_vectors(settings, stack, own=False),
        events=open_events(settings, stack),
    )
    roster = Roster(load_catalogue(settings), database.models, database.versions, database.audit)
    await roster.refresh()
    client = await stack.enter_async_context(Client(settings.subscriber.api, timeout=PATIENCE_S))
    relay = Relay(database.outbox, seen_events(stores.events, settings), stores.leases, holder=HOLDER)
    stack.push_async_callback(relay.release)
    core = core_of(settings, stores, RemoteEmbed(client, roster), roster, looks=None, nudge=relay.nudge)
    sweep = sweep_of(settings, stores, core, holder=HOLDER, nudge=relay.nudge)
    told: list[Consumer] = []

    async def on_revoked(partitions: frozenset[tuple[str, int]]) -> None:
        await told[0].revoked(partitions)

    subscription = KafkaSubscription(
        Cluster.of(settings.events.url),
        [settings.events.images_topic],
        group=settings.subscriber.group,
        instance=settings.subscriber.instance,
        on_revoked=on_revoked,
    )
    told.append(Consumer(subscription, seen_ingest(core.ingest, settings), pace=pace_of(settings)))
    for work in (roster.follow(), relay.run(), sweep.run()):
        task = asyncio.create_task(work)
        stack.callback(task.cancel)
    cache = open_cache(settings, stack)
    return Subscriber(consumer=told[0], subscription=subscription, checks={**stores.checks(), "cache": cache.ping})
