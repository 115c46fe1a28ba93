"""Requests of a stream answered side by side, so many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from api.grpc.statuses import sent
from modelmora.errors import Cancelled

Q = TypeVar("Q")
A = TypeVar("A")

WINDOW = 16
WINDOW_BYTES = 64 * 2**20
"""While so many, or requests of so many bytes, are under way, nothing more is read. One alone may be of any size."""


class _Window:
    """How much of a stream is under way."""

    def __init__(self) -> None:
        self._count = self._bytes = 0
        self._left = asyncio.Event()

    async def room_for(self, size: int) -> None:
        """Waits for it, and takes it."""
        while self._count >= WINDOW or (self._count and self._bytes + size > WINDOW_BYTES):
            self._left.clear()
            await self._left.wait()
        self._count += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        self._count -= 1
        self._bytes -= size
        self._left.set()


async def spread(
    requests: AsyncIterator[Q],
    answer: Callable[[Q], Awaitable[A]],
    write: Callable[[A], Awaitable[None]],
    *,
    size: Callable[[Q], int],
) -> None:
    """Each answer written when it is there, one at a time; `answer` must not raise. Cancelling cancels all of them.

    Raises Cancelled where an answer cannot be written: the caller has left.
    """
    window, writing = _Window(), asyncio.Lock()

    async def one(request: Q, taken: int) -> None:
        try:
            done = await answer(request)
            async with writing:
                await sent(write(done))
        finally:
            window.leave(taken)

    left: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            async for request in requests:
                await window.room_for(taken := size(request))
                group.create_task(one(request, taken))
    except* Cancelled as several:
        left = several
    if left is not None:
        raise Cancelled("the caller left") from left
