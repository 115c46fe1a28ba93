"""Events that wait, letters of what was given up, and which index is searched, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from adapters.database import Database
from modelmora.domain.events.envelope import Event
from modelmora.domain.pictures.spaces import Index, IndexSettings, Space
from modelmora.domain.registry.pages import Paging
from modelmora.errors import ImageNotFound
from modelmora.ports import DeadLetter
from tests.pictures import SPACE, START, Time, coming, step


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def database(database_url: str, time: Time) -> AsyncIterator[Database]:
    opened = await Database.open(database_url, clock=time)
    yield opened
    await opened.close()


def event(key: str, id_: str = "1") -> Event:
    return Event(id=id_, source="/x", type="com.modelmora.model.loaded.v1", topic="t", key=key, time=START, data={})


async def test_events_come_by_number_until_they_are_carried(database: Database) -> None:
    await database.outbox.add([event("a", "1"), event("b", "2"), event("a", "3")])
    first = await database.outbox.due(limit=2)
    assert [each.key for each in first] == [b"a", b"b"]
    await database.outbox.carried([each.number for each in first])
    (last,) = await database.outbox.due(limit=2)
    assert last.key == b"a"
    assert await database.outbox.waiting() == 1


async def test_nothing_of_a_key_overtakes_what_is_held_back(database: Database, time: Time) -> None:
    await database.pictures.register([coming("a", announce="/x", hold_s=60), coming("b", announce="/x")])
    await database.outbox.add([replace(event("a"), topic="modelmora.images")])
    assert [each.key for each in await database.outbox.due(limit=10)] == [b"b"]
    time.pass_(61)
    assert [each.key for each in await database.outbox.due(limit=10)] == [b"a", b"b", b"a"]


def letter(id_: str, *, code: str = "invalid_input", at: float = 0.0) -> DeadLetter:
    from datetime import timedelta

    moment = START + timedelta(seconds=at)
    headers = (("x", b"\xff"),)
    return DeadLetter(
        id=id_,
        topic="modelmora.images",
        key=b"k",
        value=b"\x00no json",
        headers=headers,
        code=code,
        detail="d",
        first_failed_at=moment,
        failed_at=moment,
    )


async def test_letters_are_kept_as_they_came_once_and_sent_on(database: Database) -> None:
    await database.dead_letters.add([letter("1"), letter("2", code="validation", at=1)])
    await database.dead_letters.add([letter("1")])
    assert await database.dead_letters.get("1") == letter("1")
    assert [one.id for one in (await database.dead_letters.find()).items] == ["2", "1"]
    assert [one.id for one in (await database.dead_letters.find(code="validation")).items] == ["2"]
    page = await database.dead_letters.find(page=Paging(limit=1, descending=True))
    assert page.next_cursor is not None
    messages = await database.outbox.due(limit=10)
    assert [each.topic for each in messages] == ["modelmora.images.dlq"] * 2
    assert messages[0].value == b"\x00no json"
    assert await database.dead_letters.count() == 2


async def test_a_letter_that_could_not_be_read_is_replayed_as_it_came(database: Database) -> None:
    await database.dead_letters.add([letter("1")])
    assert await database.dead_letters.replay(["1", "nobody"], source="/x") == 1
    *_, message = await database.outbox.due(limit=10)
    assert (message.topic, message.value, message.headers) == ("modelmora.images", b"\x00no json", (("x", b"\xff"),))
    assert (await database.dead_letters.get("1")).replayed_at is not None
    assert await database.dead_letters.count() == 0
    assert await database.dead_letters.remove(["1"]) == 1
    with pytest.raises(ImageNotFound):
        await database.dead_letters.get("1")


async def test_a_picture_that_was_given_up_comes_back_with_all_its_tries(database: Database) -> None:
    await database.pictures.register([coming("a")])
    await database.pictures.finish([step("a", "dead", code="internal", detail="d")])
    (one,) = (await database.dead_letters.find()).items
    assert await database.dead_letters.replay([one.id], source="/x") == 1
    (way,) = (await database.pictures.ways(["a"]))["a"]
    assert (way.space, way.state, way.attempts) == (SPACE, "received", 0)
    *_, message = await database.outbox.due(limit=10)
    assert (message.topic, message.key) == ("modelmora.images", b"a")


def index(version: str, state: str = "building") -> Index:
    space = Space(model="clip", version=version)
    settings = IndexSettings(m=8, payload=("camera",))
    return Index(space=space, state=state, dimension=4, settings=settings, created_at=START, changed_at=START)  # type: ignore[arg-type]


async def test_one_index_of_a_model_is_live_and_a_switch_is_one_step(database: Database) -> None:
    one, two = index("1.0.0", "live"), index("2.0.0", "ready")
    assert await database.indexes.add(one) == one
    assert await database.indexes.add(two) == two
    before = await database.indexes.switch(two.space)
    assert before is not None
    assert before.space == one.space
    assert {i.space.version: i.state for i in await database.indexes.all()} == {"1.0.0": "draining", "2.0.0": "live"}
    await database.indexes.switch(one.space)
    assert {i.space.version: i.state for i in await database.indexes.all()} == {"1.0.0": "live", "2.0.0": "draining"}


async def test_of_two_who_make_the_first_index_at_once_one_is_live(database_url: str) -> None:
    first, second = await Database.open(database_url), await Database.open(database_url)
    try:
        made = await asyncio.gather(
            first.indexes.add(index("1.0.0", "live")), second.indexes.add(index("2.0.0", "live"))
        )
        assert made[0] == made[1]
        assert len(await first.indexes.all()) == 1
    finally:
        await first.close()
        await second.close()


async def test_an_index_changes_only_from_a_state_that_it_is_in(database: Database) -> None:
    one = await database.indexes.add(index("1.0.0"))
    assert await database.indexes.change(replace(one, done=3, cursor="x", state="verifying"), from_=["building"])
    assert not await database.indexes.change(replace(one, done=9), from_=["building"])
    (now,) = await database.indexes.all(collection="default")
    assert (now.state, now.done, now.cursor, now.settings.payload) == ("verifying", 3, "x", ("camera",))
    await database.indexes.remove(one.space)
    assert await database.indexes.all() == ()
