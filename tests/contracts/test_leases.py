"""The promise of `Leases`, kept by every database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from adapters.database import Database

TTL_S = 10.0


class SetClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def database(database_url: str, clock: SetClock) -> AsyncIterator[Database]:
    database = await Database.open(database_url, clock=clock)
    yield database
    await database.close()


async def test_only_one_holds_a_lease(database: Database) -> None:
    assert await database.leases.acquire("sweep", "a", ttl_s=TTL_S) == 1
    assert await database.leases.acquire("sweep", "b", ttl_s=TTL_S) is None


async def test_leases_of_different_names_do_not_meet(database: Database) -> None:
    assert await database.leases.acquire("sweep", "a", ttl_s=TTL_S) == 1
    assert await database.leases.acquire("outbox", "b", ttl_s=TTL_S) == 1


async def test_its_holder_renews_it_under_the_same_fence(database: Database, clock: SetClock) -> None:
    first = await database.leases.acquire("sweep", "a", ttl_s=TTL_S)
    clock.advance(9)
    assert await database.leases.acquire("sweep", "a", ttl_s=TTL_S) == first
    clock.advance(9)
    assert await database.leases.acquire("sweep", "b", ttl_s=TTL_S) is None


async def test_it_is_free_once_it_has_expired_and_the_fence_grows(database: Database, clock: SetClock) -> None:
    first = await database.leases.acquire("sweep", "a", ttl_s=TTL_S)
    clock.advance(9.999)
    assert await database.leases.acquire("sweep", "b", ttl_s=TTL_S) is None
    clock.advance(0.001)
    second = await database.leases.acquire("sweep", "b", ttl_s=TTL_S)
    assert first is not None
    assert second == first + 1
    assert await database.leases.acquire("sweep", "a", ttl_s=TTL_S) is None


async def test_a_lease_given_back_is_free_at_once_and_never_repeats_a_fence(database: Database) -> None:
    assert await database.leases.acquire("sweep", "a", ttl_s=TTL_S) == 1
    await database.leases.release("sweep", "a")
    assert await database.leases.acquire("sweep", "b", ttl_s=TTL_S) == 2
    await database.leases.release("sweep", "b")
    assert await database.leases.acquire("sweep", "b", ttl_s=TTL_S) == 3


async def test_nobody_gives_back_what_another_holds(database: Database) -> None:
    await database.leases.acquire("sweep", "a", ttl_s=TTL_S)
    await database.leases.release("sweep", "b")
    await database.leases.release("unheard of", "b")
    assert await database.leases.acquire("sweep", "b", ttl_s=TTL_S) is None


async def test_of_many_who_ask_at_once_exactly_one_gets_it(database_url: str, clock: SetClock) -> None:
    databases = await asyncio.gather(*(Database.open(database_url, clock=clock) for _ in range(4)))
    try:
        for round_ in range(1, 6):
            asked = [each.leases.acquire("sweep", f"{round_}-{n}", ttl_s=TTL_S) for n, each in enumerate(databases * 4)]
            fences = await asyncio.gather(*asked)
            assert [fence for fence in fences if fence is not None] == [round_]
            clock.advance(TTL_S)
    finally:
        await asyncio.gather(*(each.close() for each in databases))


async def test_without_a_clock_of_ours_the_database_tells_the_time(database_url: str) -> None:
    database = await Database.open(database_url)
    try:
        assert await database.leases.acquire("sweep", "a", ttl_s=60) == 1
        assert await database.leases.acquire("sweep", "b", ttl_s=60) is None
        assert await database.leases.acquire("sweep", "a", ttl_s=-1) == 1
        assert await database.leases.acquire("sweep", "b", ttl_s=60) == 2
    finally:
        await database.close()
