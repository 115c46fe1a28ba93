"""The promise of `Indexes`, kept by every database: of a model one index is searched, and never none by chance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from adapters.database import Database
from modelmora.domain.pictures.spaces import Index, IndexSettings, Space
from modelmora.errors import Conflict, ModelNotFound
from tests.pictures import START, Time


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def database(database_url: str, time: Time) -> AsyncIterator[Database]:
    opened = await Database.open(database_url, clock=time)
    yield opened
    await opened.close()


def space(version: str, *, model: str = "clip", collection: str = "default") -> Space:
    return Space(model=model, version=version, collection=collection)


def index(version: str, state: Any = "building", **told: Any) -> Index:
    named = {key: told.pop(key) for key in ("model", "collection") if key in told}
    values: dict[str, Any] = {"dimension": 4, "created_at": START, "changed_at": START, **told}
    return Index(space=space(version, **named), state=state, **values)


async def states(database: Database) -> dict[str, str]:
    return {one.space.version: one.state for one in await database.indexes.all()}


async def test_an_index_is_read_as_it_was_added(database: Database) -> None:
    settings = IndexSettings(m=16, ef_construct=200, quantization="int8", on_disk=True, payload=("camera", "lens"))
    one = index("1.0.0", settings=settings, total=9, done=3, failed=1, cursor="c", agreement=0.125, why="ü")
    assert await database.indexes.add(one) == one
    assert await database.indexes.all() == (one,)
    assert await database.indexes.add(replace(one, dimension=8)) == one


async def test_indexes_are_told_by_collection(database: Database) -> None:
    for collection in ("b", "a"):
        await database.indexes.add(index("1.0.0", "live", collection=collection))
    assert [one.space.collection for one in await database.indexes.all()] == ["a", "b"]
    assert [one.space.collection for one in await database.indexes.all(collection="b")] == ["b"]
    assert await database.indexes.all(collection="c") == ()


async def test_a_switch_to_an_index_that_is_not_there_leaves_what_is_live(database: Database) -> None:
    await database.indexes.add(index("1.0.0", "live"))
    with pytest.raises(ModelNotFound, match=r"2\.0\.0"):
        await database.indexes.switch(space("2.0.0"))
    assert await states(database) == {"1.0.0": "live"}


async def test_a_switch_to_what_is_live_retires_nothing(database: Database) -> None:
    await database.indexes.add(index("1.0.0", "live"))
    assert await database.indexes.switch(space("1.0.0")) is None
    assert await states(database) == {"1.0.0": "live"}


async def test_other_models_and_collections_keep_their_live_index(database: Database) -> None:
    others = [index("1.0.0", "live", model="dino"), index("1.0.0", "live", collection="other")]
    for one in (index("1.0.0", "live"), index("2.0.0", "ready"), *others):
        await database.indexes.add(one)
    before = await database.indexes.switch(space("2.0.0"))
    assert before is not None
    assert before.space == space("1.0.0")
    live = {one.space for one in await database.indexes.all() if one.state == "live"}
    assert live == {space("2.0.0"), *(one.space for one in others)}


async def test_a_retired_index_is_dated_by_its_switch(database: Database, time: Time) -> None:
    for one in (index("1.0.0", "live"), index("2.0.0", "ready")):
        await database.indexes.add(one)
    time.pass_(60)
    await database.indexes.switch(space("2.0.0"))
    assert {one.changed_at for one in await database.indexes.all()} == {time()}


async def test_of_many_switches_at_once_each_retires_the_one_before(database_url: str) -> None:
    both = [await Database.open(database_url) for _ in range(2)]
    versions = [f"{n}.0.0" for n in range(1, 7)]
    try:
        await both[0].indexes.add(index("0.0.0", "live"))
        for version in versions:
            await both[0].indexes.add(index(version, "ready"))
        turns = enumerate(versions)
        retired = await asyncio.gather(*(both[n % 2].indexes.switch(space(version)) for n, version in turns))
        now = await states(both[0])
        (live,) = [version for version, state in now.items() if state == "live"]
        assert {one.space.version for one in retired if one} == {"0.0.0", *versions} - {live}
    finally:
        for one in both:
            await one.close()


async def test_a_change_to_live_beside_a_live_one_is_refused(database: Database) -> None:
    await database.indexes.add(index("1.0.0", "live"))
    other = await database.indexes.add(index("2.0.0", "ready"))
    with pytest.raises(Conflict, match="switch"):
        await database.indexes.change(replace(other, state="live"), from_=["ready"])
    assert await states(database) == {"1.0.0": "live", "2.0.0": "ready"}


async def test_of_two_who_change_from_one_state_one_does(database_url: str) -> None:
    both = [await Database.open(database_url) for _ in range(2)]
    try:
        one = await both[0].indexes.add(index("1.0.0"))
        changes = (replace(one, state="verifying", done=n) for n in range(8))
        turns = enumerate(changes)
        done = await asyncio.gather(*(both[n % 2].indexes.change(each, from_=["building"]) for n, each in turns))
        assert done.count(True) == 1
    finally:
        for one_ in both:
            await one_.close()


async def test_what_is_not_there_is_neither_changed_nor_missed(database: Database) -> None:
    assert not await database.indexes.change(index("1.0.0"), from_=["building"])
    await database.indexes.remove(space("1.0.0"))
    assert await database.indexes.all() == ()
