"""`modelmora.tracing.Recorder` with OpenTelemetry's SDK: its ratio, its resource, its processors."""

from __future__ import annotations

import os
import socket
import time

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from modelmora import __version__
from modelmora.tracing import Noted

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)


class SdkRecorder:
    """One of a process; `provider` is what libraries get their tracers from."""

    def __init__(self, processor: SpanProcessor, *, process: str, ratio: float) -> None:
        """`ratio` of the requests that nobody else drew are drawn, by their trace id as every other service does."""
        self._processor = processor
        self._bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        self._scope = InstrumentationScope("modelmora", __version__)
        self._resource = Resource.create(
            {
                "service.name": f"modelmora-{process}",
                "service.namespace": "modelmora",
                "service.version": __version__,
                "host.name": socket.gethostname(),
                "process.pid": os.getpid(),
            }
        )
        sampler = ParentBased(TraceIdRatioBased(ratio))
        self.provider = TracerProvider(sampler=sampler, resource=self._resource, shutdown_on_exit=False)
        self.provider.add_span_processor(processor)

    def draws(self, trace_id: int) -> bool:
        """See the protocol."""
        return trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound

    def write(self, span: Noted) -> None:
        """See the protocol. A processor takes what says that it was drawn."""
        attributes = span.attributes
        if span.failure:
            attributes["error.type"] = span.failure
        parent = span.parent
        state = None if parent is None else parent.trace_state
        own = SpanContext(span.trace_id, span.span_id, is_remote=False, trace_flags=_SAMPLED, trace_state=state)
        self._processor.on_end(
            ReadableSpan(
                span.name,
                own,
                parent,
                self._resource,
                attributes,
                links=span.links,
                kind=span.kind,
                status=Status(StatusCode.ERROR, span.failure) if span.failure else _UNSET,
                start_time=span.started_ns,
                end_time=time.time_ns(),
                instrumentation_scope=self._scope,
            )
        )

    def close(self) -> None:
        """Sends what is left."""
        self.provider.shutdown()
