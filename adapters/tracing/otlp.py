"""Spans on their way to a collector: OTLP over HTTP, in batches, from a thread of the SDK's."""

from __future__ import annotations

from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

PATH = "/v1/traces"
TIMEOUT_S = 5.0
EVERY_MS = 2_000


def to_collector(url: str) -> SpanProcessor:
    """Forgets what a collector that is away does not take in time: never in the way of a request.

    Headers, certificates and compression are the exporter's own variables (`OTEL_EXPORTER_OTLP_*`).
    """
    whole = url if urlsplit(url).path.strip("/") else url.rstrip("/") + PATH
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=whole, timeout=TIMEOUT_S), schedule_delay_millis=EVERY_MS)
