"""The real HTTP application and the real gRPC server over an application of fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import httpx
import pytest
from starlette.types import ASGIApp

from api.core import Core
from api.grpc.server import GrpcServer
from api.http.app import create_app
from tests.fakes import World

MAX_BODY = 64 * 1024


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.close()


@pytest.fixture
def core(world: World) -> Core:
    return Core(world.application())


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[ASGIApp], httpx.AsyncClient]]:
    """A client of any ASGI application; one that raises fails the test."""
    clients: list[httpx.AsyncClient] = []

    def begin(app: ASGIApp) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=app)
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://modelmora.test"))
        return clients[-1]

    yield begin
    for client in clients:
        await client.aclose()


@pytest.fixture
def http(core: Core, serve: Callable[[ASGIApp], httpx.AsyncClient]) -> httpx.AsyncClient:
    return serve(create_app(core, max_body_bytes=MAX_BODY))


@pytest.fixture
async def grpc_server(core: Core) -> AsyncIterator[GrpcServer]:
    server = GrpcServer(core.get(), host="127.0.0.1", port=0, max_message_bytes=2**20, share=False)
    await server.start()
    yield server
    await server.stop(0)


@pytest.fixture
async def channel(grpc_server: GrpcServer) -> AsyncIterator[grpc.aio.Channel]:
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_server.port}", options=options) as channel:
        yield channel
