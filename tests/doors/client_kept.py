"""A client of both doors over the use cases of kept pictures, which stand on fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from modelmora.client import Client
from tests.doors.client_doors import QUICK, Served, over_grpc, over_http
from tests.support import reserve_port


@dataclass(frozen=True, slots=True)
class Urls:
    """Where the doors are; `url` is that of the wire that was asked for."""

    url: str
    control_url: str


@asynccontextmanager
async def doors(wire: str, served: Served) -> AsyncIterator[Urls]:
    """HTTP, which the control half always takes, and gRPC where that is the wire."""
    http, grpc = reserve_port(), reserve_port()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(over_http(served, http))
        if wire == "grpc":
            await stack.enter_async_context(over_grpc(served, grpc))
        control = f"http://127.0.0.1:{http}"
        yield Urls(f"grpc://127.0.0.1:{grpc}" if wire == "grpc" else control, control)


@asynccontextmanager
async def client_of(wire: str, served: Served) -> AsyncIterator[Client]:
    """Until the block ends."""
    async with (
        doors(wire, served) as urls,
        Client(urls.url, control_url=urls.control_url, retry=QUICK, timeout=10) as client,
    ):
        yield client
