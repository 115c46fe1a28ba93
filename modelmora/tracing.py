"""Spans of OpenTelemetry: begun here, written by whoever records; nobody does until `record`, and then nothing costs.

A trace travels as W3C `traceparent` in what travels anyway: headers, calls, items of the hop, events.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

TRACEPARENT = "traceparent"
MAX_LINKS = 64
"""Of a span that stands for the work of many."""

Attributes = Mapping[str, AttributeValue]
_NONE: Attributes = {}
_W3C = TraceContextTextMapPropagator()
_ROOT = {drawn: TraceFlags(TraceFlags.RANDOM_TRACE_ID | drawn * TraceFlags.SAMPLED) for drawn in (False, True)}


class Noted(NonRecordingSpan):
    """A span of ours, a few fields until it ends. One that nobody drew is forgotten then, unless it failed.

    The SDK's own takes four times as long to make, and one that was not drawn has forgotten everything by the time that
    it fails. Libraries, who find it as the current one, may tell it attributes and links.
    """

    def __init__(
        self, name: str, parent: SpanContext | None, kind: SpanKind, *, trace_id: int, drawn: bool, started_ns: int = 0
    ) -> None:
        self.name = name
        self.parent = parent
        self.kind = kind
        self.trace_id = trace_id
        self.span_id = random.getrandbits(64) or 1
        self.drawn = drawn
        self.started_ns = started_ns or time.time_ns()
        self.failure = ""
        self.attributes: dict[str, AttributeValue] = {}
        self.links: list[Link] = []

    def get_span_context(self) -> SpanContext:
        parent = self.parent
        flags, state = (_ROOT[self.drawn], None) if parent is None else (parent.trace_flags, parent.trace_state)
        return SpanContext(self.trace_id, self.span_id, is_remote=False, trace_flags=flags, trace_state=state)

    def is_recording(self) -> bool:
        return self.drawn

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self.attributes[key] = value

    def set_attributes(self, attributes: Attributes) -> None:
        self.attributes.update(attributes)

    def add_link(self, context: SpanContext, attributes: Attributes | None = None) -> None:
        if len(self.links) < MAX_LINKS:
            self.links.append(Link(context, attributes))

    def update_name(self, name: str) -> None:
        self.name = name


class Recorder(Protocol):
    """Decides what is kept, and writes it."""

    def draws(self, trace_id: int) -> bool:
        """Whether a trace that begins here is written."""
        ...

    def write(self, span: Noted) -> None:
        """One that was drawn or has failed, and ends now."""
        ...


_recorder: Recorder | None = None


def record(recorder: Recorder | None) -> None:
    """From now on spans of this process go there; None: nowhere."""
    global _recorder  # noqa: PLW0603 - one of a process, as its metrics are
    _recorder = recorder


def on() -> bool:
    """Whether anybody records."""
    return _recorder is not None


def here() -> str:
    """The traceparent of the span that is current; empty where there is none."""
    return "" if _recorder is None else traceparent(get_current_span())


def drawn_here() -> str:
    """The same of a trace that is written whatever becomes of it; else empty, for what is told of nine in ten."""
    if _recorder is None:
        return ""
    span = get_current_span()
    return traceparent(span) if span.is_recording() else ""


def traceparent(span: Span) -> str:
    """W3C Trace Context, version 00; empty for a span without identity."""
    own = span.get_span_context()
    return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}" if own.is_valid else ""


def trace_id() -> str:
    """Of the span that is current, as log lines have it; empty where there is none."""
    if _recorder is None:
        return ""
    own = get_current_span().get_span_context()
    return format_trace_id(own.trace_id) if own.is_valid else ""


def parent_of(headers: Mapping[str, str]) -> SpanContext | None:
    """What `traceparent` and `tracestate` say; None where they say nothing that can be read."""
    if TRACEPARENT not in headers:
        return None
    found = get_current_span(_W3C.extract(headers, context=Context())).get_span_context()
    return found if found.is_valid else None


def context_of(trace: str) -> SpanContext | None:
    """Of a traceparent that one of our own processes wrote; of anybody's, see `parent_of`."""
    if not trace:
        return None
    flags = TraceFlags(int(trace[53:55], 16))
    return SpanContext(int(trace[3:35], 16), int(trace[36:52], 16), is_remote=True, trace_flags=flags)


def begin(name: str, *, parent: SpanContext | None = None, kind: SpanKind = SpanKind.INTERNAL) -> Span:
    """A span that `end` ends, not current; one that leads nowhere while nobody records.

    It is drawn where its parent is; one without is where the recorder says so.
    """
    if _recorder is None:
        return INVALID_SPAN
    if parent is not None:
        return Noted(name, parent, kind, trace_id=parent.trace_id, drawn=parent.trace_flags.sampled)
    trace = random.getrandbits(128) or 1
    return Noted(name, None, kind, trace_id=trace, drawn=_recorder.draws(trace))


def begin_joint(name: str, spans: Sequence[Span]) -> Span:
    """What is done once for all of these: a part of the first that is written, with links to the others, who get one
    to it. One that leads nowhere where none of them is written."""
    written = [span for span in spans if span.is_recording()]
    if _recorder is None or not written:
        return INVALID_SPAN
    joint = begin(name, parent=written[0].get_span_context())
    own = joint.get_span_context()
    for span in written[1:]:
        joint.add_link(span.get_span_context())
        span.add_link(own)
    return joint


def end(span: Span, *, failure: str = "", attributes: Attributes = _NONE) -> None:
    """It is over; `failure` is the error code of one that failed through no fault of its caller."""
    if not isinstance(span, Noted) or _recorder is None:
        return
    span.failure = failure or span.failure
    if span.drawn or span.failure:
        span.attributes.update(attributes)
        _recorder.write(span)


def fail(span: Span, code: str) -> None:
    """It will have failed with that error code."""
    if isinstance(span, Noted):
        span.failure = code


def is_written(span: Span, failure: str = "") -> bool:
    """Whether it is worth telling anything: it was drawn, or has failed, or does so now."""
    return isinstance(span, Noted) and bool(span.drawn or failure or span.failure)


@contextlib.contextmanager
def current(span: Span) -> Iterator[Span]:
    """Within the block it is the one that children have for their parent; it is not ended."""
    if span is INVALID_SPAN:
        yield span
        return
    token = otel_context.attach(set_span_in_context(span))
    try:
        yield span
    finally:
        otel_context.detach(token)


@contextlib.contextmanager
def child(name: str, *, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes = _NONE) -> Iterator[Span]:
    """A block as a part of the current span; of one that was not drawn no parts are made.

    What the block raises is the span's failure.
    """
    parent = INVALID_SPAN if _recorder is None else get_current_span()
    if not parent.is_recording():
        yield INVALID_SPAN
        return
    failure = ""
    with current(begin(name, parent=parent.get_span_context(), kind=kind)) as span:
        try:
            yield span
        except Exception as cause:
            failure = str(getattr(cause, "code", "") or type(cause).__name__)
            raise
        finally:
            end(span, failure=failure, attributes=attributes)


def part(
    name: str, parent: Span, *, started_ns: int, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes = _NONE
) -> None:
    """A part of a span that is written, which began then and ends now."""
    if _recorder is not None and parent.is_recording():
        own = parent.get_span_context()
        span = Noted(name, own, kind, trace_id=own.trace_id, drawn=True, started_ns=started_ns)
        end(span, attributes=attributes)
