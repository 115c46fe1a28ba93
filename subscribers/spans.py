"""Deliveries as spans: each a part of the trace that its event came with."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.trace import Span, SpanKind

from modelmora import tracing
from modelmora.ports import Delivery
from subscribers.consumer import Ingests

_BINARY = "ce_" + tracing.TRACEPARENT


class TracedIngest:
    """In front of another; a chunk is worked on in one span, a part of the first delivery's that is written."""

    def __init__(self, ingest: Ingests, *, system: str) -> None:
        self._ingest = ingest
        self._system = system

    async def __call__(self, deliveries: Sequence[Delivery], *, last: bool = False) -> None:
        """See `Ingests`. A chunk that has to be tried again leaves its spans failed, and gets new ones."""
        spans = [_span(delivery) for delivery in deliveries]
        joint = tracing.begin_joint("ingest", spans)
        failure = ""
        try:
            with tracing.current(joint if joint.is_recording() or not spans else spans[0]):
                await self._ingest(deliveries, last=last)
        except Exception as cause:
            failure = str(getattr(cause, "code", "") or "internal")
            raise
        finally:
            counted = {"messaging.batch.message_count": len(deliveries)}
            tracing.end(joint, failure=failure, attributes=counted)
            for span, delivery in zip(spans, deliveries, strict=True):
                tracing.end(span, failure=failure, attributes=self._told(delivery))

    def _told(self, delivery: Delivery) -> tracing.Attributes:
        return {
            "messaging.system": self._system,
            "messaging.destination.name": delivery.topic,
            "messaging.destination.partition.id": str(delivery.partition),
            "messaging.kafka.offset": delivery.offset,
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
        }


def _span(delivery: Delivery) -> Span:
    headers = {name.lower(): value.decode(errors="replace") for name, value in delivery.headers}
    if _BINARY in headers:
        headers.setdefault(tracing.TRACEPARENT, headers[_BINARY])
    parent = tracing.parent_of(headers)
    return tracing.begin(f"process {delivery.topic}", parent=parent, kind=SpanKind.CONSUMER)
