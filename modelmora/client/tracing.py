"""Requests as spans of the application that makes them, where it traces with OpenTelemetry; else nothing is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from modelmora.errors import ModelMoraError

_TRACER = trace.get_tracer("modelmora.client")


@contextmanager
def requesting(name: str, attributes: Mapping[str, str | int]) -> Iterator[Mapping[str, str]]:
    """A block that sends one request and reads its answer; what is yielded belongs in the request's headers."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # nobody has set another
        yield {}
        return
    span = _TRACER.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
    headers: dict[str, str] = {}
    propagate.inject(headers, context=trace.set_span_in_context(span))
    try:
        yield headers
    except Exception as cause:
        code = cause.code if isinstance(cause, ModelMoraError) else type(cause).__name__
        span.set_attribute("error.type", code)
        span.set_status(Status(StatusCode.ERROR, code))
        raise
    finally:
        span.end()
