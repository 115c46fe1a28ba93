"""The promise of `DeadLetters`, kept by every database: nothing is too odd to be put aside."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from adapters.database import Database
from modelmora.domain.events.codec import read_event
from modelmora.domain.registry.pages import Paging
from modelmora.errors import ValidationFailed
from modelmora.ports import DeadLetter
from tests.pictures import SPACE, START, Time, coming, step

OTHER = "dino@2.0.0"


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def database(database_url: str, time: Time) -> AsyncIterator[Database]:
    opened = await Database.open(database_url, clock=time)
    yield opened
    await opened.close()


def letter(id_: str, **told: Any) -> DeadLetter:
    values: dict[str, Any] = {
        "topic": "modelmora.images",
        "key": b"k",
        "value": b"no json",
        "code": "invalid_input",
        "detail": "d",
        "first_failed_at": START,
        "failed_at": START,
    }
    return DeadLetter(id=id_, **{**values, **told})


async def topics(database: Database) -> list[str]:
    return [one.topic for one in await database.outbox.due(limit=100)]


@pytest.mark.parametrize(
    "odd",
    [
        {"key": random.Random(7).randbytes(100_000)},
        {"key": b"", "value": b""},
        {"value": bytes(range(256)) * 40},
        {"headers": (("n\0", b"\0\xff"), ("n\0", b""), ("ü" * 1_000, b"x"))},
        {"detail": "half a pair \ud83d, a NUL \0"},
        {"detail": "x" * 10**6},
        {"code": "\0"},
        {"picture_id": "\0" * 10_000, "space": "\ud83d"},
    ],
    ids=lambda odd: next(iter(odd)),
)
async def test_whatever_came_can_be_put_aside_and_sent_on(database: Database, odd: dict[str, Any]) -> None:
    await database.dead_letters.add([letter("1", **odd)])
    kept = await database.dead_letters.get("1")
    came = letter("1", **odd)
    assert (kept.key, kept.value, kept.headers) == (came.key, came.value, came.headers)
    (message,) = await database.outbox.due(limit=10)
    assert (message.topic, message.key, message.value) == ("modelmora.images.dlq", came.key, came.value)
    told = dict(message.headers)
    assert {"error-code", "attempts", "first-failed"} <= set(told)
    assert len(told["error-detail"]) < 5_000


async def test_a_letter_is_sent_on_once_however_often_it_is_added(database: Database) -> None:
    await database.dead_letters.add([letter("1"), letter("1"), letter("2")])
    await database.dead_letters.add([letter("2", detail="other"), letter("3")])
    assert await topics(database) == ["modelmora.images.dlq"] * 3
    assert (await database.dead_letters.get("2")).detail == "d"


async def test_every_letter_is_on_one_page_the_newest_first(database: Database) -> None:
    for n in range(7):
        moment = START + timedelta(seconds=n // 2)
        await database.dead_letters.add([letter(str(n), failed_at=moment, code="internal" if n % 3 else "validation")])
    for code, expected in ((None, [6, 5, 4, 3, 2, 1, 0]), ("internal", [5, 4, 2, 1]), ("nothing", [])):
        found, cursor = [], None
        while True:
            page = await database.dead_letters.find(code=code, page=Paging(limit=2, cursor=cursor, descending=True))
            found += [int(one.id) for one in page.items]
            if (cursor := page.next_cursor) is None:
                break
        assert found == expected
    with pytest.raises(ValidationFailed):
        await database.dead_letters.find(page=Paging(cursor="none"))


async def test_a_page_of_large_letters_ends_before_it_is_too_large(database: Database) -> None:
    await database.dead_letters.add([letter(str(n), value=bytes(3 * 2**20)) for n in range(4)])
    page = await database.dead_letters.find()
    assert 1 <= len(page.items) < 4
    assert page.next_cursor is not None


async def test_ways_that_were_given_up_are_told_again_in_one_event_a_picture(database: Database, time: Time) -> None:
    await database.pictures.register([coming("a", spaces=(SPACE, OTHER)), coming("b")])
    lost = [step("a", "dead", code="x"), step("a", "rejected", space=OTHER, code="x"), step("b", "dead", code="y")]
    await database.pictures.finish(lost)
    await database.outbox.carried([one.number for one in await database.outbox.due(limit=10)])
    ids = [one.id for one in (await database.dead_letters.find()).items]
    time.pass_(5)
    assert await database.dead_letters.replay(ids, source="/cli") == 3
    due = await database.outbox.due(limit=10)
    assert sorted(one.key for one in due) == [b"a", b"b"]
    assert {read_event(one.value).source for one in due} == {"/cli"}
    ways = await database.pictures.ways(["a", "b"])
    assert {(way.state, way.attempts) for of in ways.values() for way in of} == {("received", 0)}
    assert await database.dead_letters.count() == 0


async def test_replaying_twice_tells_once(database: Database) -> None:
    await database.pictures.register([coming("a")])
    await database.pictures.finish([step("a", "dead", code="x")])
    await database.dead_letters.add([letter("1")])
    ids = [one.id for one in (await database.dead_letters.find()).items]
    assert await database.dead_letters.replay(ids, source="/cli") == 2
    waiting = await database.outbox.waiting()
    assert await database.dead_letters.replay(ids, source="/cli") == 0
    assert await database.outbox.waiting() == waiting


async def test_a_way_that_came_through_meanwhile_is_left_by_a_replay(database: Database) -> None:
    await database.pictures.register([coming("a")])
    await database.pictures.finish([step("a", "dead", code="x")])
    (one,) = (await database.dead_letters.find()).items
    await database.pictures.finish([step("a")])
    assert await database.dead_letters.replay([one.id], source="/cli") == 0
    (way,) = (await database.pictures.ways(["a"]))["a"]
    assert way.state == "indexed"


async def test_a_letter_of_a_picture_that_was_never_kept_goes_as_it_came(database: Database) -> None:
    """It failed before there was a record: its bytes could not be fetched, for one."""
    await database.dead_letters.add([letter("1", picture_id="a", value=b"the event")])
    assert await database.dead_letters.replay(["1"], source="/cli") == 1
    _, message = await database.outbox.due(limit=10)
    assert (message.topic, message.value) == ("modelmora.images", b"the event")


async def test_a_removed_picture_leaves_no_letter_and_no_message_of_one(database: Database) -> None:
    await database.pictures.register([coming("a")])
    await database.pictures.finish([step("a", "dead", code="x")])
    await database.pictures.remove(["a"], source="/x")
    assert (await database.dead_letters.find()).items == ()
    assert await topics(database) == ["modelmora.images"]  # that it was removed


async def test_letters_are_removed_by_their_ids(database: Database) -> None:
    await database.dead_letters.add([letter("1"), replace(letter("2"), picture_id="p")])
    assert await database.dead_letters.remove(["2", "nobody"]) == 1
    assert [one.id for one in (await database.dead_letters.find()).items] == ["1"]
