"""One HTTP request driven by hand: what is sent when, what came back so far, when the caller leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message

from tests.fakes import until

BOUNDARY = "x"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def file_part(data: bytes, filename: str = "a.png", name: str = "files") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
    return f"{head}Content-Type: image/png\r\n\r\n".encode() + data + b"\r\n"


def field_part(name: str, value: str) -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


END = f"--{BOUNDARY}--\r\n".encode()


class Conversation:
    """A request to an ASGI application. `reading`: cleared, the application waits with every chunk it sends."""

    def __init__(self, app: ASGIApp, path: str, *, headers: Mapping[str, str] | None = None) -> None:
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        path, _, query = path.partition("?")
        given = {"content-type": FORM, **(headers or {})}
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("modelmora.test", 80),
        }
        self.reading = asyncio.Event()
        self.reading.set()
        self.taken = 0
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.over = False
        self._left = False
        self.task = asyncio.create_task(self._run(app))

    def send(self, chunk: bytes, *, more: bool = True) -> None:
        """A piece of the body; `more` False: the last one."""
        self._incoming.put_nowait({"type": "http.request", "body": chunk, "more_body": more})

    def leave(self) -> None:
        """The connection is gone, before what was sent is read or after."""
        self._left = True
        self._incoming.put_nowait({"type": "http.disconnect"})

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]

    async def lines_come(self, count: int) -> list[dict[str, Any]]:
        await until(lambda: self.body.count(b"\n") >= count)
        return self.lines

    async def end(self) -> list[dict[str, Any]]:
        """Waits for the end of the answer."""
        async with asyncio.timeout(10):
            await self.task
        return self.lines

    async def _run(self, app: ASGIApp) -> None:
        await app(self.scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._left and self._incoming.empty():
            return {"type": "http.disconnect"}
        message = await self._incoming.get()
        self.taken += 1
        return message

    async def _send(self, message: Message) -> None:
        await self.reading.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        self.body += message.get("body", b"")
        self.over = not message.get("more_body", False)
