"""The promise of `DesiredModels`, kept by every database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters.database import Database
from modelmora.ports import Desire


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    yield database
    await database.close()


async def test_nothing_is_desired_at_first(database: Database) -> None:
    assert list(await database.desired.all()) == []


async def test_a_wish_is_kept(database: Database) -> None:
    wish = await database.desired.set("clip", "1.0.0", "loaded")
    assert wish == Desire(name="clip", version="1.0.0", wanted="loaded", generation=1)
    assert list(await database.desired.all()) == [wish]


async def test_each_change_and_each_repetition_raises_the_generation(database: Database) -> None:
    generations = [
        (await database.desired.set("clip", "1.0.0", wanted)).generation
        for wanted in ("loaded", "loaded", "unloaded", "loaded")
    ]
    assert generations == [1, 2, 3, 4]
    assert [(wish.wanted, wish.generation) for wish in await database.desired.all()] == [("loaded", 4)]


async def test_versions_of_a_model_are_desired_each_for_itself(database: Database) -> None:
    await database.desired.set("clip", "2.0.0", "loaded")
    await database.desired.set("clip", "1.0.0", "unloaded")
    await database.desired.set("arc", "1.0.0", "loaded")
    wishes = [(wish.name, wish.version, wish.wanted) for wish in await database.desired.all()]
    assert wishes == [("arc", "1.0.0", "loaded"), ("clip", "1.0.0", "unloaded"), ("clip", "2.0.0", "loaded")]


async def test_another_process_sees_the_wish(database: Database, database_url: str) -> None:
    other = await Database.open(database_url)
    try:
        wish = await database.desired.set("clip", "1.0.0", "loaded")
        assert list(await other.desired.all()) == [wish]
    finally:
        await other.close()


async def test_wishes_at_the_same_moment_are_all_counted(database: Database) -> None:
    wishes = await asyncio.gather(*(database.desired.set("clip", "1.0.0", "loaded") for _ in range(20)))
    assert sorted(wish.generation for wish in wishes) == list(range(1, 21))


async def test_it_outlives_the_process(database_url: str) -> None:
    first = await Database.open(database_url)
    wish = await first.desired.set("clip", "1.0.0", "loaded")
    await first.close()
    second = await Database.open(database_url)
    try:
        assert list(await second.desired.all()) == [wish]
    finally:
        await second.close()
