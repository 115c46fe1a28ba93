"""Any number of items over streams: what failed for a passing reason, or was never answered, goes out again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from modelmora.client import flow
from modelmora.client.embedding import Embedding
from modelmora.client.pictures import read
from modelmora.client.retry import Retrier
from modelmora.client.transport import Group, Streams
from modelmora.domain.inference import Call, Content
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InternalError, LimitExceeded, ModelMoraError
from modelmora.window import Window, weight

if TYPE_CHECKING:
    from modelmora.client.pictures import Source

GROUP_ITEMS = 16
GROUP_BYTES = 4 * 2**20
"""Items that are ready go out together, so many at most."""

WINDOW_BYTES = 64 * 2**20
ITEM_BYTES = 60 * 2**20
"""What fits into one message."""


class Batch:
    """One call: `window` items at most are held and not yet handed out, and as many again, 16 at most, taken ahead.

    What fails for a passing reason is tried again while `retrier` finds it worthwhile within the call's deadline: an
    item for `patience_s`, a stream that breaks for `patience_s` without a single answer. A stream that took as many
    items as the server allows is followed by another one.
    """

    def __init__(
        self,
        transport: Streams,
        *,
        model: str | None,
        call: Call,
        window: int,
        retrier: Retrier,
        patience_s: float,
    ) -> None:
        self._transport = transport
        self._model = model
        self._call = call
        self._retrier = retrier
        self._patience_s = patience_s
        self._window = Window(items=window, size=WINDOW_BYTES)
        self._ahead = min(GROUP_ITEMS, window)
        self._unanswered: dict[int, Content] = {}
        self._unsent: deque[int] = deque()
        self._answered = 0
        self._later: dict[int, asyncio.Task[None]] = {}
        self._tries: dict[int, tuple[int, float]] = {}
        self._all_taken = False
        self._more = asyncio.Event()
        self._settled: deque[tuple[int, Outcome[Embedding], int]] = deque()
        self._news = asyncio.Event()
        self._trouble: Exception | None = None

    async def answers(
        self, items: Iterable[Source] | AsyncIterable[Source]
    ) -> AsyncGenerator[tuple[int, Outcome[Embedding]], None]:
        """`(index, outcome)` as they complete. Raises what ended the call; leaving early ends it too."""
        tasks = [asyncio.create_task(self._guarded(work)) for work in (self._take(items), self._send())]
        try:
            while True:
                while self._settled:
                    index, outcome, size = self._settled.popleft()
                    self._window.leave(size)
                    yield index, outcome
                if self._trouble is not None:
                    raise self._trouble
                if all(task.done() for task in tasks):
                    return
                self._news.clear()
                await self._news.wait()
        finally:
            tasks += self._later.values()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as trouble:
            self._trouble = self._trouble or trouble
        finally:
            asyncio.get_running_loop().call_soon(self._news.set)  # once this task counts as done

    async def _take(self, items: Iterable[Source] | AsyncIterable[Source]) -> None:
        index = 0
        async with aclosing(flow.pulled(items, ahead=self._ahead, ahead_bytes=GROUP_BYTES)) as sources:
            async for source in sources:
                content = _fitting(await read(source))
                await self._window.enter(weight(content))
                if isinstance(content, Ok):
                    self._unanswered[index] = content.value
                    self._unsent.append(index)
                else:
                    self._settle(index, content, 0)
                self._more.set()
                index += 1
        self._all_taken = True
        self._more.set()

    async def _send(self) -> None:
        attempt = answered = 0
        since = 0.0
        while await self._has_more():
            since = since if attempt else self._retrier.clock()
            try:
                await self._send_once()
            except ModelMoraError as error:
                grew = self._answered > answered
                if grew:
                    attempt, answered, since = 0, self._answered, self._retrier.clock()
                if not (grew and isinstance(error, LimitExceeded)):  # full: the rest goes on a new stream
                    deadline = min(self._call.deadline, since + self._patience_s)
                    await self._retrier.pause(attempt, error, deadline=deadline)
                    attempt += 1
                self._unsent = deque(index for index in self._unanswered if index not in self._later)

    async def _send_once(self) -> None:
        async with aclosing(self._transport.batch(self._groups(), model=self._model, call=self._call)) as answers:
            async for index, outcome in answers:
                if index in self._unanswered and index not in self._later:
                    self._answer(index, outcome)
        if left := self._unanswered.keys() - self._later.keys() - set(self._unsent):
            raise InternalError(f"the server ended the stream and left out {len(left)} items")

    def _answer(self, index: int, outcome: Outcome[Embedding]) -> None:
        """Hands the outcome out, unless the item is tried again."""
        pause = self._pause(index, outcome.error) if isinstance(outcome, Failed) else None
        if pause is not None:
            self._later[index] = asyncio.create_task(self._again(index, pause))
            return
        self._answered += 1
        self._tries.pop(index, None)
        self._settle(index, outcome, weight(Ok(self._unanswered.pop(index))))

    def _pause(self, index: int, error: ModelMoraError) -> float | None:
        """Seconds until the item's next try; None: there is none."""
        now = self._retrier.clock()
        attempt, since = self._tries.get(index, (0, now))
        self._tries[index] = attempt + 1, since
        remaining_s = min(self._call.deadline, since + self._patience_s) - now
        return self._retrier.retry.decide(attempt, error, remaining_s=remaining_s, rand=self._retrier.dice())

    async def _again(self, index: int, pause: float) -> None:
        await self._retrier.sleep(pause)
        del self._later[index]
        self._unsent.append(index)
        self._more.set()

    async def _has_more(self) -> bool:
        """Waits until there is something to send; False when there will never be."""
        while not self._unsent:
            if self._all_taken and not self._later:
                return False
            self._more.clear()
            await self._more.wait()
        return True

    async def _groups(self) -> AsyncGenerator[Group, None]:
        """What is ready, without waiting for more; ends with the source."""
        while await self._has_more():
            group = [self._next()]
            held = weight(Ok(group[0][1]))
            while self._unsent and len(group) < GROUP_ITEMS:
                held += weight(Ok(self._unanswered[self._unsent[0]]))
                if held > GROUP_BYTES:
                    break
                group.append(self._next())
            yield group

    def _next(self) -> tuple[int, Content]:
        index = self._unsent.popleft()
        return index, self._unanswered[index]

    def _settle(self, index: int, outcome: Outcome[Embedding], size: int) -> None:
        self._settled.append((index, outcome, size))
        self._news.set()


def _fitting(content: Outcome[Content]) -> Outcome[Content]:
    size = weight(content)
    if size <= ITEM_BYTES:
        return content
    return Failed(
        LimitExceeded(
            "the item does not fit into one message",
            field="items",
            found=f"{size} bytes",
            expected=f"at most {ITEM_BYTES} bytes",
        )
    )
