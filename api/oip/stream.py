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
"""While so many are under way, nothing more is read."""


async def spread(
    requests: AsyncIterator[Q], answer: Callable[[Q], Awaitable[A]], write: Callable[[A], Awaitable[None]]
) -> None:
    """Each answer written when it is there, one at a time; `answer` must not raise. Cancelling cancels all of them.

    Raises Cancelled where an answer cannot be written: the caller has left.
    """
    places, writing = asyncio.Semaphore(WINDOW), asyncio.Lock()

    async def one(request: Q) -> None:
        try:
            done = await answer(request)
            async with writing:
                await sent(write(done))
        finally:
            places.release()

    left: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            async for request in requests:
                await places.acquire()
                group.create_task(one(request))
    except* Cancelled as several:
        left = several
    if left is not None:
        raise Cancelled("the caller left") from left
