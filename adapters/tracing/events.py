"""The port `Publisher` with a span for each event: the consumer's is a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opentelemetry.trace import Span, SpanKind

from modelmora import tracing
from modelmora.ports import Kept, Publisher
from modelmora.tracing import TRACEPARENT


class TracedPublisher:
    """In front of another; see OpenTelemetry's semantic conventions for messaging."""

    def __init__(self, publisher: Publisher, *, system: str) -> None:
        self._publisher = publisher
        self._system = system

    async def publish(self, events: Sequence[Kept]) -> list[bool]:
        """See the port."""
        spans = [self._span(event) for event in events]
        safe: list[bool] = []
        try:
            safe = await self._publisher.publish([_told(*pair) for pair in zip(events, spans, strict=True)])
        finally:
            for place, span in enumerate(spans):
                if span is not None:
                    tracing.end(span, failure="" if safe and safe[place] else "dependency_unavailable")
        return safe

    async def ping(self) -> float:
        """See the port."""
        return await self._publisher.ping()

    async def close(self) -> None:
        """See the port."""
        await self._publisher.close()

    def _span(self, event: Kept) -> Span | None:
        """None for one that came about where nobody traced."""
        parent = tracing.parent_of({name: value.decode(errors="replace") for name, value in event.headers})
        if parent is None:
            return None
        span = tracing.begin(f"send {event.topic}", parent=parent, kind=SpanKind.PRODUCER)
        told = {
            "messaging.system": self._system,
            "messaging.destination.name": event.topic,
            "messaging.operation.type": "send",
            "messaging.operation.name": "send",
            "messaging.kafka.message.key": event.key.decode(errors="replace"),
        }
        span.set_attributes(told)
        return span


def _told(event: Kept, span: Span | None) -> Kept:
    if span is None:
        return event
    others = tuple((name, value) for name, value in event.headers if name != TRACEPARENT)
    return replace(event, headers=(*others, (TRACEPARENT, tracing.traceparent(span).encode())))
