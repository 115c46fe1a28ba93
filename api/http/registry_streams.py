"""Files of any size in and out, bit by bit: nothing is collected, and what is damaged does not look whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.http import problems
from api.http.presence import Present, Rounds
from modelmora.domain.registry.artifact import ArtifactFile
from modelmora.errors import ArtifactCorrupt, DeadlineExceeded, UnsupportedMedia

log = structlog.get_logger(__name__)

GATHERED_BYTES = 256 * 1024
"""So much of a body is put together before it is passed on: a server gives it in pieces of 64 KiB."""
SILENCE_S = 60.0
"""So long a caller may neither send nor read before he is given up."""


async def incoming(request: Request) -> AsyncGenerator[bytes, None]:
    """The body as it comes; raises UnsupportedMedia where it is encoded, DeadlineExceeded, ClientDisconnect."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMedia(
            "a file is sent as it is", field="content-encoding", found=encoding[:80], expected="no encoding"
        )
    gathered = bytearray()
    async with aclosing(request.stream()) as stream:
        while chunk := await _next(stream):
            gathered += chunk
            if len(gathered) >= GATHERED_BYTES:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)


class Download(Response):
    """A file with its length told beforehand. The last of it is held back until its digest is known to be right.

    `chunks` raise ArtifactCorrupt at their end where it is not: then the connection breaks before the body is whole,
    or, where nothing was sent yet, the answer is that error.
    """

    def __init__(self, chunks: AsyncGenerator[bytes, None], file: ArtifactFile) -> None:
        told = {"content-length": str(file.bytes), "etag": f'"{file.sha256}"'}
        headers = {**told, "x-content-type-options": "nosniff"}  # what somebody registered is no page of ours
        super().__init__(headers=headers, media_type="application/octet-stream")
        self._chunks = chunks
        self._file = file
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with Present(receive, Rounds()), aclosing(self._chunks):
                await self._send_all(send)
        except ClientDisconnect:
            scope["state"]["code"] = "cancelled"
        except Exception as cause:
            if not self._started:
                raise
            self._break(cause, scope)

    async def _send_all(self, send: Send) -> None:
        held, seen = b"", 0
        async for chunk in self._chunks:
            seen += len(chunk)
            if seen > self._file.bytes:
                said = f"the store's copy of {self._file.sha256} is longer than {self._file.bytes} bytes"
                raise ArtifactCorrupt(said, found=f"over {seen} bytes", expected=f"{self._file.bytes} bytes")
            if held:
                await self._give(send, held, more=True)
            held = chunk
        await self._give(send, held, more=False)

    async def _give(self, send: Send, chunk: bytes, *, more: bool) -> None:
        """Raises DeadlineExceeded where nobody reads."""
        messages: list[dict[str, Any]] = [{"type": "http.response.body", "body": chunk, "more_body": more}]
        if not self._started:
            messages.insert(0, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._started = True
        try:
            async with asyncio.timeout(SILENCE_S):
                for message in messages:
                    await send(message)
        except TimeoutError:
            raise DeadlineExceeded(f"nothing was read for {SILENCE_S:g} s") from None

    def _break(self, cause: Exception, scope: Scope) -> None:
        """Without an end of the body the server closes the connection, which tells the caller that it is not whole."""
        error = problems.translate(cause)
        scope["state"]["code"] = error.code
        log.error(
            "download_broken",
            request_id=scope["state"]["request_id"],
            sha256=self._file.sha256,
            code=error.code,
            why=error.detail,
            exc_info=None if error is cause else cause,
        )


async def _next(stream: AsyncGenerator[bytes, None]) -> bytes:
    """Empty at the end."""
    try:
        async with asyncio.timeout(SILENCE_S):
            return await anext(stream, b"")
    except TimeoutError:
        raise DeadlineExceeded(f"nothing of the body came for {SILENCE_S:g} s") from None
