"""When the client tries again, and what it makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from modelmora.client.retry import Retrier, Retry
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import (
    RETRYABLE,
    DeadlineExceeded,
    InvalidInput,
    ModelMoraError,
    Overloaded,
    RateLimited,
    from_code,
    leaves,
)

HOUR = 3600.0


@pytest.mark.parametrize(
    ("attempt", "rand", "pause"),
    [(0, 1.0, 0.1), (0, 0.5, 0.05), (1, 1.0, 0.2), (3, 1.0, 0.8), (9, 1.0, 5.0), (10_000, 1.0, 5.0), (3, 0.0, 0.0)],
)
def test_the_pause_doubles_up_to_a_ceiling_and_is_drawn_from_all_of_it(attempt: int, rand: float, pause: float) -> None:
    assert Retry().decide(attempt, Overloaded("x"), remaining_s=HOUR, rand=rand) == pytest.approx(pause)


@pytest.mark.parametrize("rand", [0.0, 0.5, 1.0])
def test_the_servers_wish_is_the_least_that_is_waited(rand: float) -> None:
    pause = Retry().decide(0, RateLimited("x", retry_after_s=7), remaining_s=HOUR, rand=rand)
    assert pause == pytest.approx(7 + rand * 0.1)


@pytest.mark.parametrize(("remaining_s", "pause"), [(0.11, 0.1), (0.1, None), (0.0, None), (-1.0, None)])
def test_no_pause_reaches_the_deadline(remaining_s: float, pause: float | None) -> None:
    assert Retry().decide(0, Overloaded("x"), remaining_s=remaining_s, rand=1.0) == pause


def test_a_wish_beyond_the_deadline_ends_it() -> None:
    assert Retry().decide(0, Overloaded("x", retry_after_s=60), remaining_s=59, rand=0.0) is None


@pytest.mark.parametrize("code", [error.code for error in leaves()])
def test_the_code_alone_says_whether_trying_again_may_help(code: str) -> None:
    tries = Retry().decide(0, from_code(code, "x"), remaining_s=HOUR, rand=0.5) is not None
    assert tries is (code in RETRYABLE)


@pytest.mark.parametrize(("retries", "tried"), [(0, 0), (1, 1), (3, 3)])
def test_the_number_of_retries_can_be_bounded(retries: int, tried: int) -> None:
    retry = Retry(retries=retries)
    waits = [retry.decide(attempt, Overloaded("x"), remaining_s=HOUR, rand=1.0) for attempt in range(5)]
    assert sum(wait is not None for wait in waits) == tried


class Loop:
    """A clock that only sleeping moves, and a server that fails as told."""

    def __init__(self, *rounds: dict[str, ModelMoraError]) -> None:
        self.now = 100.0
        self.sent: list[list[str]] = []
        self._rounds = [*rounds]
        self.retrier = Retrier(sleep=self._sleep, clock=lambda: self.now, dice=lambda: 1.0)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds

    async def work(self, items: Sequence[str]) -> list[Outcome[str]]:
        self.sent.append([*items])
        failing = self._rounds.pop(0) if self._rounds else {}
        return [Failed(failing[item]) if item in failing else Ok(item.upper()) for item in items]


async def test_only_the_items_that_may_pass_are_sent_again() -> None:
    loop = Loop({"b": Overloaded("x"), "c": InvalidInput("x"), "d": Overloaded("x")}, {"d": Overloaded("x")})
    outcomes = await loop.retrier.settle(["a", "b", "c", "d"], loop.work, deadline=200.0)
    assert loop.sent == [["a", "b", "c", "d"], ["b", "d"], ["d"]]
    assert [outcome.value if isinstance(outcome, Ok) else outcome.error.code for outcome in outcomes] == [
        "A",
        "B",
        "invalid_input",
        "D",
    ]
    assert loop.now == pytest.approx(100.3)


async def test_the_most_patient_item_sets_the_pause() -> None:
    loop = Loop({"a": Overloaded("x", retry_after_s=1), "b": Overloaded("x", retry_after_s=9), "c": Overloaded("x")})
    await loop.retrier.settle(["a", "b", "c"], loop.work, deadline=200.0)
    assert loop.now == pytest.approx(109.1)


async def test_when_time_is_up_the_last_reason_is_told() -> None:
    busy: dict[str, ModelMoraError] = {"a": Overloaded("busy")}
    loop = Loop(*[busy] * 1000)
    (outcome,) = await loop.retrier.settle(["a"], loop.work, deadline=130.0)
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "overloaded"
    assert 120.0 < loop.now < 130.0


async def test_an_answer_that_does_not_come_is_a_passed_deadline_with_the_earlier_reason_as_cause() -> None:
    tries = 0

    async def work(items: Sequence[str]) -> list[Outcome[str]]:
        nonlocal tries
        tries += 1
        if tries == 2:
            await asyncio.Event().wait()
        return [Failed(Overloaded("busy"))]

    loop = asyncio.get_running_loop()
    (outcome,) = await Retrier(dice=lambda: 0.0, clock=loop.time).settle(["a"], work, deadline=loop.time() + 0.02)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, DeadlineExceeded)
    assert isinstance(outcome.error.__cause__, Overloaded)
