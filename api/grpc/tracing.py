"""A span for each call: begun where gRPC still knows the method's name, ended by `statuses.answer`."""

from __future__ import annotations

from typing import Any

import grpc
from opentelemetry import context as otel_context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, get_current_span, set_span_in_context

from api.errors import STATUSES
from modelmora import tracing

_NOT_OURS = ("/grpc.",)
"""Health and reflection, which are asked all the time."""


class Traced(grpc.aio.ServerInterceptor):
    """For servers that trace; see OpenTelemetry's semantic conventions for RPC servers."""

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The span is current in what is left of the call's task, which has a context of its own."""
        method = handler_call_details.method
        if not method.startswith(_NOT_OURS):
            metadata = handler_call_details.invocation_metadata or ()
            headers = {key: value for key, value in metadata if isinstance(value, str)}
            parent = tracing.parent_of(headers)
            span = tracing.begin(method.lstrip("/"), parent=parent, kind=SpanKind.SERVER)
            otel_context.attach(set_span_in_context(span))
        return await continuation(handler_call_details)


def span_of_call() -> Span:
    """That of the call whose task this is."""
    return get_current_span() if tracing.on() else INVALID_SPAN


def end_call(span: Span, code: str, *, request_id: str) -> None:
    """With the code that it was answered with."""
    if span is INVALID_SPAN:
        return
    row = STATUSES.get(code)
    told: tracing.Attributes = {
        "rpc.system.name": "grpc",
        "rpc.response.status_code": row.grpc.name if row else "OK",
        "modelmora.request_id": request_id,
    }
    tracing.end(span, failure=code if row and row.http >= 500 else "", attributes=told)
