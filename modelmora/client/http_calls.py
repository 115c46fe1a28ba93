"""Requests of inference over HTTP: the headers of a call, its deadline, answers as JSON or in lines."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import httpx

from modelmora.client.address import Address
from modelmora.client.http_connection import HttpConnection
from modelmora.domain.inference import Call

SILENCE_S = 120.0
"""How long an answer may say nothing, where the call has no deadline: an item has the server's usual one."""


class HttpCalls:
    """A server's inference by path."""

    def __init__(self, address: Address, *, token: str | None) -> None:
        self._connection = HttpConnection(address.control_url, token=token)

    async def close(self) -> None:
        await self._connection.close()

    async def _send(self, path: str, call: Call, **content: Any) -> httpx.Response:
        return await self._connection.send("POST", path, timeout=_remaining_s(call), headers=_headers(call), **content)

    def _lines(self, path: str, call: Call, **content: Any) -> AsyncGenerator[Mapping[str, Any], None]:
        headers = _headers(call) | content.pop("headers", {})
        return self._connection.lines(path, timeout=_remaining_s(call), headers=headers, **content)


def _headers(call: Call) -> dict[str, str]:
    told = {"x-request-id": call.request_id, "x-modelmora-priority": call.priority}
    if math.isinf(call.deadline):
        return told
    return told | {"x-modelmora-timeout-ms": str(max(int(_remaining_s(call) * 1000), 1))}


def _remaining_s(call: Call) -> float:
    return SILENCE_S if math.isinf(call.deadline) else max(call.deadline - time.monotonic(), 0.001)


def files_of(images: Sequence[bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    """The parts of a form."""
    return [("files", (f"{index}", data, "application/octet-stream")) for index, data in enumerate(images)]
