"""Kept pictures on every database: records, ways, events in the transaction that caused them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from adapters.database import Database
from modelmora.domain.events.codec import read_event
from modelmora.domain.outcome import Failed, Outcome, unwrap
from modelmora.domain.pictures.way import shown
from modelmora.domain.registry.pages import Paging
from modelmora.errors import Conflict, ImageNotFound
from modelmora.ports import PictureQuery, Registered
from tests.pictures import SPACE, Time, coming, digest, picture, step


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def database(database_url: str, time: Time) -> AsyncIterator[Database]:
    opened = await Database.open(database_url, clock=time)
    yield opened
    await opened.close()


async def register(database: Database, *registrations: Any) -> list[Registered]:
    return [unwrap(each) for each in await database.pictures.register(registrations)]


async def states(database: Database, name: str) -> dict[str, str]:
    ways = (await database.pictures.ways([name])).get(name, ())
    return {way.space: way.state for way in ways}


async def types(database: Database) -> list[str]:
    due = await database.outbox.due(limit=100)
    return [read_event(each.value, key=each.key, headers=each.headers).type.split(".", 2)[2] for each in due]


async def test_a_new_picture_is_kept_with_its_ways_and_its_announcement(database: Database) -> None:
    (made,) = await register(database, coming("a", tags=("x", "ü"), metadata={"n": 1, "b": True}, announce="/here"))
    assert not made.duplicate
    assert [(way.space, way.state) for way in made.ways] == [(SPACE, "working")]
    there = await database.pictures.get("a")
    assert (there.facts.tags, there.facts.metadata) == (("x", "ü"), {"n": 1, "b": True})
    (kept,) = await database.outbox.due(limit=10)
    event = read_event(kept.value, key=kept.key, headers=kept.headers)
    assert (kept.topic, kept.key, event.source) == ("modelmora.images", b"a", "/here")
    assert event.data["sha256"] == digest("a")


async def test_a_transaction_that_fails_keeps_neither_record_nor_event(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("torn")

    monkeypatch.setattr("adapters.database.registering.write_ways", broken)
    with pytest.raises(RuntimeError, match="torn"):
        await database.pictures.register([coming("a", announce="/here")])
    monkeypatch.undo()
    with pytest.raises(ImageNotFound):
        await database.pictures.get("a")
    assert await database.outbox.waiting() == 0


async def test_a_held_announcement_waits_until_the_picture_is_through_or_its_time_is_over(
    database: Database, time: Time
) -> None:
    await register(database, coming("a", announce="/x", hold_s=30), coming("b", announce="/x", hold_s=30))
    assert await types(database) == []
    await database.pictures.finish([step("a")])
    assert await types(database) == ["image.registered.v1"]
    time.pass_(31)
    assert await types(database) == ["image.registered.v1"] * 2


async def test_the_same_content_is_the_same_picture(database: Database) -> None:
    await register(database, coming("a"))
    await database.pictures.finish([step("a")])
    (again,) = await register(database, coming("b", sha256=digest("a"), filename="", announce="/x"))
    assert (again.picture.id, again.duplicate, again.ways) == ("a", True, ())
    assert await types(database) == []
    with pytest.raises(ImageNotFound):
        await database.pictures.get("b")
    (elsewhere,) = await register(database, coming("c", sha256=digest("a"), collection="other"))
    assert (elsewhere.picture.id, elsewhere.duplicate) == ("c", False)


async def test_new_facts_of_a_known_content_are_added_and_its_ways_begin_anew(database: Database) -> None:
    await register(database, coming("a", tags=("one",), metadata={"k": 1}))
    await database.pictures.finish([step("a")])
    told = {"sha256": digest("a"), "tags": ("two",), "metadata": {"k": 2, "l": 3}, "announce": "/x"}
    (again,) = await register(database, coming("b", **told))
    assert (again.picture.id, again.picture.seq, again.duplicate) == ("a", 2, True)
    assert (again.picture.facts.tags, again.picture.facts.metadata) == (("one", "two"), {"k": 2, "l": 3})
    assert [(way.state, way.seq) for way in again.ways] == [("working", 2)]
    (kept,) = await database.outbox.due(limit=10)
    assert (kept.key, json.loads(kept.value)["data"]["seq"]) == (b"a", 2)
    tagged = await database.pictures.find(PictureQuery(any_tags=("two",)))
    assert [one.id for one in tagged.items] == ["a"]


async def test_several_of_one_content_in_one_call_are_one_picture(database: Database) -> None:
    made = await register(database, coming("a"), coming("b", sha256=digest("a")), coming("a"))
    assert {one.picture.id for one in made} == {"a"}
    assert await database.pictures.count() == 1


async def test_two_processes_that_bring_the_same_at_once_make_one_picture(database_url: str) -> None:
    one, two = await Database.open(database_url), await Database.open(database_url)
    try:
        chunks = [
            [coming(f"{side}{n}", sha256=digest(str(n))) for n in order]
            for side, order in zip("ab", (range(20), reversed(range(20))), strict=True)
        ]
        answers = await asyncio.gather(one.pictures.register(chunks[0]), two.pictures.register(chunks[1]))
        ids = [{unwrap(a).picture.sha256: unwrap(a).picture.id for a in answer} for answer in answers]
        assert ids[0] == ids[1]
        assert await one.pictures.count() == 20
    finally:
        await one.close()
        await two.close()


async def test_an_event_is_taken_once_and_what_it_left_undone_is_told_again(database: Database) -> None:
    event = coming("a", origin=("/s", "1"))
    (first,) = await register(database, event)
    (second,) = await register(database, event)
    assert (first.seen, second.seen) == (False, True)
    assert [way.state for way in second.ways] == ["working"]
    await database.pictures.finish([step("a")])
    (third,) = await register(database, event)
    assert (third.seen, third.ways) == (True, ())


async def test_a_newer_record_replaces_an_older_one_and_never_the_other_way(database: Database) -> None:
    await register(database, coming("a", seq=3, tags=("new",)))
    (old,) = await register(database, coming("a", seq=2, tags=("old",)))
    assert old.picture.facts.tags == ("new",)
    (newer,) = await register(database, coming("a", seq=4, tags=("newest",), sha256=digest("other")))
    assert (newer.picture.facts.tags, newer.ways[0].seq) == (("newest",), 4)
    await database.pictures.finish([step("a", seq=3)])  # who still works on the older record
    assert await states(database, "a") == {SPACE: "working"}
    await database.pictures.finish([step("a", seq=4)])
    assert await states(database, "a") == {SPACE: "indexed"}


async def test_an_id_of_another_collection_is_refused_alone(database: Database) -> None:
    await register(database, coming("a"))
    answers: list[Outcome[Registered]] = await database.pictures.register(
        [coming("a", collection="other", seq=5), coming("b")]
    )
    assert isinstance(answers[0], Failed)
    assert isinstance(answers[0].error, Conflict)
    assert unwrap(answers[1]).picture.id == "b"


async def test_a_picture_gets_the_spaces_that_came_later(database: Database) -> None:
    await register(database, coming("a"))
    await database.pictures.finish([step("a")])
    (again,) = await register(database, coming("a", spaces=(SPACE, "dino@2.0.0")))
    assert [way.space for way in again.ways] == ["dino@2.0.0"]


async def test_what_failed_for_a_while_waits_for_its_time(database: Database, time: Time) -> None:
    await register(database, coming("a"))
    await database.pictures.finish([step("a", "retry_wait", delay_s=10.0, code="overloaded", detail="full")])
    (way,) = (await database.pictures.ways(["a"]))["a"]
    assert (way.state, way.attempts, way.code, shown([way])) == ("retry_wait", 1, "overloaded", "retrying")
    (again,) = await register(database, coming("a"))
    assert again.ways == ()
    assert await announce(database) == 0
    time.pass_(10)
    assert await announce(database) == 1
    assert await types(database) == ["image.registered.v1"]
    assert await states(database, "a") == {SPACE: "received"}
    (again,) = await register(database, coming("a"))
    assert [way.attempts for way in (await database.pictures.ways(["a"]))["a"]] == [1]
    assert [way.state for way in again.ways] == ["working"]


async def announce(database: Database, *, tries: int = 3) -> int:
    return await database.pictures.announce_again(stuck_s=300, tries=tries, limit=100, source="/sweep")


async def test_what_got_stuck_is_announced_again_until_its_tries_are_used_up(database: Database, time: Time) -> None:
    await register(database, coming("a"))
    assert await announce(database) == 0
    for _ in range(2):
        time.pass_(301)
        assert await announce(database) == 1
        (kept,) = await database.outbox.due(limit=10)
        time.pass_(301)
        assert await announce(database) == 0, "while its announcement waits it is not stuck"
        await database.outbox.carried([kept.number])
        await register(database, coming("a"))  # a consumer takes it, and dies
    time.pass_(301)
    assert await announce(database) == 0
    assert await states(database, "a") == {SPACE: "dead"}
    (letter,) = (await database.dead_letters.find()).items
    assert (letter.picture_id, letter.space, letter.attempts) == ("a", SPACE, 3)


async def test_waiting_for_a_consumer_that_is_behind_is_no_try(database: Database, time: Time) -> None:
    await register(database, coming("a", claim=False))
    for _ in range(5):
        time.pass_(301)
        assert await announce(database) == 1
        await database.outbox.carried([kept.number for kept in await database.outbox.due(limit=10)])
    assert [way.attempts for way in (await database.pictures.ways(["a"]))["a"]] == [0]


async def test_what_is_given_up_leaves_a_letter_and_a_message(database: Database) -> None:
    await register(database, coming("a"), coming("b"))
    given_up = step("a", "rejected", stage="embedding", code="invalid_input", detail="no picture")
    await database.pictures.finish([given_up, step("b")])
    (letter,) = (await database.dead_letters.find(code="invalid_input")).items
    assert (letter.picture_id, letter.stage, letter.detail) == ("a", "embedding", "no picture")
    (message,) = await database.outbox.due(limit=10)
    assert message.topic == "modelmora.images.dlq"
    assert dict(message.headers)["error-code"] == b"invalid_input"
    assert dict(message.headers)["attempts"] == b"1"
    (again,) = await register(database, coming("a"))
    assert again.ways == (), "what was rejected is not tried again untold"


async def test_a_removed_picture_is_gone_with_all_that_told_of_it_and_does_not_come_back(database: Database) -> None:
    await register(database, coming("a", tags=("x",), announce="/x"), coming("b"))
    await database.pictures.finish([step("a", "dead", code="internal")])
    (gone,) = await database.pictures.remove(["a", "nobody"], source="/x")
    assert (gone.id, gone.seq, gone.facts.tags) == ("a", 2, ("x",))
    assert await types(database) == ["image.removed.v1"]
    assert (await database.dead_letters.find()).items == ()
    assert await states(database, "a") == {SPACE: "tombstoned"}
    with pytest.raises(ImageNotFound):
        await database.pictures.get("a")
    assert (await database.pictures.get("a", deleted=True)).facts.tags == ()
    (late,) = await register(database, coming("a", seq=9, origin=("/s", "late")))
    assert (late.picture.deleted_at is not None, late.ways) == (True, ())
    await database.pictures.finish([step("a")])
    assert await states(database, "a") == {SPACE: "tombstoned"}
    assert await database.pictures.remove(["a"], source="/x") == ()
    assert not await database.pictures.used(digest("a"))
    (anew,) = await register(database, coming("c", sha256=digest("a")))
    assert (anew.picture.id, anew.duplicate) == ("c", False)


async def test_pictures_are_found_by_what_is_shown_of_them(database: Database, time: Time) -> None:
    for name in ("indexed", "retrying", "failed", "embedding", "registered"):
        time.pass_(1)
        await register(database, coming(name, claim=name != "registered", created_at=time()))
    await database.pictures.finish([step("indexed"), step("retrying", "retry_wait"), step("failed", "rejected")])
    for name in ("indexed", "retrying", "failed", "embedding", "registered"):
        found = await database.pictures.find(PictureQuery(state=name))  # type: ignore[arg-type] # each of them is one
        assert [one.id for one in found.items] == [name]
        assert shown((await database.pictures.ways([name]))[name]) == name
    pages, cursor = [], None
    while True:
        page = await database.pictures.find(PictureQuery(page=Paging(limit=2, descending=True, cursor=cursor)))
        pages += [one.id for one in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert pages == ["registered", "embedding", "failed", "retrying", "indexed"]


async def test_pictures_expire(database: Database, time: Time) -> None:
    await register(database, coming("a", expires_at=time()), coming("b"))
    assert [one.id for one in await database.pictures.expired(limit=10)] == ["a"]


async def test_what_a_space_lacks_is_told_a_page_at_a_time(database: Database) -> None:
    await register(database, *(coming(name) for name in "abcd"), coming("e", collection="other"))
    await database.pictures.finish([step("b")])
    first = await database.pictures.missing(SPACE, collection="default", after=None, limit=2)
    rest = await database.pictures.missing(SPACE, collection="default", after=first[-1].id, limit=10)
    assert [[one.id for one in part] for part in (first, rest)] == [["a", "c"], ["d"]]
    assert await database.pictures.collections() == ("default", "other")
    assert await database.pictures.lag() == {"working": 4, "indexed": 1}


async def test_a_page_of_due_ways_is_found_by_an_index(database: Database) -> None:
    if "sqlite" not in str(database._engine.url):
        pytest.skip("the plan is SQLite's; PostgreSQL plans by what is in the table")
    query = "SELECT * FROM ways WHERE tenant='default' AND state='retry_wait' AND next_attempt_at <= '2030-01-01'"
    async with database._engine.connect() as connection:
        plan = " ".join(row[3] for row in await connection.execute(text(f"EXPLAIN QUERY PLAN {query}")))
    assert "ix_ways_due" in plan


async def test_events_that_were_taken_long_ago_are_forgotten(database: Database, time: Time) -> None:
    await register(database, coming("a", origin=("/s", "1")))
    time.pass_(8 * 86_400)
    await announce(database)
    (again,) = await register(database, coming("a", origin=("/s", "1")))
    assert not again.seen


async def test_a_record_is_the_same_after_it_was_kept(database: Database, time: Time) -> None:
    whole = picture("a", width=3, height=4, expires_at=time(), tags=("t",), metadata={"f": 1.5, "s": "ü\u2028"})
    await register(
        database, coming("a", width=3, height=4, expires_at=time(), tags=("t",), metadata=whole.facts.metadata)
    )
    assert await database.pictures.get("a") == whole
