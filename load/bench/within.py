"""An API worker with its runner in this process, asked over ASGI alone; and its spans, sent when they are asked for."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult

import wiring
from adapters.tracing.recorder import SdkRecorder
from api.core import Core
from api.http.app import create_app
from load.bench.processes import Trouble
from modelmora.settings import Settings
from wiring.api import ApiWorker

READY_S = 60.0


class Spans(SpanProcessor):
    """Keeps them until they are sent, as a batching processor does between two sendings."""

    def __init__(self, url: str, ratio: float) -> None:
        self.recorder = SdkRecorder(self, process="api", ratio=ratio)
        self.sent = 0
        self._waiting: list[ReadableSpan] = []
        self._exporter = OTLPSpanExporter(endpoint=url)

    def on_end(self, span: ReadableSpan) -> None:
        self._waiting.append(span)

    def send(self, *, least: int) -> float:
        """Microseconds of CPU that it took, once so many wait. Raises Trouble where nobody takes them."""
        if len(self._waiting) < least:
            return 0.0
        ready, self._waiting = self._waiting, []
        before = time.process_time_ns()
        if self._exporter.export(ready) is not SpanExportResult.SUCCESS:
            raise Trouble("the collector takes no spans")
        self.sent += len(ready)
        return (time.process_time_ns() - before) / 1e3


class Within:
    """Everything that `bentoml serve` starts, in one process, without its HTTP server."""

    def __init__(self) -> None:
        settings = Settings.load()
        self._core = Core()
        self._app = create_app(self._core, max_body_bytes=settings.http.max_body_bytes)
        self._worker = ApiWorker(settings, wiring.load_catalogue(settings), self._core, {})
        self._numbers = itertools.count()
        self._stack = AsyncExitStack()
        self._never: asyncio.Future[None]

    async def __aenter__(self) -> Self:
        self._never = asyncio.get_running_loop().create_future()
        await self._worker.start()
        self._stack.push_async_callback(self._worker.stop)
        until = time.monotonic() + READY_S
        while self._core.application is None or not self._core.application.health.readiness().ready:
            if time.monotonic() > until:
                raise Trouble(f"not ready after {READY_S:.0f} s")
            await asyncio.sleep(0.1)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def requests(self, count: int, callers: int) -> None:
        """So many, so many at once. Raises Trouble where one fails."""
        turns = iter(range(count))
        await asyncio.gather(*(self._caller(turns) for _ in range(callers)))

    async def _caller(self, turns: Iterator[int]) -> None:
        for _ in turns:
            await self._ask()

    async def _ask(self) -> None:
        body = json.dumps({"texts": [f"text {next(self._numbers):09d}"], "model": "noop"}).encode()
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            for message in messages:
                return message
            await asyncio.shield(self._never)  # nobody leaves
            raise AssertionError("nobody answers this")

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await self._app(_scope(len(body)), receive, send)
        if statuses != [200]:
            raise Trouble(f"a request was answered {statuses}")


def _scope(length: int) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/embed/text",
        "raw_path": b"/v1/embed/text",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"content-type", b"application/json"),
            (b"content-length", str(length).encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
