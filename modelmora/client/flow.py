"""Work over a stream of items: so many at once, bounded memory, results as they come or in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import aclosing
from typing import Any, TypeVar

from modelmora.client.pump import pumped

T = TypeVar("T")
R = TypeVar("R")
_END: Any = object()


async def spread(
    items: Iterable[T] | AsyncIterable[T],
    work: Callable[[T], Awaitable[R]],
    *,
    concurrency: int,
    ordered: bool = True,
) -> AsyncGenerator[tuple[int, R], None]:
    """`(index, result)` for every item; at most `concurrency` items are taken and not yet handed out.

    Results do not wait for a slow source. `ordered` False hands them out as they complete. An
    exception of `work` or of the source ends it; leaving early cancels what runs.
    """
    async with aclosing(pulled(items)) as source:
        flow = _Flow(source, work, concurrency, ordered)
        try:
            while (result := await flow.next()) is not _END:
                yield result
        finally:
            await flow.abandon()


class _Flow:
    """What is in flight: the tasks in input order, and perhaps one waiting for the source."""

    def __init__(
        self, source: AsyncIterator[T], work: Callable[[T], Awaitable[R]], concurrency: int, ordered: bool
    ) -> None:
        self._source = source
        self._work = work
        self._concurrency = concurrency
        self._ordered = ordered
        self._tasks: deque[asyncio.Task[Any]] = deque()
        self._pull: asyncio.Task[Any] | None = None
        self._taken = 0
        self._exhausted = False

    async def next(self) -> Any:
        """The next `(index, result)`, or `_END`."""
        while True:
            self._refill()
            waiting = self._awaited()
            if not waiting:
                return _END
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self._pull is not None and self._pull.done():
                self._start(self._pull.result())
            for task in self._candidates():
                if task.done():
                    self._tasks.remove(task)
                    return task.result()

    async def abandon(self) -> None:
        """Cancels what is left and waits until it is gone."""
        left = [*self._tasks, *([self._pull] if self._pull else [])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _refill(self) -> None:
        if self._pull is None and not self._exhausted and len(self._tasks) < self._concurrency:
            self._pull = asyncio.ensure_future(_next_of(self._source))

    def _start(self, item: Any) -> None:
        self._pull = None
        if item is _END:
            self._exhausted = True
            return
        self._tasks.append(asyncio.create_task(self._numbered(self._taken, item)))
        self._taken += 1

    async def _numbered(self, index: int, item: Any) -> tuple[int, Any]:
        return index, await self._work(item)

    def _candidates(self) -> list[asyncio.Task[Any]]:
        return [*self._tasks][:1] if self._ordered else [*self._tasks]

    def _awaited(self) -> list[asyncio.Task[Any]]:
        return [*self._candidates(), *([self._pull] if self._pull else [])]


async def _next_of(source: AsyncIterator[T]) -> T:
    return await anext(source, _END)


async def pulled(
    items: Iterable[T] | AsyncIterable[T], *, ahead: int = 0, ahead_bytes: int = 0
) -> AsyncGenerator[T, None]:
    """Any source as an async one; a lazy plain iterator is read by a thread, so much ahead as `pumped` takes it."""
    if isinstance(items, AsyncGenerator):
        async with aclosing(items):  # its `finally` runs now, not when it is collected
            async for item in items:
                yield item
    elif isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    elif isinstance(items, Collection):
        for item in items:
            yield item
    else:
        async with aclosing(pumped(iter(items), ahead=ahead, ahead_bytes=ahead_bytes)) as source:
            async for item in source:
                yield item
