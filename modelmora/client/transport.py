"""The seam of the SDK: what carries items to a server, and the choice of it by URL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, TypeAlias

from modelmora.client.address import Address
from modelmora.client.embedding import Embedding
from modelmora.client.progress import Progress
from modelmora.domain.inference import Call, Content
from modelmora.domain.outcome import Outcome

Group: TypeAlias = Sequence[tuple[int, Content]]
"""Items of a stream that go out together, each with the caller's number."""


class Transport(Protocol):
    """Sends requests and reads their answers; retries, chunks and the deadline are the client's."""

    async def embed(self, items: Sequence[Content], *, model: str | None, call: Call) -> list[Outcome[Embedding]]:
        """One outcome per item, same order; where the request is lost, each item fails with the reason.

        Tells the server `call`'s deadline. Raises nothing of `modelmora.errors`.
        """
        ...

    def batch(
        self, groups: AsyncGenerator[Group, None], *, model: str | None, call: Call
    ) -> AsyncGenerator[tuple[int, Outcome[Embedding]], None]:
        """The outcome of each item by its number, as they complete, while groups still come.

        Raises what breaks the stream as a whole; closing it early ends the stream. An infinite deadline is not told.
        """
        ...

    def progress(self, item: Content, *, model: str | None, call: Call) -> AsyncGenerator[Progress | Embedding, None]:
        """How far the item is, then its embedding; raises the item's error or what breaks the stream."""
        ...

    async def close(self) -> None:
        """Lets go of every connection; safe to repeat."""
        ...


def connect(address: Address, *, channels: int, token: str | None) -> Transport:
    """The transport of the URL's scheme. Called inside the event loop that will use it; connects lazily."""
    if address.wire == "grpc":
        from modelmora.client.grpc_transport import GrpcTransport  # noqa: PLC0415 - HTTP users do not load grpc

        return GrpcTransport(address, channels=channels, token=token)
    from modelmora.client.http_transport import HttpTransport  # noqa: PLC0415 - gRPC users do not load httpx

    return HttpTransport(address, token=token)
