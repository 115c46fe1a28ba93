"""The stores of kept pictures as the settings name them: files, vectors, cache, events."""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

from adapters.cache.memory import MemoryCache
from adapters.cache.null import NullCache
from adapters.events.memory import MemoryBus
from adapters.events.null import NullPublisher
from adapters.images.files import FilePictures
from adapters.vectors.null import NullVectors
from adapters.vectors.owner import OwnerVectors, SharedVectors, socket_of
from modelmora.ports import EmbeddingCache, PictureFiles, Publisher, Vectors
from modelmora.settings import Settings
from wiring.tracing import seen

LETTERS = ".dlq"


async def open_files(settings: Settings, stack: contextlib.AsyncExitStack) -> PictureFiles:
    """Where pictures are kept: beside the registered files. Raises DependencyUnavailable."""
    url = urlsplit(settings.objects.url or (settings.data_dir / "objects").as_uri())
    if url.scheme == "file":
        return seen(FilePictures(Path(unquote(url.path))), "objects", settings.objects.url)
    from adapters.images.s3 import S3Pictures  # noqa: PLC0415 - its client takes long to import, and most have none

    secure = url.scheme == "s3+https"
    host = f"{url.hostname}:{url.port or (443 if secure else 80)}"
    key, secret = unquote(url.username or ""), unquote(url.password or "")
    files = S3Pictures(
        host,
        url.path.strip("/"),
        access_key=key,
        secret_key=secret,
        secure=secure,
        also=settings.ingest.buckets,
    )
    stack.callback(files.close)
    return seen(files, "objects", settings.objects.url)


def vectors_folder(settings: Settings) -> Path | None:
    """The folder of vectors; None where a server has them, or nobody."""
    if settings.vectors.url is None:
        return settings.data_dir / "vectors"
    url = urlsplit(settings.vectors.url)
    return Path(unquote(url.path)) if url.scheme == "file" else None


async def open_vectors(settings: Settings, stack: contextlib.AsyncExitStack, *, own: bool = True) -> Vectors:
    """Where vectors are searched; a folder is opened here and shared with other processes, or asked of the process that
    has it (`own` False). Raises DependencyUnavailable."""
    folder, timeout_s = vectors_folder(settings), settings.vectors.timeout_ms / 1e3
    if settings.vectors.url == "null://":
        return NullVectors()
    if folder is not None and not own:
        asking = OwnerVectors(socket_of(folder), timeout_s=timeout_s)
        stack.push_async_callback(asking.close)
        return seen(asking, "vectors", settings.vectors.url)
    from adapters.vectors.qdrant import QdrantVectors  # noqa: PLC0415 - half of the processes have no use for it

    if folder is None:
        server = await QdrantVectors.server(settings.vectors.url or "", timeout_s=timeout_s)
        stack.push_async_callback(server.close)
        return seen(server, "vectors", settings.vectors.url)
    local = await QdrantVectors.local(folder)
    stack.push_async_callback(local.close)
    shared = SharedVectors(local, socket_of(folder))
    await shared.start()
    stack.push_async_callback(shared.stop)
    return seen(local, "vectors", settings.vectors.url)


def open_cache(settings: Settings, stack: contextlib.AsyncExitStack) -> EmbeddingCache:
    """Where embeddings are remembered; nothing is asked of it yet."""
    scheme = urlsplit(settings.cache.url).scheme
    if scheme == "null":
        return NullCache()
    if scheme == "memory":
        return MemoryCache(max_bytes=settings.cache.max_bytes, ttl_s=settings.cache.ttl_s)
    from adapters.cache.redis import RedisCache  # noqa: PLC0415 - most have none

    cache = RedisCache(settings.cache.url, ttl_s=settings.cache.ttl_s)
    stack.push_async_callback(cache.close)
    return seen(cache, "cache", settings.cache.url)


def open_events(settings: Settings, stack: contextlib.AsyncExitStack) -> Publisher:
    """What carries events; a `MemoryBus` is read in the same process."""
    scheme = urlsplit(settings.events.url).scheme
    if scheme == "null":
        return NullPublisher()
    if scheme == "memory":
        bus = MemoryBus()
        stack.push_async_callback(bus.close)
        return bus
    from adapters.events.kafka import Cluster  # noqa: PLC0415 - most have none
    from adapters.events.kafka_publisher import KafkaPublisher  # noqa: PLC0415

    named = (settings.events.images_topic, settings.events.models_topic)
    publisher = KafkaPublisher(Cluster.of(settings.events.url), topics=(*named, named[0] + LETTERS))
    stack.push_async_callback(publisher.close)
    return publisher
