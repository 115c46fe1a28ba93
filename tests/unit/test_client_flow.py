"""Bounded concurrency over a stream: taking, ordering, leaving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.client.flow import spread


async def double(number: int) -> int:
    return number * 2


@given(st.integers(0, 40), st.integers(1, 12), st.booleans(), st.randoms(use_true_random=False))
def test_every_item_is_answered_once_whatever_the_order_of_completion(
    count: int, concurrency: int, ordered: bool, random: Random
) -> None:
    delays = [random.randrange(4) for _ in range(count)]

    async def work(number: int) -> int:
        for _ in range(delays[number]):
            await asyncio.sleep(0)
        return number * 2

    async def collected() -> list[tuple[int, int]]:
        return [each async for each in spread(range(count), work, concurrency=concurrency, ordered=ordered)]

    answers = asyncio.run(collected())
    assert (answers if ordered else sorted(answers)) == [(number, number * 2) for number in range(count)]


@pytest.mark.parametrize("ordered", [True, False])
async def test_as_many_run_at_once_as_allowed_and_no_more(ordered: bool) -> None:
    running: set[int] = set()
    all_seven, go_on = asyncio.Event(), asyncio.Event()
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        running.add(number)
        most = max(most, len(running))
        if len(running) == 7:
            all_seven.set()
        await go_on.wait()
        running.remove(number)

    async def consume() -> None:
        async for _ in spread(range(50), work, concurrency=7, ordered=ordered):
            pass

    consuming = asyncio.create_task(consume())
    await all_seven.wait()
    go_on.set()
    await consuming
    assert most == 7


async def test_a_slow_first_one_bounds_what_is_held_when_order_matters() -> None:
    taken: list[int] = []
    five, release = asyncio.Event(), asyncio.Event()

    async def source() -> AsyncIterator[int]:
        for number in range(100):
            taken.append(number)
            if number == 4:
                five.set()
            yield number

    async def work(number: int) -> int:
        if number == 0:
            await release.wait()
        return number

    async with aclosing(spread(source(), work, concurrency=5)) as answers:
        first = asyncio.ensure_future(anext(answers))
        await five.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert taken == [0, 1, 2, 3, 4]
        release.set()
        assert await first == (0, 0)


async def test_an_error_of_the_work_ends_the_stream_and_cancels_the_rest() -> None:
    cancelled: list[int] = []

    async def work(number: int) -> int:
        if number == 2:
            raise LookupError("two")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    with pytest.raises(LookupError, match="two"):
        [each async for each in spread(range(3), work, concurrency=3, ordered=False)]
    assert sorted(cancelled) == [0, 1]


async def test_leaving_early_ends_the_source_and_the_tasks_before_it_returns() -> None:
    ended = False

    async def source() -> AsyncIterator[int]:
        nonlocal ended
        try:
            for number in range(100):
                yield number
        finally:
            ended = True

    async with aclosing(spread(source(), double, concurrency=4)) as answers:
        assert await anext(answers) == (0, 0)
    assert ended
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_leaving_while_the_source_is_waited_for_cancels_the_wait() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async with aclosing(spread(source(), double, concurrency=4)) as answers:
        assert await anext(answers) == (0, 2)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_nothing_in_nothing_out() -> None:
    assert [each async for each in spread([], double, concurrency=4)] == []
