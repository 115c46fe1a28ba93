"""Whether the caller is still there: who leaves while waiting frees the work that was asked for."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from modelmora.errors import ModelMoraError

ROUND_S = 0.05


class Rounds:
    """Looks every 50 ms, while anybody waits, who still does: only those are watched over by a task.

    Work that is quickly done pays for an entry in a set; a timer of its own would cost ten times that. One event
    loop only.
    """

    def __init__(self) -> None:
        self._waiting: set[Present] = set()
        self._timer: asyncio.TimerHandle | None = None

    def join(self, one: Present) -> None:
        self._waiting.add(one)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(ROUND_S, self._look)

    def leave(self, one: Present) -> None:
        self._waiting.discard(one)

    def _look(self) -> None:
        self._timer = None
        while self._waiting:
            self._waiting.pop().watch()


class Present:
    """A block of work that is cancelled when the caller disconnects; the block then raises ClientDisconnect.

    Nobody else may call `receive` meanwhile: the body has been read, or `after` is set once it has.
    """

    def __init__(self, receive: Receive, rounds: Rounds, *, after: asyncio.Event | None = None) -> None:
        self._receive = receive
        self._rounds = rounds
        self._after = after
        self._gone = False
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("there is no task to cancel")
        self._task, self._cancelling = task, task.cancelling()
        self._rounds.join(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rounds.leave(self)
        if self._watching is not None:
            self._watching.cancel()
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientDisconnect from error

    def watch(self) -> None:
        """From now on the caller's leaving is noticed at once."""
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        if self._after is not None:
            await self._after.wait()
        with contextlib.suppress(ModelMoraError):  # what follows a body is over its limit: nobody reads it
            while (await self._receive())["type"] != "http.disconnect":
                continue
            self._gone = True
            self._task.cancel()
