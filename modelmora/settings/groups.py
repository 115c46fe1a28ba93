"""The groups of settings; each field carries what it is about and what it takes."""

from __future__ import annotations

import ipaddress
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field
from pydantic_settings import NoDecode

from modelmora.domain.addresses import read_network
from modelmora.domain.links import HostRule

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
_BROKERS = re.compile(r"[A-Za-z0-9._-]+:\d+(,[A-Za-z0-9._-]+:\d+)*")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,200}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ORIGIN = re.compile(r"\*|https?://[^/\s,]+")


def setting(about: str, takes: str, **options: Any) -> Any:
    """A pydantic field; `takes` finishes the sentence "this variable takes ..."."""
    return Field(description=about, json_schema_extra={"takes": takes}, **options)


def _host(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not _HOST.fullmatch(value):
            raise ValueError("neither an address nor a host name") from None
    return value


def _parts(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _every_origin(value: tuple[str, ...]) -> tuple[str, ...]:
    for origin in value:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin} is not an origin")
    return value


def _every_host_rule(value: tuple[str, ...]) -> tuple[str, ...]:
    for entry in value:
        HostRule.parse(entry)
    return value


def _every_network(value: tuple[str, ...]) -> tuple[str, ...]:
    for entry in value:
        read_network(entry)
    return value


def _database_url(value: str) -> str:
    url = urlsplit(value)
    match url.scheme:
        case "sqlite+aiosqlite" if not url.netloc and PurePosixPath(url.path[1:]).is_absolute():
            return value
        case "postgresql+asyncpg" if url.path.strip("/"):
            return value
    raise ValueError("neither an SQLite file nor a PostgreSQL database")


def _objects_url(value: str) -> str:
    url = urlsplit(value)
    match url.scheme:
        case "file" if not url.netloc and PurePosixPath(url.path).is_absolute():
            return value
        case "s3+http" | "s3+https" if url.hostname and url.username and url.password and url.path.strip("/"):
            return value
    raise ValueError("neither a folder nor a bucket")


def _vectors_url(value: str) -> str:
    url = urlsplit(value)
    match url.scheme:
        case "file" if not url.netloc and PurePosixPath(url.path).is_absolute():
            return value
        case "http" | "https" | "grpc" | "grpcs" if url.hostname and not url.path.strip("/") and not url.query:
            return value
        case "null" if value == "null://":
            return value
    raise ValueError("neither a folder nor a Qdrant server")


def _cache_url(value: str) -> str:
    url = urlsplit(value)
    match url.scheme:
        case "memory" | "null" if not url.netloc and not url.path:
            return value
        case "redis" | "rediss" if url.hostname:
            return value
    raise ValueError("neither memory nor a Redis server")


def _collector(value: str) -> str:
    url = urlsplit(value)
    if url.scheme in ("http", "https") and url.hostname and not url.query and not url.fragment:
        return value
    raise ValueError("no address of a collector")


def _events_url(value: str) -> str:
    url = urlsplit(value)
    match url.scheme:
        case "memory" | "null" if not url.netloc and not url.path:
            return value
        case "kafka" | "kafka+ssl" if _BROKERS.fullmatch(url.netloc.rpartition("@")[2]) and not url.path.strip("/"):
            return value
    raise ValueError("neither memory nor a Kafka cluster")


def _topic(value: str) -> str:
    if not _TOPIC.fullmatch(value):
        raise ValueError("not the name of a topic")
    return value


def _api(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in ("grpc", "grpcs") or not url.hostname or url.path.strip("/"):
        raise ValueError("not the address of a gRPC server")
    return value


def _every_bucket(value: tuple[str, ...]) -> tuple[str, ...]:
    for entry in value:
        if not _BUCKET.fullmatch(entry):
            raise ValueError(f"{entry} is not the name of a bucket")
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[ByteSize, Field(ge=1)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parts), AfterValidator(_every_origin)]
HostRules = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parts), AfterValidator(_every_host_rule)]
Buckets = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parts), AfterValidator(_every_bucket)]
Networks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parts), AfterValidator(_every_network)]

HOST = "an IP address or a host name"
PORT = "a port number from 1 to 65535"
TOPIC = "1 to 200 letters, digits, dots, dashes and underscores"
COUNT = "a whole number, 1 or more"
BYTES = "a size of at least one byte, such as 67108864 or 64MiB"
MILLISECONDS = "whole milliseconds, 1 or more"


class Group(BaseModel):
    """Settings with one prefix."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpSettings(Group):
    """MODELMORA_HTTP_*"""

    host: Host = setting("where HTTP listens", HOST, default="127.0.0.1")
    port: Port = setting("the port of HTTP", PORT, default=3000)
    max_body_bytes: Bytes = setting("the largest HTTP request body", BYTES, default=ByteSize(64 * 2**20))
    keep_alive_s: Count = setting(
        "seconds an idle connection stays open: longer than clients and load balancers keep theirs",
        "whole seconds, 1 or more",
        default=75,
    )
    cors_origins: Origins = setting(
        "web origins whose pages may call the API (none: CORS stays closed)",
        "origins such as https://example.org, separated by commas, or *",
        default=(),
    )


class GrpcSettings(Group):
    """MODELMORA_GRPC_*"""

    host: Host = setting("where gRPC listens", HOST, default="127.0.0.1")
    port: Port = setting("the port of gRPC", PORT, default=50051)
    max_message_bytes: Bytes = setting("the largest gRPC message", BYTES, default=ByteSize(64 * 2**20))


class ApiSettings(Group):
    """MODELMORA_API_*"""

    workers: Count = setting("API worker processes", COUNT, default=1)
    decode_threads: Count | None = setting(
        "threads that decode pictures in each API worker (unset: one per core)", COUNT, default=None
    )
    max_in_flight: Count = setting("items an API worker holds before it answers `overloaded`", COUNT, default=2048)


class LimitSettings(Group):
    """MODELMORA_LIMITS_*"""

    items: Count = setting("items in one request", COUNT, default=256)
    stream_items: Count = setting("items in one stream of them", COUNT, default=10_000)
    image_bytes: Bytes = setting("bytes of one picture file", BYTES, default=ByteSize(32 * 2**20))
    pixels: Count = setting("pixels of one picture, width times height", COUNT, default=50_000_000)
    text_chars: Count = setting("characters of one text", COUNT, default=2000)
    timeout_ms: Count = setting("the deadline of a request that sets none", MILLISECONDS, default=60_000)
    max_timeout_ms: Count = setting("the longest deadline a request may set", MILLISECONDS, default=600_000)


class FetchSettings(Group):
    """MODELMORA_FETCH_*"""

    hosts: HostRules = setting(
        "hosts that pictures given by URL are fetched from (none: no URL is taken)",
        "hosts such as images.example.org, *.example.org, example.org:8443 or http://minio:9000, separated by commas",
        default=(),
    )
    networks: Networks = setting(
        "networks that are not public and that those hosts may be in",
        "networks such as 10.0.0.0/8 or fd00::/8, separated by commas",
        default=(),
    )
    max_bytes: Bytes = setting(
        "bytes of all pictures that one request has fetched", BYTES, default=ByteSize(64 * 2**20)
    )
    timeout_ms: Count = setting("the time for fetching one picture", MILLISECONDS, default=10_000)


class RunnerSettings(Group):
    """MODELMORA_RUNNER_*"""

    drain_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = setting(
        "seconds a stopping runner goes on serving its callers", "seconds, more than 0", default=25.0
    )
    hang_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = setting(
        "seconds after which a batch that has not come back counts as hung and the runner is replaced",
        "seconds, more than 0",
        default=300.0,
    )
    threads: Count | None = setting("compute threads of each runner worker (unset: shared out)", COUNT, default=None)
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = setting(
        "the share of memory that models of all groups may take, where a group sets no budget",
        "a number above 0 and up to 1",
        default=0.6,
    )


class DatabaseSettings(Group):
    """MODELMORA_DATABASE_*"""

    url: Annotated[str, AfterValidator(_database_url)] = setting(
        "the database; unset: modelmora.db in the data folder",
        "sqlite+aiosqlite:////absolute/path.db or postgresql+asyncpg://user:password@host:port/name",
    )


class ObjectsSettings(Group):
    """MODELMORA_OBJECTS_*"""

    url: Annotated[str, AfterValidator(_objects_url)] | None = setting(
        "where registered files are kept (unset: objects/ in the data folder)",
        "file:///absolute/folder or s3+https://user:password@host:port/bucket, s3+http:// without encryption",
        default=None,
    )


class WeightsSettings(Group):
    """MODELMORA_WEIGHTS_*"""

    max_bytes: Bytes | None = setting(
        "bytes that files of registered versions may take in weights/ in the data folder (unset: as many as there are)",
        BYTES,
        default=None,
    )


class VectorsSettings(Group):
    """MODELMORA_VECTORS_*"""

    url: Annotated[str, AfterValidator(_vectors_url)] | None = setting(
        "where vectors are kept and searched (unset: vectors/ in the data folder, for one API worker)",
        "file:///absolute/folder, a Qdrant server such as http://host:6333 or grpc://:key@host:6334, or null://",
        default=None,
    )
    timeout_ms: Count = setting("the time for one question to the vector store", MILLISECONDS, default=10_000)


class CacheSettings(Group):
    """MODELMORA_CACHE_*"""

    url: Annotated[str, AfterValidator(_cache_url)] = setting(
        "where embeddings are remembered",
        "memory://, redis://user:password@host:port/0 or null://",
        default="memory://",
    )
    max_bytes: Bytes = setting("bytes of embeddings that memory:// keeps", BYTES, default=ByteSize(128 * 2**20))
    ttl_s: Count = setting("seconds for which an embedding is remembered", "whole seconds, 1 or more", default=86_400)


class EventsSettings(Group):
    """MODELMORA_EVENTS_*"""

    url: Annotated[str, AfterValidator(_events_url)] = setting(
        "what carries events",
        "memory:// (within the one API worker), kafka://host:port,host:port, kafka+ssl://... or null://",
        default="memory://",
    )
    images_topic: Annotated[str, AfterValidator(_topic)] = setting(
        "the topic of events about pictures", TOPIC, default="modelmora.images"
    )
    models_topic: Annotated[str, AfterValidator(_topic)] = setting(
        "the topic of events about models", TOPIC, default="modelmora.models"
    )


class IngestSettings(Group):
    """MODELMORA_INGEST_*"""

    sync_ms: Count = setting(
        "how long an upload waits for its pictures to be indexed before it is answered 202",
        MILLISECONDS,
        default=10_000,
    )
    buckets: Buckets = setting(
        "buckets of the object store, beside its own, that pictures may be taken from by their key",
        "names of buckets, separated by commas",
        default=(),
    )
    ttl_s: Count | None = setting(
        "seconds after which a picture is removed (unset: never)", "whole seconds, 1 or more", default=None
    )
    tries: Count = setting("how often one picture is tried before it is given up", COUNT, default=8)
    stuck_s: Count = setting(
        "seconds without any progress after which a picture is announced again", "whole seconds, 1 or more", default=300
    )
    batch: Count = setting("pictures that are embedded and indexed together", COUNT, default=32)
    in_flight: Count = setting("messages that one consumer works on at once", COUNT, default=256)


class SubscriberSettings(Group):
    """MODELMORA_SUBSCRIBER_*"""

    host: Host = setting("where the subscriber's health is served", HOST, default="127.0.0.1")
    port: Port = setting("the port of the subscriber's health", PORT, default=8081)
    group: Annotated[str, AfterValidator(_topic)] = setting(
        "the consumer group of subscribers", TOPIC, default="modelmora-subscribers"
    )
    instance: Annotated[str, AfterValidator(_topic)] | None = setting(
        "this member's own name, which keeps its partitions over a short restart (unset: none)", TOPIC, default=None
    )
    api: Annotated[str, AfterValidator(_api)] = setting(
        "the gRPC address of the API that embeds", "grpc://host:port", default="grpc://127.0.0.1:50051"
    )
    drain_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = setting(
        "seconds a stopping subscriber finishes what it works on", "seconds, more than 0", default=25.0
    )


class TracingSettings(Group):
    """MODELMORA_TRACING_*"""

    url: Annotated[str, AfterValidator(_collector)] | None = setting(
        "the collector that spans are sent to by OTLP over HTTP (unset: nothing is traced)",
        "http://host:4318 or https://host/path",
        default=None,
    )
    ratio: Annotated[float, Field(ge=0, le=1)] = setting(
        "the share of requests that are traced where their callers do not say; those that fail always are",
        "0 to 1",
        default=0.1,
    )


class LogSettings(Group):
    """MODELMORA_LOG_*"""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = setting(
        "the least severe log lines that are written", "debug, info, warning or error", default="info"
    )
    format: Annotated[Literal["auto", "json", "console"], BeforeValidator(_lower)] = setting(
        "how log lines look (auto: console on a terminal, else json)", "auto, json or console", default="auto"
    )
