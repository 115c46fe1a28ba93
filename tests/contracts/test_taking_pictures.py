"""What comes twice, late, torn or hostile into the records of pictures, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from adapters.database import Database
from modelmora.domain.events.codec import read_event
from modelmora.domain.events.images import registered
from modelmora.domain.outcome import Failed, unwrap
from modelmora.domain.registry.pages import Paging
from modelmora.errors import Conflict, ImageNotFound, LimitExceeded, ValidationFailed
from modelmora.ports import PictureQuery, Registered
from tests.pictures import SPACE, START, Time, coming, digest, picture, step

OTHER = "dino@2.0.0"


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
    return {way.space: way.state for way in (await database.pictures.ways([name])).get(name, ())}


async def events(database: Database) -> list[tuple[str, str]]:
    """Type and key of what is due."""
    due = await database.outbox.due(limit=100)
    return [
        (read_event(one.value, key=one.key, headers=one.headers).type.split(".", 2)[2][:-3], one.key.decode())
        for one in due
        if not one.topic.endswith(".dlq")
    ]


def told(name: str) -> Any:
    """`EmbeddingGenerated` would do; any event of that key does."""
    return registered(picture(name), source="/x", id_=f"of-{name}", time=START, topic="modelmora.images")


async def test_an_event_that_was_taken_changes_nothing_when_it_comes_again(database: Database) -> None:
    await register(database, coming("a", metadata={"k": 0}))
    early = coming("b", sha256=digest("a"), metadata={"k": 1}, origin=("/s", "1"))
    late = coming("c", sha256=digest("a"), metadata={"k": 2}, origin=("/s", "2"))
    await register(database, early)
    await register(database, late)
    await database.pictures.finish([step("a", seq=3)])
    (again,) = await register(database, early)
    assert (again.seen, again.picture.facts.metadata, again.picture.seq, again.ways) == (True, {"k": 2}, 3, ())


async def test_an_event_that_was_taken_does_not_bring_back_what_was_removed_since(database: Database) -> None:
    await register(database, coming("a"))
    event = coming("b", sha256=digest("a"), origin=("/s", "1"))
    await register(database, event)
    await database.pictures.remove(["a"], source="/x")
    (again,) = await register(database, event)
    assert (again.seen, again.ways) == (True, ())
    assert await database.pictures.count() == 0
    with pytest.raises(ImageNotFound):
        await database.pictures.get("b")


async def test_an_event_that_was_refused_counts_as_not_taken(database: Database) -> None:
    await register(database, coming("a"))
    event = coming("a", collection="other", seq=2, origin=("/s", "1"))
    (refused,) = await database.pictures.register([event])
    assert isinstance(refused, Failed)
    await register(database, coming("z"))
    (taken,) = await register(database, coming("y", origin=("/s", "1")))
    assert not taken.seen
    assert await states(database, "y") == {SPACE: "working"}


async def test_what_is_dead_stays_so_when_its_event_comes_again(database: Database) -> None:
    """Else a picture that ends the process that takes it would do so for ever."""
    event = coming("a", origin=("/s", "1"))
    await register(database, event)
    await database.pictures.finish([step("a", "dead", code="internal")])
    for again in (event, coming("a", origin=("/s", "2"))):
        (answer,) = await register(database, again)
        assert answer.ways == ()
    assert await states(database, "a") == {SPACE: "dead"}


async def test_what_is_dead_begins_anew_when_somebody_brings_the_picture_again(database: Database) -> None:
    await register(database, coming("a", spaces=(SPACE, OTHER)))
    gone = [step("a", "dead", code="internal"), step("a", "rejected", space=OTHER, code="validation")]
    await database.pictures.finish(gone)
    (again,) = await register(database, coming("b", sha256=digest("a"), filename="", announce="/x"))
    assert again.duplicate
    assert [(way.space, way.state, way.attempts, way.code) for way in again.ways] == [(SPACE, "working", 0, "")]
    assert await states(database, "a") == {SPACE: "working", OTHER: "rejected"}
    assert await events(database) == [("image.registered", "a")]
    assert await database.dead_letters.count() == 1, "the letter of the way that goes on is answered"


async def test_a_duplicate_gets_the_spaces_that_came_later_and_tells_of_it(database: Database) -> None:
    await register(database, coming("a"))
    await database.pictures.finish([step("a")])
    coming_again = coming("b", sha256=digest("a"), filename="", spaces=(SPACE, OTHER), announce="/x", claim=False)
    (again,) = await register(database, coming_again)
    assert [(way.space, way.state) for way in again.ways] == [(OTHER, "received")]
    assert await events(database) == [("image.registered", "a")]


async def test_a_newer_record_begins_the_ways_that_are_asked_for_and_gives_up_the_rest(database: Database) -> None:
    await register(database, coming("a", spaces=(SPACE, OTHER)))
    await database.pictures.finish([step("a"), step("a", "retry_wait", space=OTHER, code="overloaded", detail="full")])
    (newer,) = await register(database, coming("a", seq=2, tags=("new",), spaces=(SPACE,)))
    assert [(way.space, way.seq) for way in newer.ways] == [(SPACE, 2)]
    assert await states(database, "a") == {SPACE: "working", OTHER: "superseded"}
    (back,) = await register(database, coming("a", seq=2, spaces=(SPACE, OTHER)))
    assert {(way.space, way.attempts, way.code, way.detail) for way in back.ways} == {
        (SPACE, 0, "", ""),
        (OTHER, 0, "", ""),
    }


async def test_a_newer_record_of_bytes_that_are_another_picture_is_refused_alone(database: Database) -> None:
    await register(database, coming("a"), coming("b"))
    answers = await database.pictures.register([coming("a", seq=2, sha256=digest("b")), coming("c")])
    assert isinstance(answers[0], Failed)
    assert isinstance(answers[0].error, Conflict)
    assert unwrap(answers[1]).picture.id == "c"
    assert (await database.pictures.get("a")).seq == 1


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
async def test_of_one_id_that_comes_twice_in_one_call_the_newer_record_stands(
    database: Database, order: tuple[int, int]
) -> None:
    for name in ("k", "l"):  # two, so that one of them sorts the other way by its content
        both = [coming(name, seq=seq, sha256=digest(f"{name}{seq}"), tags=(str(seq),)) for seq in order]
        await register(database, *both)
        there = await database.pictures.get(name)
        assert (there.seq, there.sha256, there.facts.tags) == (2, digest(f"{name}2"), ("2",))
        assert [way.seq for way in (await database.pictures.ways([name]))[name]] == [2]
    found = await database.pictures.find(PictureQuery(any_tags=("1", "2")))
    assert {one.facts.tags for one in found.items} == {("2",)}


async def test_facts_of_another_kind_are_other_facts(database: Database) -> None:
    await register(database, coming("a", metadata={"k": 1}))
    (again,) = await register(database, coming("b", sha256=digest("a"), metadata={"k": True}))
    assert (again.picture.facts.metadata["k"], again.picture.seq) == (True, 2)


async def test_facts_that_grow_beyond_their_limits_are_refused_and_change_nothing(database: Database) -> None:
    await register(database, coming("a", tags=[f"t{n}" for n in range(60)], metadata={f"k{n}": n for n in range(60)}))
    for more in ({"tags": [f"u{n}" for n in range(10)]}, {"metadata": {f"l{n}": n for n in range(10)}}):
        (answer,) = await database.pictures.register([coming("b", sha256=digest("a"), **more)])
        assert isinstance(answer, Failed)
        assert isinstance(answer.error, LimitExceeded)
    assert (await database.pictures.get("a")).seq == 1


async def test_who_brings_a_picture_again_keeps_it_as_long_as_he_asks(database: Database, time: Time) -> None:
    day = timedelta(days=1)
    await register(database, coming("a", expires_at=time() + day))
    for asked, kept in ((time(), time() + day), (time() + 2 * day, time() + 2 * day), (None, None), (time(), None)):
        (again,) = await register(database, coming("b", sha256=digest("a"), filename="", expires_at=asked))
        assert (again.picture.expires_at, again.picture.seq) == (kept, 1)
        assert (await database.pictures.get("a")).expires_at == kept


LATEST = datetime.max.replace(tzinfo=timezone(-timedelta(hours=23)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"tenant": "another"},
        {"object": "s3://bucket/a\0b"},
        {"object": "s3://bucket/\ud83d"},
        {"content_type": "image/\0"},
        {"bytes": 10**30},
        {"width": 2**63},
        {"seq": 2**63},
        {"sha256": ""},
        {"collection": "no such name"},
        {"id": "a\0"},
        {"id": "x" * 5_000},
        {"filename": "a\0"},
        {"tags": ("\ud83d",)},
        {"metadata": {"k": "\0"}},
        {"created_at": LATEST},
        {"expires_at": LATEST},
        {"origin": ("/s", "\0")},
        {"origin": ("/\ud83d", "1")},
        {"origin": ("/s", "".join(chr(0x4E00 + 37 * n % 20_000) for n in range(1_024)))},
    ],
    ids=str,
)
async def test_what_no_table_holds_is_refused_alone(database: Database, wrong: dict[str, Any]) -> None:
    answers = await database.pictures.register([coming("a"), coming("b", **wrong), coming("c")])
    assert [isinstance(one, Failed) for one in answers] == [False, True, False]
    assert isinstance(answers[1], Failed)
    assert isinstance(answers[1].error, ValidationFailed)
    assert await database.pictures.count() == 2


async def test_an_indexed_way_is_not_undone_by_somebody_who_was_slower(database: Database) -> None:
    await register(database, coming("a"))
    await database.pictures.finish([step("a", event=told("a"))])
    waiting = await database.outbox.waiting()
    for state in ("retry_wait", "rejected", "dead", "indexed"):
        await database.pictures.finish([step("a", state, code="overloaded", event=told("a"))])
        assert await states(database, "a") == {SPACE: "indexed"}
    assert await database.outbox.waiting() == waiting, "and is told of once"
    assert await database.dead_letters.count() == 0


async def test_one_way_that_ends_twice_in_one_call_is_told_of_once(database: Database) -> None:
    await register(database, coming("a"))
    await database.pictures.finish([step("a", event=told("a")), step("a", "dead", event=told("a"))])
    assert await states(database, "a") == {SPACE: "indexed"}
    assert len(await events(database)) == 1


async def test_a_way_that_was_given_up_too_early_is_indexed_after_all(database: Database) -> None:
    await register(database, coming("a"))
    await database.pictures.finish([step("a", "dead", code="deadline_exceeded")])
    await database.pictures.finish([step("a", "dead", code="deadline_exceeded")])
    assert await database.dead_letters.count() == 1
    await database.pictures.finish([step("a")])
    assert await states(database, "a") == {SPACE: "indexed"}
    assert await database.dead_letters.count() == 0


async def test_what_was_removed_meanwhile_tells_nothing(database: Database) -> None:
    await register(database, coming("a"))
    await database.pictures.remove(["a"], source="/x")
    await database.pictures.finish([step("a", event=told("a")), step("nobody", event=told("nobody"))])
    assert await events(database) == [("image.removed", "a")]


async def test_a_verdict_may_hold_any_text(database: Database) -> None:
    await register(database, coming("a"))
    await database.pictures.finish(
        [step("a", "rejected", code="internal", detail="no \0 picture \ud83d" + "x" * 10**6)]
    )
    (letter,) = (await database.dead_letters.find()).items
    assert letter.detail.startswith("no \ufffd picture \ufffd")
    assert len(letter.detail) < 10_000


async def test_chunks_that_overlap_make_each_picture_once_whoever_is_faster(database_url: str) -> None:
    """Who brings, finishes and removes the same pictures at once, in another order, waits; nobody fails."""
    both = [await Database.open(database_url) for _ in range(2)]
    names = [str(number) for number in range(12)]

    async def bring(one: Database, order: list[str], side: str) -> None:
        for turn in range(4):
            seq = turn + 1
            new = [coming(f"{side}{turn}{n}", sha256=digest(f"{n} of {turn}"), announce="/x", hold_s=60) for n in order]
            answers = await one.pictures.register([*new, *(coming(n, seq=seq, tags=(side, n)) for n in order)])
            done = [unwrap(answer).picture for answer in answers]
            await one.pictures.finish([step(p.id, seq=p.seq) for p in done])

    async def remove(one: Database) -> None:
        for turn in range(8):
            await one.pictures.remove([f"{side}{turn % 4}{n}" for side in "ab" for n in names], source="/x")

    try:
        async with asyncio.timeout(60):
            await asyncio.gather(
                bring(both[0], names, "a"), bring(both[1], names[::-1], "b"), remove(both[0]), remove(both[1])
            )
        pages = await both[0].pictures.find(PictureQuery(page=Paging(limit=500, descending=True)))
        contents = [one.sha256 for one in pages.items]
        assert len(contents) == len(set(contents))
        assert {one.id for one in pages.items} >= set(names)
    finally:
        for one in both:
            await one.close()


async def test_moments_of_any_zone_are_kept(database: Database) -> None:
    here = datetime(2030, 5, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    await register(database, coming("a", created_at=here))
    assert (await database.pictures.get("a")).created_at == here.astimezone(UTC)


async def test_what_was_stuck_too_often_is_told_to_have_failed(database: Database, time: Time) -> None:
    await register(database, coming("a", spaces=(SPACE, OTHER)))
    await database.pictures.finish([step("a")])
    time.pass_(301)
    assert await database.pictures.announce_again(stuck_s=300, tries=1, limit=10, source="/sweep") == 0
    assert await states(database, "a") == {SPACE: "indexed", OTHER: "dead"}
    assert await events(database) == [("embedding.failed", "a")]
    (letter,) = (await database.dead_letters.find()).items
    assert (letter.space, letter.code, letter.attempts) == (OTHER, "deadline_exceeded", 1)


async def test_a_sweep_takes_as_much_as_it_is_asked_to(database: Database, time: Time) -> None:
    await register(database, *(coming(f"p{n}", claim=n % 2 == 0) for n in range(9)))
    time.pass_(301)
    told = [await database.pictures.announce_again(stuck_s=300, tries=9, limit=4, source="/s") for _ in range(4)]
    assert told == [4, 4, 1, 0]


async def test_sweeps_at_once_announce_each_picture_once(database_url: str) -> None:
    time = Time()
    both = [await Database.open(database_url, clock=time) for _ in range(2)]
    try:
        await register(both[0], *(coming(f"p{n}") for n in range(20)))
        time.pass_(301)
        told = await asyncio.gather(
            *(one.pictures.announce_again(stuck_s=300, tries=9, limit=20, source="/s") for one in both * 2)
        )
        assert sum(told) == 20
        assert await both[0].outbox.waiting() == 20
    finally:
        for one in both:
            await one.close()


async def test_a_retry_that_is_due_goes_on_when_its_event_comes(database: Database, time: Time) -> None:
    await register(database, coming("a"))
    await database.pictures.finish([step("a", "retry_wait", delay_s=5, code="overloaded")])
    time.pass_(5)
    (again,) = await register(database, coming("a", origin=("/s", "1")))
    assert [(way.state, way.attempts, way.next_attempt_at) for way in again.ways] == [("working", 1, None)]
    assert await states(database, "a") == {SPACE: "working"}


async def test_a_bringer_who_only_leaves_it_there_does_not_take_the_work_of_another(database: Database) -> None:
    await register(database, coming("a"))
    await register(database, coming("b", sha256=digest("a"), filename="", claim=False))
    assert await states(database, "a") == {SPACE: "working"}


async def test_pictures_that_are_gone_over_as_they_are_changed_are_each_told_once(database: Database) -> None:
    """Pages of what a space lacks go by ids, whatever is indexed meanwhile."""
    await register(database, *(coming(f"p{n}") for n in range(7)))
    seen, after = [], None
    while page := await database.pictures.missing(SPACE, collection="default", after=after, limit=3):
        await database.pictures.finish([step(one.id) for one in page])
        seen += [one.id for one in page]
        after = page[-1].id
    assert seen == [f"p{n}" for n in range(7)]
    assert await database.pictures.missing(SPACE, collection="default", after=None, limit=3) == ()
