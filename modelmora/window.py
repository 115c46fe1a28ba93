"""Room for what is in flight: so many items and so many bytes."""

from __future__ import annotations

import asyncio

from modelmora.domain.inference import Content, Image, Text
from modelmora.domain.outcome import Ok, Outcome


class Window:
    """Who enters waits while there is no room; an empty window takes one item, however large.

    One task enters, any leave.
    """

    def __init__(self, *, items: int, size: int) -> None:
        self._most_items = items
        self._most_bytes = size
        self._items = 0
        self._bytes = 0
        self._freed = asyncio.Event()

    async def enter(self, size: int) -> None:
        """Takes room for one item of `size` bytes."""
        while self._full(size):
            self._freed.clear()
            await self._freed.wait()
        self._items += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """Gives the room of one item back."""
        self._items -= 1
        self._bytes -= size
        self._freed.set()

    def _full(self, size: int) -> bool:
        return self._items > 0 and (self._items >= self._most_items or self._bytes + size > self._most_bytes)


def weight(content: Outcome[Content]) -> int:
    """Bytes that an item takes to hold and to send; 0 for a failure."""
    match content:
        case Ok(Image(data)):
            return len(data)
        case Ok(Text(text)):
            return 4 * len(text)
    return 0
