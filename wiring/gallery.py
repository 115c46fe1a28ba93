"""Kept pictures in one API worker: use cases over the stores, and what runs in the background for them."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from adapters.database import Database
from adapters.events.memory import MemoryBus
from modelmora.domain.catalogue import Look
from modelmora.domain.pictures.way import RetryRule
from modelmora.ids import new_id
from modelmora.ports import (
    Capacity,
    Describer,
    Leases,
    ModelHost,
    PictureFiles,
    PictureLooks,
    Publisher,
    Vectors,
)
from modelmora.settings import Settings
from modelmora.usecases.admission import Limits
from modelmora.usecases.decoding import Decoding
from modelmora.usecases.embed import Embed
from modelmora.usecases.events.models import ModelEvents
from modelmora.usecases.events.relay import Relay
from modelmora.usecases.pictures.arrivals import Receiving
from modelmora.usecases.pictures.filling import Filling
from modelmora.usecases.pictures.gallery import Gallery
from modelmora.usecases.pictures.indexes import IndexBook
from modelmora.usecases.pictures.indexing import Embeds, Indexing, Teller
from modelmora.usecases.pictures.ingest import Ingest, IngestSettings
from modelmora.usecases.pictures.letters import Letters
from modelmora.usecases.pictures.pictures import KeptPictures
from modelmora.usecases.pictures.reindex import Reindex
from modelmora.usecases.pictures.remove import Remove
from modelmora.usecases.pictures.search import Search
from modelmora.usecases.pictures.spaces import Spaces
from modelmora.usecases.pictures.sweep import Sweep
from modelmora.usecases.pictures.upload import Upload, UploadSettings
from modelmora.usecases.pictures.upload_stream import UploadStream
from subscribers.consumer import Consumer, Pace
from wiring.registry import now
from wiring.tracing import seen_events, seen_ingest

HOLDER = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
"""Whose leases those of this process are."""
STOP_S = 5.0
"""So long may the consumer of an API worker end what it works on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The stores of kept pictures, opened."""

    database: Database
    leases: Leases
    files: PictureFiles
    vectors: Vectors
    events: Publisher

    def checks(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        """How each says that it is there."""
        pings = {"objects": self.files.ping, "vectors": self.vectors.ping, "events": self.events.ping}
        return {"database": self.database.ping, **pings}


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What a consumer needs, be it in an API worker or a process of its own."""

    spaces: Spaces
    indexing: Indexing
    remove: Remove
    ingest: Ingest


def source_of() -> str:
    """In whose name events are made."""
    return f"/modelmora/{socket.gethostname()}"


def core_of(
    settings: Settings,
    stores: Stores,
    embed: Embeds,
    look: Look,
    *,
    looks: PictureLooks | None,
    nudge: Callable[[], None],
) -> Core:
    """Spaces, indexing, removal and the taking in of events."""
    database, source = stores.database, source_of()
    spaces = Spaces(look, database.indexes, stores.vectors, now=now)
    indexing = Indexing(
        embed,
        spaces,
        vectors=stores.vectors,
        records=database.pictures,
        teller=Teller(source=source, topic=settings.events.images_topic, new_id=new_id, clock=now),
        rule=RetryRule(tries=settings.ingest.tries),
        draw=random.random,
    )
    remove = Remove(
        database.pictures, database.indexes, vectors=stores.vectors, files=stores.files, source=source, nudge=nudge
    )
    ingest = Ingest(
        indexing,
        spaces,
        remove,
        records=database.pictures,
        files=stores.files,
        letters=database.dead_letters,
        looks=looks,
        settings=IngestSettings(image_bytes=settings.limits.image_bytes),
        now=now,
    )
    return Core(spaces=spaces, indexing=indexing, remove=remove, ingest=ingest)


def pace_of(settings: Settings) -> Pace:
    return Pace(batch=settings.ingest.batch, in_flight=settings.ingest.in_flight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What an API worker has beside the stores: the use case that embeds, and what it stands on."""

    embed: Embed
    host: ModelHost
    describer: Describer
    capacity: Capacity
    looks: PictureLooks
    decoding: Decoding
    limits: Limits
    look: Look
    spawn: Callable[[contextlib.AsyncExitStack, Coroutine[Any, Any, None]], None]


def gallery_of(settings: Settings, stack: contextlib.AsyncExitStack, stores: Stores, around: Around) -> Gallery:
    """All that doors ask for; the relay, the sweep, re-indexing and the consumer run until the stack is closed."""
    database, source = stores.database, source_of()
    relay = Relay(database.outbox, seen_events(stores.events, settings), stores.leases, holder=HOLDER)
    core = core_of(settings, stores, around.embed, around.look, looks=around.looks, nudge=relay.nudge)
    book = IndexBook(
        database.indexes,
        stores.vectors,
        core.spaces,
        records=database.pictures,
        embed=around.embed,
        describer=around.describer,
        clock=now,
    )
    sweep = sweep_of(settings, stores, core, holder=HOLDER, nudge=relay.nudge)
    stack.push_async_callback(relay.release)  # whoever comes next need not wait for the lease to run out
    models = _model_events(settings, stores, around.host)
    for work in (relay.run(), sweep.run(), _reindex(stores, core, book, around).run(), models.run()):
        around.spawn(stack, work)
    _consume_here(settings, stack, stores, core, around)
    search = Search(
        around.embed,
        core.spaces,
        vectors=stores.vectors,
        indexes=database.indexes,
        describer=around.describer,
        look=around.look,
    )
    return Gallery(
        upload=UploadStream(_upload(settings, stores, core, around), around.decoding),
        search=search,
        pictures=KeptPictures(database.pictures, stores.files, around.looks, limits=around.limits),
        remove=core.remove,
        letters=Letters(database.dead_letters, source=source, nudge=relay.nudge),
        indexes=book,
    )


def sweep_of(settings: Settings, stores: Stores, core: Core, *, holder: str, nudge: Callable[[], None]) -> Sweep:
    """Waits that are over, what is stuck, what has expired."""
    database = stores.database
    return Sweep(
        database.pictures,
        database.dead_letters,
        core.remove,
        stores.leases,
        holder=holder,
        source=source_of(),
        stuck_s=settings.ingest.stuck_s,
        tries=settings.ingest.tries,
        nudge=nudge,
    )


def _model_events(settings: Settings, stores: Stores, host: ModelHost) -> ModelEvents:
    return ModelEvents(
        host,
        stores.database.outbox,
        stores.leases,
        lease=f"model-events-{os.uname().nodename}-{os.getppid()}",
        holder=HOLDER,
        source=source_of(),
        topic=settings.events.models_topic,
        new_id=new_id,
        clock=now,
    )


def _upload(settings: Settings, stores: Stores, core: Core, around: Around) -> Upload:
    receiving = Receiving(
        around.looks, stores.files, limits=around.limits, ttl_s=settings.ingest.ttl_s, new_id=new_id, clock=now
    )
    return Upload(
        receiving,
        core.indexing,
        core.spaces,
        records=stores.database.pictures,
        capacity=around.capacity,
        limits=around.limits,
        settings=UploadSettings(source=source_of(), sync_s=settings.ingest.sync_ms / 1e3),
    )


def _reindex(stores: Stores, core: Core, book: IndexBook, around: Around) -> Reindex:
    database = stores.database
    filling = Filling(
        core.indexing, vectors=stores.vectors, records=database.pictures, files=stores.files, limits=around.limits
    )
    return Reindex(
        book,
        filling,
        around.embed,
        indexes=database.indexes,
        vectors=stores.vectors,
        records=database.pictures,
        leases=stores.leases,
        holder=HOLDER,
        limits=around.limits,
        clock=now,
    )


def _consume_here(
    settings: Settings, stack: contextlib.AsyncExitStack, stores: Stores, core: Core, around: Around
) -> None:
    """Events that stay in this process are taken in here."""
    if isinstance(stores.events, MemoryBus):
        subscription = stores.events.subscribe([settings.events.images_topic])
        consumer = Consumer(subscription, seen_ingest(core.ingest, settings), pace=pace_of(settings))
        around.spawn(stack, consumer.run())
        stack.push_async_callback(consumer.stop, within_s=STOP_S)
