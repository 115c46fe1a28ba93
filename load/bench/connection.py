"""An HTTP/1.1 connection on a raw socket: the caller's CPU must not crowd out the server it measures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import httptools

ANSWER_S = 120.0


class BrokenOff(ConnectionError):
    """The server closed the connection, or answered something that is not HTTP, while an answer was due."""


class Connection(asyncio.Protocol):
    """One request at a time; connects when it must and keeps the connection open between requests."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []

    async def exchange(self, parts: Sequence[bytes]) -> tuple[int, bytes]:
        """Status and body; raises OSError, BrokenOff among them, or TimeoutError after two minutes."""
        if self._transport is None or self._transport.is_closing():
            await self._connect()
        transport = cast("asyncio.Transport", self._transport)
        self._answer = asyncio.get_running_loop().create_future()
        transport.writelines(parts)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._answer
        except TimeoutError:
            self.close()
            raise

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def _connect(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = []
        await asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as bad:
            self._fail(f"the answer is not HTTP: {bad}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(f"the server closed the connection: {exc or 'no reason given'}")

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        body, self._body = b"".join(self._body), []
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), body))

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(BrokenOff(reason))
