"""A change that many may wait for."""

from __future__ import annotations

import asyncio
import contextlib


class Signal:
    """Wakes everybody who waits for the next change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """The next change from now on: for those who look first and wait then, and must miss none between."""
        return self._event

    async def wait(self, seconds: float | None, change: asyncio.Event | None = None) -> None:
        """Until the next change, or `change` that `next` gave before, `seconds` at most (None: for ever)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await (change or self._event).wait()
