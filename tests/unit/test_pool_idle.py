"""Models that nobody uses for their time are unloaded, and no others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from runners.devices import Share
from runners.pool import Pool
from tests.fakes import until
from tests.families import GIB, Family, Gate
from tests.folders import Folders
from tests.pools import B, PoolFixture, spec


@pytest.fixture
async def its() -> AsyncIterator[PoolFixture]:
    fixture = PoolFixture()
    yield fixture
    await fixture.close()


async def test_a_model_nobody_used_for_its_time_is_unloaded(its: PoolFixture) -> None:
    await its.load(spec("a", idle_ttl_s=60.0), B)
    its.clock.now += 59.0
    await its.load(spec("c", idle_ttl_s=600.0))  # which makes it look
    assert its.loaded() == {"a", "b", "c"}

    its.clock.now += 1.0
    await its.load(spec("d", idle_ttl_s=600.0))

    await until(lambda: its.states()["a"] == "unloaded")
    assert (its.loaded(), its.pool.held_bytes()) == ({"b", "c", "d"}, 3 * GIB)


class Noting(Gate):
    """When it was passed."""

    at = 0.0

    def pass_through(self) -> None:
        self.at = time.monotonic()


async def test_it_is_looked_again_at_the_moment_one_is_due_and_not_before() -> None:
    ttl_s, closing, began = 0.05, Noting(), time.monotonic()
    family = Family(closing=closing)
    pool = Pool(lambda _: family, Folders().using, share=Share(threads=1, budget_bytes=0))
    await pool.load(spec("a", idle_ttl_s=ttl_s))

    await until(lambda: family.closed == ["a"])
    assert closing.at - began >= ttl_s
    await pool.close()


async def test_a_model_that_is_used_again_at_the_last_moment_stays() -> None:
    family, one = Family(), spec("a", idle_ttl_s=0.05)
    pool = Pool(lambda _: family, Folders().using, share=Share(threads=1, budget_bytes=0))
    await pool.load(one)
    family.loading.close()
    other = asyncio.create_task(pool.load(spec("b")))
    await until(family.loading.reached.is_set)
    await until(lambda: bool(pool._room.changing._waiters))  # a is due, and goes as soon as b is loaded

    async with pool.lease(one) as loaded:
        family.loading.open()
        await other
        await until(lambda: not pool._room.changing.locked())
        assert (pool.peek(one), family.closed) == (loaded, [])

    await until(lambda: family.closed == ["a"])
    await pool.close()


async def test_use_begins_the_time_anew(its: PoolFixture) -> None:
    one = spec("a", idle_ttl_s=60.0)
    await its.load(one)
    its.clock.now += 50.0
    await its.load(one)
    its.clock.now += 50.0
    await its.load(spec("b", idle_ttl_s=600.0))
    await asyncio.sleep(0)

    assert its.loaded() == {"a", "b"}


async def test_a_model_in_use_never_idles_out_nor_does_a_pinned_one(its: PoolFixture) -> None:
    one, pinned = spec("a", idle_ttl_s=60.0), replace(B, pin=True, idle_ttl_s=60.0)
    await its.load(pinned)
    async with its.pool.lease(one):
        its.clock.now += 1_000.0
        await its.load(spec("c", idle_ttl_s=600.0))
        await asyncio.sleep(0)
        assert its.loaded() == {"a", "b", "c"}

    its.clock.now += 60.0
    await its.load(spec("d", idle_ttl_s=600.0))
    await until(lambda: its.loaded() == {"b", "c", "d"})


async def test_a_model_that_is_asked_for_while_it_idles_out_is_loaded_again(its: PoolFixture) -> None:
    one = spec("a", idle_ttl_s=60.0)
    await its.load(one)
    its.clock.now += 60.0
    its.family.closing.close()
    await its.load(spec("b", idle_ttl_s=600.0))
    await until(lambda: its.states()["a"] == "unloading")

    asked = asyncio.create_task(its.pool.load(one))
    its.family.closing.open()

    assert (await asked).state == "loaded"
    assert its.family.loads == ["a", "b", "a"]
