"""Many questions to a store, so many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

AT_ONCE = 16


async def together(ask: Callable[[T], Awaitable[U]], of: Iterable[T], *, at_once: int = AT_ONCE) -> list[U]:
    """The answers in the order of the questions; the first error ends all of it."""
    waiting, answers = enumerate(list(of)), dict[int, U]()

    async def work() -> None:
        for place, one in waiting:
            answers[place] = await ask(one)

    workers = [asyncio.create_task(work()) for _ in range(at_once)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [answers[place] for place in sorted(answers)]
