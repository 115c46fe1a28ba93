"""When to try again: the decision is a value, the loop that carries it out is beside it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from modelmora.domain.outcome import Failed, Ok, Outcome, unwrap
from modelmora.errors import RETRYABLE, DeadlineExceeded, ModelMoraError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Exponential backoff with full jitter, by error code, within the deadline.

    Before retry `n` (from 0) the pause is drawn from `0 .. min(initial_s * factor**n, max_s)`, added
    to the server's Retry-After. `retries` None: only the deadline ends it; 0: never again.
    """

    initial_s: float = 0.1
    factor: float = 2.0
    max_s: float = 5.0
    retries: int | None = None

    def decide(self, attempt: int, error: ModelMoraError, *, remaining_s: float, rand: float) -> float | None:
        """Seconds to wait before the next try, or None: give up. `attempt` counts from 0, `rand` is in 0..1."""
        if error.code not in RETRYABLE or (self.retries is not None and attempt >= self.retries):
            return None
        ceiling = min(self.initial_s * self.factor ** min(attempt, 64), self.max_s)  # 64: before floats overflow
        pause = (error.retry_after_s or 0.0) + rand * ceiling
        return pause if pause < remaining_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrier:
    """Carries `Retry` out; the clock, the dice and the sleep are parameters."""

    retry: Retry = Retry()
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    dice: Callable[[], float] = random.random

    async def pause(self, attempt: int, error: ModelMoraError, *, deadline: float) -> None:
        """Waits before the try after `attempt`, or raises `error` where there should be none."""
        seconds = self.retry.decide(attempt, error, remaining_s=deadline - self.clock(), rand=self.dice())
        if seconds is None:
            raise error
        await self.sleep(seconds)

    async def value(self, work: Callable[[], Awaitable[R]], *, deadline: float) -> R:
        """What `work` answers, tried again while it raises what may pass; raises its last error."""

        async def once(_: Sequence[None]) -> list[Outcome[R]]:
            try:
                return [Ok(await work())]
            except ModelMoraError as error:
                return [Failed(error)]

        return unwrap((await self.settle([None], once, deadline=deadline))[0])

    async def settle(
        self, items: Sequence[T], work: Callable[[Sequence[T]], Awaitable[list[Outcome[R]]]], *, deadline: float
    ) -> list[Outcome[R]]:
        """One outcome per item, same order; only items that failed for a passing reason are sent again.

        `work` answers one outcome per item it is given. `deadline` is on `clock`.
        """
        outcomes = await self._attempt(items, work, deadline)
        attempt = 0
        while pending := [i for i, outcome in enumerate(outcomes) if _may_pass(outcome)]:
            pause = self.retry.decide(
                attempt,
                most_patient(_errors(outcomes)),
                remaining_s=deadline - self.clock(),
                rand=self.dice(),
            )
            if pause is None:
                break
            await self.sleep(pause)
            again = await self._attempt([items[i] for i in pending], work, deadline)
            for i, outcome in zip(pending, again, strict=True):
                outcomes[i] = _explained(outcome, outcomes[i])
            attempt += 1
        return outcomes

    async def _attempt(
        self, items: Sequence[T], work: Callable[[Sequence[T]], Awaitable[list[Outcome[R]]]], deadline: float
    ) -> list[Outcome[R]]:
        try:
            async with asyncio.timeout(max(deadline - self.clock(), 0.0)):
                return await work(items)
        except TimeoutError:
            return [Failed(DeadlineExceeded("no answer within the deadline")) for _ in items]


def _may_pass(outcome: Outcome[R]) -> bool:
    return isinstance(outcome, Failed) and outcome.error.code in RETRYABLE


def _errors(outcomes: Sequence[Outcome[R]]) -> list[ModelMoraError]:
    return [outcome.error for outcome in outcomes if isinstance(outcome, Failed) and _may_pass(outcome)]


def most_patient(errors: Iterable[ModelMoraError]) -> ModelMoraError:
    """The one that asks for the longest pause: what failed is sent again together."""
    return max(errors, key=lambda error: error.retry_after_s or 0.0)


def _explained(outcome: Outcome[R], earlier: Outcome[R]) -> Outcome[R]:
    """A deadline that passed while trying again keeps the reason for trying as its cause."""
    match outcome, earlier:
        case Failed(DeadlineExceeded() as late), Failed(reason):
            late.__cause__ = reason
        case Ok(), _:
            pass
    return outcome
