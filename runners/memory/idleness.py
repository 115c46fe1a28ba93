"""Unloads models that nobody used for their time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from modelmora.domain.memory import idle
from runners.memory.entry import Entry
from runners.signals import Signal


class Idleness:
    """Looks at the entries when one is loaded that may idle out, and at each exact moment when one can be due.

    `unload` is given what is due, and looks again itself: meanwhile it may have been used.
    """

    def __init__(
        self, entries: Mapping[str, Entry], unload: Callable[[Entry], Awaitable[None]], *, clock: Callable[[], float]
    ) -> None:
        self._entries = entries
        self._unload = unload
        self._clock = clock
        self._appeared = Signal()
        self._task: asyncio.Task[None] | None = None

    def due(self, entry: Entry) -> bool:
        """Whether nobody used it for its time."""
        resting = entry.resting()
        return resting is not None and bool(idle([resting], self._clock())[0])

    def appeared(self, entry: Entry) -> None:
        """A model is in memory now."""
        if entry.resting() is not None:
            self._appeared.set()
            self._task = self._task or asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Looks no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            appeared = self._appeared.next()
            due, ask_at = idle(filter(None, (e.resting() for e in self._entries.values())), self._clock())
            for model in due:
                await self._unload(self._entries[model])
            if not due:
                await self._appeared.wait(None if ask_at is None else ask_at - self._clock(), appeared)
