"""Answers in lines of JSON, sent as they come about."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api import calls, render
from api.http import problems
from api.http.presence import Present, Rounds

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/x-ndjson"


def line(value: object) -> bytes:
    """One value on a line of its own."""
    return render.to_json(value) + b"\n"


class Lines(StreamingResponse):
    """The status is decided with the first lines: what is raised before them is a problem with a status of its own.

    What is raised later is the last line, `{"error": {...}}`. A caller who leaves ends `lines` at once, one who does
    not read ends them soon after the `deadline` (on `time.monotonic()`). `after` is set once the request's body has
    been read, None: it has been.
    """

    def __init__(
        self, lines: AsyncGenerator[bytes, None], *, after: asyncio.Event | None = None, deadline: float = math.inf
    ) -> None:
        # Proxies that collect an answer before they pass it on are told not to.
        super().__init__(lines, headers={"x-accel-buffering": "no"}, media_type=MEDIA_TYPE)
        self._lines = lines
        self._after = after
        self._until = deadline + calls.LAST_WORDS_S
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            present = Present(receive, Rounds(), after=self._after)
            async with present, aclosing(self._lines), calls.within(self._until):
                await self._send_all(send)
        except ClientDisconnect:
            scope["state"]["code"] = "cancelled"
        except Exception as cause:
            if not self._started:
                raise
            with contextlib.suppress(TimeoutError):  # who has not read until now need not be told why
                async with asyncio.timeout(calls.LAST_WORDS_S):
                    await send(_body(self._last(cause, scope), more=False))

    async def _send_all(self, send: Send) -> None:
        async for lines in self._lines:
            if not self._started:
                self._started = True
                start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                await send(start)
            await send(_body(lines, more=True))
        await send(_body(b"", more=False))

    def _last(self, cause: Exception, scope: Scope) -> bytes:
        error = problems.translate(cause)
        scope["state"]["code"] = error.code
        if error is not cause:
            log.error("request_failed", request_id=scope["state"]["request_id"], exc_info=cause)
        return line({"error": render.fault(error.as_fault())})


def _body(lines: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": lines, "more_body": more}
