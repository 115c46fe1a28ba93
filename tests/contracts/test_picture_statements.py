"""What the records of pictures ask of a database: as much for many as for one, and nothing that reads a whole table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from adapters.database import Database
from modelmora.domain.events.images import registered
from modelmora.domain.pictures.way import Step
from modelmora.ports import PictureQuery
from tests.pictures import SPACE, START, Time, coming, digest, picture, step

MANY = 32


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def database(database_url: str, time: Time) -> AsyncIterator[Database]:
    opened = await Database.open(database_url, clock=time)
    yield opened
    await opened.close()


@contextmanager
def asked(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """The statements, with what they were given."""
    found: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, given: Any, *_: object) -> None:
        found.append((statement, given))

    engine = database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


def names(start: str, count: int) -> list[str]:
    return [f"{start}{number}" for number in range(count)]


def done(name: str, state: str = "indexed", **told: Any) -> Step:
    event_ = registered(picture(name), source="/x", id_=name, time=START, topic="modelmora.images")
    return step(name, state, event=event_, **told)


Work = Callable[[list[str]], Awaitable[object]]


async def test_many_pictures_take_as_many_statements_as_one(database: Database, time: Time) -> None:
    records, letters = database.pictures, database.dead_letters

    async def replayed(_: list[str]) -> None:
        await letters.replay([one.id for one in (await letters.find()).items], source="/x")

    def again(seconds: float) -> Work:
        async def announced(_: list[str]) -> None:
            time.pass_(seconds)
            await records.announce_again(stuck_s=300, tries=3, limit=100, source="/x")

        return announced

    async def relayed(_: list[str]) -> None:
        await database.outbox.carried([one.number for one in await database.outbox.due(limit=500)])

    tagged: dict[str, Any] = {"tags": ("a", "b"), "metadata": {"k": 1}}
    works: dict[str, Work] = {
        "register": lambda all_: records.register([coming(n, announce="/x", **tagged) for n in all_]),
        "relay": relayed,
        "finish": lambda all_: records.finish([done(n) for n in all_]),
        "duplicates": lambda all_: records.register([coming(f"d{n}", sha256=digest(n), tags=("c",)) for n in all_]),
        "put off": lambda all_: records.finish([done(n, "retry_wait", seq=2, delay_s=1) for n in all_]),
        "announce again": again(2),
        "take again": lambda all_: records.register([coming(n, origin=("/x", n)) for n in all_]),
        "give up": lambda all_: records.finish([done(n, "dead", seq=2) for n in all_]),
        "replay": replayed,
        "remove": lambda all_: records.remove(all_, source="/x"),
    }
    counts: list[dict[str, int]] = []
    for chunk in (names("one", 1), names("many", MANY)):
        counts.append({})
        for name, work in works.items():
            with asked(database) as statements:
                await work(chunk)
            counts[-1][name] = len(statements)
    assert counts[0] == counts[1]
    assert max(counts[0].values()) <= 16


async def fill(database: Database) -> None:
    await database.pictures.register([coming(n, announce="/x", tags=("t",)) for n in names("p", 50)])
    await database.pictures.finish([done(n, "retry_wait") for n in names("p", 10)])
    await database.pictures.finish([done(n, "dead") for n in names("p1", 10)])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_question_reads_a_whole_table(database: Database, time: Time) -> None:
    """SQLite plans by the indices alone, which a small table shows as well; PostgreSQL by what it has counted."""
    await fill(database)
    records = database.pictures
    with asked(database) as statements:
        await records.register([coming("p1", seq=2), coming("x", sha256=digest("p2"), tags=("u",), origin=("/s", "1"))])
        await records.finish([done("p3"), done("p4", "dead")])
        for state in ("registered", "embedding", "indexed", "retrying", "failed", "deleted"):
            await records.find(PictureQuery(state=state))
        query = PictureQuery(collection="c", any_tags=("t",), sha256=digest("p5"), created_before=START)
        await records.find(query)
        await records.missing(SPACE, collection="default", after="p1", limit=10)
        await records.used(digest("p5"))
        await records.expired(limit=10)
        await records.count(collection="default")
        await records.remove(["p6"], source="/x")
        time.pass_(1_000)
        await records.announce_again(stuck_s=300, tries=3, limit=10, source="/x")
        letters = (await database.dead_letters.find(code="internal")).items
        await database.dead_letters.replay([one.id for one in letters], source="/x")
        await database.outbox.carried([one.number for one in await database.outbox.due(limit=10)])
    through = {step for statement, given in statements for step in await plan(database, statement, given)}
    assert through == {
        "SCAN outbox",  # in the order of its numbers, a page at a time
        "SEARCH pictures USING INDEX ix_pictures_created (tenant=?)",  # in their order, a page at a time
        "SEARCH dead_letters USING INDEX ix_dead_letters_failed (tenant=?)",  # likewise
    }


async def plan(database: Database, statement: str, given: Any) -> list[str]:
    """The steps of it that go through a table or an index, or through all of a tenant's."""
    if statement.startswith(("INSERT", "BEGIN")):
        return []
    one = given[0] if isinstance(given, list) else given
    async with database._engine.connect() as connection:
        rows = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", one)
        steps = [str(row[-1]) for row in rows]
    return [
        each
        for each in steps
        if each.endswith("(tenant=?)") or (each.startswith("SCAN") and not each.startswith(("SCAN (", "SCAN CONSTANT")))
    ]
