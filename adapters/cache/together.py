"""What several ask for at the same time is asked in one question: each costs a store's client as much as many."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

V = TypeVar("V")
A = TypeVar("A")


@dataclass(slots=True)
class _Question(Generic[V, A]):
    answer: asyncio.Future[A]
    entries: dict[str, V] = field(default_factory=dict)


class Together(Generic[V, A]):
    """One question is under way at a time; what is asked meanwhile goes with the next, `at_most` entries in each."""

    def __init__(self, work: Callable[[Mapping[str, V]], Awaitable[A]], *, otherwise: A, at_most: int) -> None:
        """`work` must not raise; `otherwise` is the answer to what is asked when this is closed."""
        self._work = work
        self._otherwise = otherwise
        self._at_most = at_most
        self._questions: deque[_Question[V, A]] = deque()
        self._under_way: _Question[V, A] | None = None
        self._asking: asyncio.Task[None] | None = None

    async def ask(self, entries: Mapping[str, V]) -> A:
        """The answer to a question that these entries are part of; whoever leaves does not take it from the others."""
        if not self._questions or len(self._questions[-1].entries) + len(entries) > self._at_most:
            self._questions.append(_Question(asyncio.get_running_loop().create_future()))
        question = self._questions[-1]
        question.entries.update(entries)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(question.answer)

    async def close(self) -> None:
        """Idempotent."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        self._give_up()  # it may have been cancelled before it began

    async def _ask(self) -> None:
        try:
            while self._questions:
                self._under_way = self._questions.popleft()
                self._under_way.answer.set_result(await self._work(self._under_way.entries))
        finally:
            self._give_up()

    def _give_up(self) -> None:
        """What has no answer gets the other one."""
        for question in (self._under_way, *self._questions):
            if question is not None and not question.answer.done():
                question.answer.set_result(self._otherwise)
        self._questions.clear()
        self._under_way = self._asking = None
