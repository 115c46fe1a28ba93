"""The real doors over an application of fakes, for the tests of the client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import uvicorn

from api.core import Core
from api.grpc.server import GrpcServer
from api.http.app import create_app
from modelmora.client import Client, Retry
from modelmora.usecases.application import Application
from tests.fakes import until
from tests.support import reserve_port

QUICK = Retry(initial_s=0.001, max_s=0.01)


class Served(Protocol):
    """What the doors stand before: a `World`, or a `Kit` of kept pictures."""

    def application(self) -> Application: ...


@asynccontextmanager
async def over_grpc(world: Served, port: int) -> AsyncIterator[None]:
    server = GrpcServer(world.application(), host="127.0.0.1", port=port, max_message_bytes=2**20, share=False)
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


class InThisLoop(uvicorn.Server):
    """Leaves the signals of the test run alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def over_http(world: Served, port: int) -> AsyncIterator[None]:
    app = create_app(Core(world.application()), max_body_bytes=2**20)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", lifespan="off", ws="none")
    config.timeout_graceful_shutdown = 0
    server = InThisLoop(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def over(wire: str, world: Served, port: int) -> AbstractAsyncContextManager[None]:
    """The door of a wire, `grpc` or `http`."""
    return over_grpc(world, port) if wire == "grpc" else over_http(world, port)


@asynccontextmanager
async def connected(wire: str, world: Served, *, retry: Retry = QUICK) -> AsyncIterator[Client]:
    """A client of the door of a wire, until the block ends."""
    port = reserve_port()
    async with over(wire, world, port), Client(f"{wire}://127.0.0.1:{port}", retry=retry, timeout=10) as client:
        yield client
