"""Tracing as the settings name it: where nothing is named, nothing is imported, and nobody records."""
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
import contextlib
from typing import TypeVar
from urllib.parse import urlsplit

from modelmora import tracing
from modelmora.ports import Hook, Publisher
from modelmora.settings import Settings
from modelmora.usecases.spans import note_inference
from subscribers.consumer import Ingests

T = TypeVar("T")

FLUSH_S = 3.0
"""So long a stopping process waits for its last spans to be taken."""


def open_tracing(settings: Settings, stack: contextlib.AsyncExitStack, *, process: str) -> None:
    """Spans of this process go to the collector until the stack is closed."""
    if settings.tracing.url is None:
        return
    from opentelemetry import trace

    from adapters.tracing.otlp import to_collector
    from adapters.tracing.recorder import SdkRecorder

    recorder = SdkRecorder(to_collector(settings.tracing.url), process=process, ratio=settings.tracing.ratio)
    tracing.record(recorder)
    trace.set_tracer_provider(recorder.provider)  # for the client, and for libraries

    async def close() -> None:
        tracing.record(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await asyncio.to_thread(recorder.close)

    stack.push_async_callback(close)


def seen(adapter: T, port: str, url: str | None) -> T:
    """A store whose questions are spans, where anybody records."""
    if not tracing.on():
        return adapter
    from adapters.tracing.observed import observed

    return observed(adapter, port, system=_system(url))


def hooks_seen() -> tuple[Hook, ...]:
    """What tells a request's span of its inferences, likewise."""
    return (note_inference,) if tracing.on() else ()


def seen_events(publisher: Publisher, settings: Settings) -> Publisher:
    """What carries events, likewise."""
    if not tracing.on():
        return publisher
    from adapters.tracing.events import TracedPublisher

    return TracedPublisher(publisher, system=_system(settings.events.url))


def seen_ingest(ingest: Ingests, settings: Settings) -> Ingests:
    """What takes events in, likewise."""
    if not tracing.on():
        return ingest
    from subscribers.spans import TracedIngest

    return TracedIngest(ingest, system=_system(settings.events.url))


def _system(url: str | None) -> str:
    """As OpenTelemetry names what stands behind a URL; a folder of ours is `file`."""
    scheme = urlsplit(url or "file:").scheme.partition("+")[0].removesuffix("s")
    return {"http": "qdrant", "grpc": "qdrant", "redi": "redis"}.get(scheme, scheme)
