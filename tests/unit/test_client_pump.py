"""A plain iterator that may block, read by a thread: each item at once, so many ahead, and no more than is wanted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from contextvars import ContextVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.client.pump import pumped
from tests.fakes import until

NAMED: ContextVar[str] = ContextVar("NAMED", default="nobody")


class Counting:
    """An iterator that says how many were taken of it."""

    def __init__(self, items: list[bytes]) -> None:
        self.taken, self._items = 0, iter(items)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        item = next(self._items)
        self.taken += 1
        return item


@given(count=st.integers(0, 60), ahead=st.integers(0, 20), room=st.integers(0, 8))
def test_every_item_comes_once_and_in_order(count: int, ahead: int, room: int) -> None:
    items = [b"x" * (n % 4) for n in range(count)]

    async def collected() -> list[bytes]:
        return [item async for item in pumped(iter(items), ahead=ahead, ahead_bytes=room)]

    assert asyncio.run(collected()) == items


@pytest.mark.parametrize(
    ("ahead", "ahead_bytes", "least", "most"),
    [(0, 0, 1, 1), (5, 1_000, 5, 6), (100, 25, 4, 4)],  # room for one alone does not wake the thread
    ids=["when it is waited for", "so many ahead", "so many bytes ahead"],
)
async def test_no_more_is_taken_than_may_be(ahead: int, ahead_bytes: int, least: int, most: int) -> None:
    source = Counting([b"ten bytes." for _ in range(50)])
    async with aclosing(pumped(source, ahead=ahead, ahead_bytes=ahead_bytes)) as items:
        await anext(items)
        await until(lambda: source.taken >= least)
        await asyncio.sleep(0.05)
        assert least <= source.taken <= most


async def test_an_item_does_not_wait_for_the_next_one_nor_the_loop_for_the_iterator() -> None:
    go_on = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        yield 2
        go_on.wait(30)
        yield 3

    async with asyncio.timeout(20), aclosing(pumped(source(), ahead=16, ahead_bytes=1)) as items:
        assert [await anext(items), await anext(items)] == [1, 2]
        third = asyncio.ensure_future(anext(items))
        await asyncio.sleep(0.01)
        assert not third.done()
        go_on.set()
        assert await third == 3


async def test_what_the_iterator_raises_comes_in_its_place() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise LookupError("two")

    items = pumped(source(), ahead=4, ahead_bytes=1)
    assert await anext(items) == 1
    with pytest.raises(LookupError, match="two"):
        await anext(items)


async def test_leaving_early_ends_the_thread() -> None:
    def threads() -> int:
        return sum(thread.name == "modelmora-source" for thread in threading.enumerate())

    for ahead in (0, 4):
        async with aclosing(pumped(iter(range(1_000)), ahead=ahead, ahead_bytes=1)) as items:
            assert await anext(items) == 0
            assert threads() == 1
        await until(lambda: threads() == 0)


async def test_the_iterator_sees_the_context_of_who_reads() -> None:
    NAMED.set("me")
    assert [item async for item in pumped(NAMED.get() for _ in range(2))] == ["me", "me"]
