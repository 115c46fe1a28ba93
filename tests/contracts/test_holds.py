"""The promise of `Holds`, kept by every database: what is held stays, and what is going cannot be held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from adapters.database import Database
from adapters.database import holds as module
from modelmora.errors import Conflict
from tests.contracts.test_leases import SetClock
from tests.registered import ARTIFACT, CONFIG, WEIGHTS, a_change, a_model, a_version

A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def database(database_url: str, clock: SetClock) -> AsyncIterator[Database]:
    database = await Database.open(database_url, clock=clock)
    yield database
    await database.close()


async def test_what_is_held_is_not_condemned_until_it_is_let_go(database: Database) -> None:
    await database.holds.hold("one", [A], ttl_s=60)
    await database.holds.hold("two", [A, B], ttl_s=60)
    assert await database.holds.condemn([A, B, C], ttl_s=60) == [C]
    await database.holds.let_go("two")
    await database.holds.let_go("two")
    assert await database.holds.condemn([A, B], ttl_s=60) == [B]
    await database.holds.let_go("one")
    assert await database.holds.condemn([A], ttl_s=60) == [A]


async def test_what_is_condemned_is_not_held_until_it_is_spared(database: Database) -> None:
    assert await database.holds.condemn([A, B], ttl_s=60) == [A, B]
    assert set(await database.holds.condemned([A, B, C])) == {A, B}
    with pytest.raises(Conflict, match="are being removed"):
        await database.holds.hold("one", [B, C], ttl_s=60)
    assert await database.holds.condemn([C], ttl_s=60) == [C]  # nothing of a hold that was refused is left
    await database.holds.spare([A, B])
    await database.holds.hold("one", [A, B], ttl_s=60)
    assert await database.holds.condemned([A, B]) == set()


async def test_both_end_by_themselves(database: Database, clock: SetClock) -> None:
    await database.holds.hold("one", [A], ttl_s=60)
    assert await database.holds.condemn([B], ttl_s=30) == [B]
    clock.advance(30)
    await database.holds.hold("two", [B], ttl_s=10)
    clock.advance(30)
    assert await database.holds.condemn([A, B], ttl_s=60) == [A, B]


async def test_of_two_who_condemn_each_spares_his_own(database: Database) -> None:
    for who in ("one", "two"):
        assert await database.holds.condemn([A], ttl_s=60, by=who) == [A]
    await database.holds.spare([A], by="one")
    with pytest.raises(Conflict):
        await database.holds.hold("x", [A], ttl_s=60)
    await database.holds.spare([A], by="two")
    await database.holds.hold("x", [A], ttl_s=60)


async def test_what_a_version_refers_to_is_not_condemned_until_it_is_removed_or_purged(database: Database) -> None:
    await database.models.add(a_model(), change=a_change())
    one, other = a_version(), a_version("2.0.0")
    digests = [ARTIFACT.sha256, CONFIG.sha256, WEIGHTS.sha256]
    for version in (one, other):
        await database.versions.add(version, change=a_change())
    assert await database.holds.condemn(digests, ttl_s=60) == []
    await database.versions.remove(one, change=a_change())
    assert await database.holds.condemn(digests, ttl_s=60) == []
    await database.versions.change(replace(other, state="purged", row=2), change=a_change())
    assert set(await database.holds.condemn([*digests, C], ttl_s=60)) == {*digests, C}


async def test_artifacts_whose_files_only_the_store_knows_are_told(database: Database) -> None:
    await database.models.add(a_model(), change=a_change())
    declared = a_version("2.0.0", artifact=None, source=f"object:{A}", declared=True)
    elsewhere = a_version("3.0.0", artifact=None, source="hub:org/birds", declared=True)
    for version in (a_version(), declared, elsewhere):
        await database.versions.add(version, change=a_change())
    assert await database.holds.unlisted() == [A]
    assert await database.holds.condemn([A], ttl_s=60) == []
    await database.versions.change(replace(declared, source="hub:org/b", row=2), change=a_change())
    assert await database.holds.unlisted() == []
    assert await database.holds.condemn([A], ttl_s=60) == [A]


async def test_as_many_as_a_version_may_have_files(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRIDE", 7)
    many = [f"{number:064x}" for number in range(100)]
    await database.holds.hold("one", many[:50], ttl_s=60)
    assert await database.holds.condemn(many, ttl_s=60) == many[50:]
    assert await database.holds.condemned(many) == set(many[50:])


async def test_of_who_registers_and_who_collects_at_once_exactly_one_gets_it(database_url: str) -> None:
    """Whatever comes first, nothing is both held and condemned."""
    databases = [await Database.open(database_url) for _ in range(2)]
    try:
        for number in range(20):
            digest = f"{number:064x}"

            async def held(digest: str = digest) -> bool:
                try:
                    await databases[0].holds.hold(f"h-{digest}", [digest], ttl_s=60)
                except Conflict:
                    return False
                return True

            async def condemned(digest: str = digest) -> bool:
                return await databases[1].holds.condemn([digest], ttl_s=60) == [digest]

            outcomes = await asyncio.gather(*((held(), condemned()) if number % 2 else (condemned(), held())))
            assert sorted(outcomes) == [False, True]
    finally:
        for one in databases:
            await one.close()
