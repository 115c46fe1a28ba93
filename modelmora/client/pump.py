"""A plain iterator read by a thread of its own, since it may block, a little ahead of who wants its items."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_END: Any = object()


async def pumped(iterator: Iterator[T], *, ahead: int = 0, ahead_bytes: int = 0) -> AsyncGenerator[T, None]:
    """Its items in order, each as soon as it is there; raises what the iterator raises, in its place.

    Up to `ahead` items are taken before they are wanted, fewer where those that are bytes come to `ahead_bytes`; with 0
    each is taken when it is waited for. Who leaves early leaves the thread to end after the item that it waits for.
    """
    pump = _Pump(iterator, ahead, ahead_bytes)
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(pump.run,), name="modelmora-source", daemon=True).start()
    try:
        while (item := await pump.next()) is not _END:
            yield item
    finally:
        pump.close()


class _Pump(Generic[T]):
    """What is taken and not yet handed out, between the thread and one event loop."""

    def __init__(self, iterator: Iterator[T], ahead: int, ahead_bytes: int) -> None:
        self._iterator = iterator
        self._ahead = ahead
        self._ahead_bytes = ahead_bytes
        self._loop = asyncio.get_running_loop()
        self._came = asyncio.Event()
        self._turn = threading.Condition()
        self._taken: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._wanted = False
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None

    def run(self) -> None:
        """The thread's work, until the iterator ends, or nobody reads any more."""
        try:
            while self._may_take():
                item = next(self._iterator, _END)
                if item is _END:
                    break
                self._put(item)
        except BaseException as error:  # whatever it is, it is the reader's
            self._error = error
        self._ended = True
        self._tell()

    async def next(self) -> T:
        """The next item, or `_END`; one reader only."""
        while True:
            self._came.clear()
            with self._turn:
                if self._taken:
                    return self._hand_out()
                if not self._ended:
                    self._wanted = True
                    self._turn.notify()
            if self._ended:
                return self._end()
            await self._came.wait()

    def close(self) -> None:
        """Nothing more is taken."""
        with self._turn:
            self._closed = True
            self._turn.notify()

    def _may_take(self) -> bool:
        """Waits until there is room; False when nobody reads any more."""
        with self._turn:
            while not (self._closed or self._wanted or self._has_room()):
                self._turn.wait()
            self._wanted = False
            return not self._closed

    def _has_room(self) -> bool:
        return len(self._taken) < self._ahead and self._bytes < self._ahead_bytes

    def _put(self, item: T) -> None:
        size = len(item) if isinstance(item, bytes | bytearray) else 0
        with self._turn:
            self._taken.append((item, size))
            self._bytes += size
            self._wanted = False
        self._tell()

    def _hand_out(self) -> T:
        """Room for one alone does not wake the thread: it takes several at a time, and they go out together."""
        item, size = self._taken.popleft()
        self._bytes -= size
        if len(self._taken) <= self._ahead // 2:
            self._turn.notify()
        return item

    def _end(self) -> T:
        if self._taken:  # they came between the look and the end
            return self._hand_out()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return _END  # type: ignore[no-any-return] # the one value that is not of the items' type

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._came.set)
        except RuntimeError:  # the loop has ended, and its readers with it
            self.close()
