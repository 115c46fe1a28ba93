"""The outermost layer: request id, body limit, metrics, log; nothing raised gets past it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from opentelemetry.trace import Span, SpanKind
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import calls
from api.http import problems
from modelmora import tracing
from modelmora.errors import LimitExceeded, ModelMoraError
from modelmora.tallies import write_all
from modelmora.telemetry import count_request

PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})

log = structlog.get_logger(__name__)


class Front:
    """Wraps the whole application; `refusal` says why nothing may be served (None: everything may).

    The requests of which `unbounded` holds have no limit of the whole body. `routes` are the application's, for those
    who look at what is served.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        unbounded: Callable[[Scope], bool] = lambda scope: False,
        refusal: Callable[[], ModelMoraError | None] = lambda: None,
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self.routes = routes
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._unbounded = unbounded
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = calls.request_id(headers.get(calls.REQUEST_ID))
        answer = _Answer(send, state["request_id"])
        started = time.monotonic()
        if not tracing.on():
            await self._serve(scope, self._bounded(scope, headers, receive), answer)
            return self._leave_behind(scope, answer.status, time.monotonic() - started)
        span = tracing.begin(scope["method"], parent=tracing.parent_of(headers), kind=SpanKind.SERVER)
        with tracing.current(span):
            await self._serve(scope, self._bounded(scope, headers, receive), answer)
            self._leave_behind(scope, answer.status, time.monotonic() - started)
        _end(span, scope, answer.status)

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            refusal = self._refusal()
            if refusal is not None and scope["path"] != "/livez":
                raise refusal
            if scope["path"] == "/metrics":
                write_all()  # who asks is told of all that this worker answered before
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            scope["state"]["code"] = "cancelled"
        except Exception as cause:
            await self._fail(cause, scope, receive, answer)

    async def _fail(self, cause: Exception, scope: Scope, receive: Receive, answer: _Answer) -> None:
        error = problems.translate(cause)
        if error is not cause:
            log.error("request_failed", request_id=scope["state"]["request_id"], exc_info=cause)
        if not answer.started:
            await problems.response(error, Request(scope))(scope, receive, answer)

    def _bounded(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """Counts the body as it comes; a declared length beyond the limit is refused unread."""
        if self._unbounded(scope):
            return receive
        limit, seen = self._max_body_bytes, 0
        declared = headers.get("content-length", "0")

        async def bounded() -> Message:
            nonlocal seen
            if declared.isdigit() and int(declared[:18]) > limit:
                raise _too_large(declared, limit)
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _too_large(f"over {seen}", limit)
            return message

        return bounded

    def _leave_behind(self, scope: Scope, status: int, seconds: float) -> None:
        """A probe is no request of a caller: it would count as a failure for as long as a start or a drain takes."""
        code = scope["state"].get("code", "ok" if status < 400 else str(status))
        probe = scope["path"] in PROBES
        if not probe:
            count_request("http", code, seconds)
        write = log.warning if status >= 500 and not probe else log.debug
        write(
            "request",
            request_id=scope["state"]["request_id"],
            method=scope["method"],
            path=scope["path"],
            status=status,
            code=code,
            ms=round(seconds * 1e3, 1),
        )


class _Answer:
    """The send channel, with the request id put on every answer."""

    def __init__(self, send: Callable[[Message], Awaitable[None]], request_id: str) -> None:
        self._send = send
        self._request_id = request_id.encode("ascii")
        self.started = False
        self.status = 499

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._request_id)]
        await self._send(message)


def _end(span: Span, scope: Scope, status: int) -> None:
    """With what OpenTelemetry's semantic conventions for HTTP servers want, named by the route: a path may hold
    anything."""
    failure = scope["state"].get("code", str(status)) if status >= 500 else ""
    if not tracing.is_written(span, failure):
        return tracing.end(span)
    told = {
        "http.request.method": scope["method"],
        "http.response.status_code": status,
        "url.path": scope["path"],
        "url.scheme": scope["scheme"],
        "modelmora.request_id": scope["state"]["request_id"],
    }
    if route := getattr(scope.get("route"), "path", ""):
        span.update_name(f"{scope['method']} {route}")
        told["http.route"] = route
    return tracing.end(span, failure=failure, attributes=told)


def _too_large(found: str, limit: int) -> LimitExceeded:
    return LimitExceeded(
        "the request body is too large", field="body", found=f"{found} bytes", expected=f"at most {limit} bytes"
    )
