"""Requests that come twice: answered twice and done once, on every database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from adapters.database import Database
from modelmora.errors import Conflict, DependencyUnavailable, ValidationFailed
from modelmora.ports import Answer
from modelmora.usecases.registry import Idempotency, once
from tests.contracts.test_leases import SetClock

ROUTE, DIGEST = "POST /api/v1/models", "ab" * 32
MADE = Answer(status=201, body=json.dumps({"name": "birds", "ü": None}), headers={"location": "/api/v1/models/birds"})
DAY_S = 24 * 3600


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def database(database_url: str, clock: SetClock) -> AsyncIterator[Database]:
    database = await Database.open(database_url, clock=clock)
    yield database
    await database.close()


@pytest.fixture
def requests(database: Database) -> Idempotency:
    return Idempotency(database.idempotency)


async def answered(
    requests: Idempotency, key: str = "k-1", *, route: str = ROUTE, digest: str = DIGEST
) -> Answer | None:
    """What was answered before, if anything; otherwise it is answered now."""
    async with requests.claim(key, route=route, digest=digest) as claim:
        if claim.answered is None:
            claim.keep(MADE)
        return claim.answered


async def test_the_second_time_it_is_answered_as_the_first(requests: Idempotency) -> None:
    assert await answered(requests) is None
    assert await answered(requests) == MADE
    assert await answered(requests, "k-2") is None


@pytest.mark.parametrize(("route", "digest"), [("POST /api/v1/models/x/versions", DIGEST), (ROUTE, "cd" * 32)])
async def test_a_key_with_another_request_is_refused(requests: Idempotency, route: str, digest: str) -> None:
    await answered(requests)
    with pytest.raises(ValidationFailed) as refused:
        await answered(requests, route=route, digest=digest)
    assert refused.value.field == "idempotency-key"


@pytest.mark.parametrize("key", ["", "x" * 256, "a\0b", "a\nb", "é", "\ud83d"])
async def test_what_is_no_key_is_refused(requests: Idempotency, key: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await answered(requests, key)
    assert refused.value.field == "idempotency-key"


async def test_whoever_comes_while_it_is_answered_is_told_so(requests: Idempotency) -> None:
    async with requests.claim("k-1", route=ROUTE, digest=DIGEST) as claim:
        with pytest.raises(Conflict, match="still being answered") as refused:
            await answered(requests)
        assert refused.value.retry_after_s
        with pytest.raises(ValidationFailed):
            await answered(requests, digest="cd" * 32)
        claim.keep(MADE)
    assert await answered(requests) == MADE


async def test_of_many_at_once_one_does_it(requests: Idempotency) -> None:
    outcomes = await asyncio.gather(*(answered(requests) for _ in range(8)), return_exceptions=True)
    assert outcomes.count(None) == 1
    assert all(one == MADE or isinstance(one, Conflict) for one in outcomes if one is not None)


async def test_a_request_that_failed_may_come_again(requests: Idempotency) -> None:
    with pytest.raises(ConnectionError):
        async with requests.claim("k-1", route=ROUTE, digest=DIGEST):
            raise ConnectionError
    assert await answered(requests) is None


async def test_whoever_left_leaves_the_key_free(requests: Idempotency) -> None:
    begun = asyncio.Event()

    async def never_done() -> None:
        async with requests.claim("k-1", route=ROUTE, digest=DIGEST):
            begun.set()
            await asyncio.Event().wait()

    leaving = asyncio.create_task(never_done())
    await begun.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await answered(requests) is None


async def test_the_key_of_a_process_that_was_killed_is_free_after_a_while(
    database: Database, requests: Idempotency, clock: SetClock
) -> None:
    assert await database.idempotency.begin("k-1", holder="killed", route=ROUTE, digest=DIGEST, ttl_s=30) is None
    clock.advance(29)
    with pytest.raises(Conflict):
        await answered(requests)
    clock.advance(1)
    assert await answered(requests) is None
    await database.idempotency.keep("k-1", holder="killed", answer=Answer(status=500, body=""))  # it was not, after all
    assert await answered(requests) == MADE


async def test_whoever_is_long_at_it_keeps_the_key(
    requests: Idempotency, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "RENEW_S", 0.0)
    renewed = asyncio.Event()
    real = requests._keys.renew

    async def renew(key: str, *, holder: str, ttl_s: float) -> None:
        await real(key, holder=holder, ttl_s=ttl_s)
        renewed.set()

    monkeypatch.setattr(requests._keys, "renew", renew)
    async with requests.claim("k-1", route=ROUTE, digest=DIGEST):
        clock.advance(29)
        renewed.clear()
        await asyncio.wait_for(renewed.wait(), 20)
        renewed.clear()
        await asyncio.wait_for(renewed.wait(), 20)  # one that began after the clock was moved
        clock.advance(29)
        with pytest.raises(Conflict):
            await answered(requests)


async def test_after_a_day_a_key_is_forgotten(requests: Idempotency, clock: SetClock) -> None:
    await answered(requests)
    clock.advance(DAY_S - 1)
    assert await answered(requests) == MADE
    clock.advance(1)
    assert await answered(requests, digest="cd" * 32) is None


async def test_what_was_done_counts_though_it_cannot_be_kept(
    requests: Idempotency, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(key: str, *, holder: str, answer: Answer) -> None:
        raise DependencyUnavailable("the database does not answer")

    monkeypatch.setattr(database.idempotency, "keep", away)
    assert await answered(requests) is None
