"""The promise of `AuditLog`, kept by every database: nothing is changed without a trace, not even the trace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from sqlalchemy import text

from adapters.database import Database, paging
from adapters.database import audit as module
from adapters.database.engine import Transactions, create_engine
from modelmora.domain.registry.audit import AuditEntry, Broken
from modelmora.domain.registry.pages import AuditQuery, Paging
from tests.registered import a_change, a_model


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    yield database
    await database.close()


async def register(database: Database, count: int) -> None:
    for number in range(count):
        change = a_change(subject=f"m-{number}", after={"row": number, "of": 1e-05, "ü": [None, 1e22]}, reason="why")
        await database.models.add(a_model(f"m-{number}"), change=change)


async def forged(url: str, *statements: str) -> None:
    """What somebody does who has the database's password."""
    engine = create_engine(url)
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(text("ALTER TABLE audit DISABLE TRIGGER audit_append_only"))
        else:
            for change in ("update", "delete"):
                await connection.execute(text(f"DROP TRIGGER audit_no_{change}"))
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


async def entries(database: Database, query: AuditQuery = AuditQuery()) -> list[AuditEntry]:  # noqa: B008 - frozen
    return list((await database.audit.entries(query)).items)


async def test_an_empty_audit_holds(database: Database) -> None:
    assert await entries(database) == []
    assert await database.audit.broken() is None


async def test_what_was_changed_since_is_told_once_each(database: Database) -> None:
    await register(database, 3)
    changed = await database.models.get("m-1")
    await database.models.change(replace(changed, row=2), change=a_change(subject="m-1"))
    assert sorted(await database.audit.subjects(after=0)) == ["m-0", "m-1", "m-2"]
    assert sorted(await database.audit.subjects(after=2)) == ["m-1", "m-2"]
    assert await database.audit.subjects(after=4) == []


async def test_a_page_ends_before_it_is_too_large(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await register(database, 4)
    one = len(json.dumps({"row": 0, "of": 1e-05, "ü": [None, 1e22]}, ensure_ascii=False).encode())
    for most, sizes in ((2 * one + 1, [2, 2]), (one - 1, [1, 1, 1, 1]), (100 * one, [4])):
        monkeypatch.setattr(paging, "MOST_BYTES", most)
        found, query = [], AuditQuery()
        while True:
            page = await database.audit.entries(query)
            found.append(len(page.items))
            if page.next_cursor is None:
                break
            query = AuditQuery(page=Paging(cursor=page.next_cursor))
        assert found == sizes


async def test_each_change_has_its_entry_in_order(database: Database) -> None:
    await register(database, 3)
    told = await entries(database)
    assert [(entry.seq, entry.change.subject) for entry in told] == [(1, "m-0"), (2, "m-1"), (3, "m-2")]
    assert told[1].change.after == {"row": 1, "of": 1e-05, "ü": [None, 1e22]}
    assert (told[1].change.before, told[1].previous) == (None, told[0].digest)
    assert await database.audit.broken() is None


async def test_the_chain_holds_whoever_writes_at_the_same_moment(database: Database, database_url: str) -> None:
    other = await Database.open(database_url)
    try:
        await asyncio.gather(
            *(
                one.models.add(a_model(f"m-{number}-{index}"), change=a_change())
                for number, one in enumerate((database, other))
                for index in range(10)
            )
        )
    finally:
        await other.close()
    assert [entry.seq for entry in await entries(database)] == list(range(1, 21))
    assert await database.audit.broken() is None


async def test_the_audit_is_read_in_strides(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRIDE", 2)
    await register(database, 5)
    assert await database.audit.broken() is None


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'bob'", "DELETE FROM audit"])
async def test_entries_cannot_be_changed_through_the_table(
    database: Database, database_url: str, statement: str
) -> None:
    await register(database, 1)
    engine = create_engine(database_url)
    with pytest.raises(Exception, match="the audit is append-only"):
        async with Transactions(engine).write() as connection:
            await connection.execute(text(statement))
    await engine.dispose()
    assert len(await entries(database)) == 1


@pytest.mark.parametrize(
    ("statements", "where"),
    [
        (["UPDATE audit SET actor = 'bob' WHERE seq = 2"], Broken(seq=2, why="changed")),
        (["""UPDATE audit SET after = '{"row": 9}' WHERE seq = 3"""], Broken(seq=3, why="changed")),
        (["UPDATE audit SET reason = '' WHERE seq = 1"], Broken(seq=1, why="changed")),
        (["DELETE FROM audit WHERE seq = 2"], Broken(seq=2, why="missing")),
        (["DELETE FROM audit WHERE seq = 4"], Broken(seq=4, why="missing")),
        (["DELETE FROM audit"], Broken(seq=1, why="missing")),
        (["DELETE FROM audit WHERE seq > 2", "UPDATE audit_heads SET seq = 2"], Broken(seq=2, why="changed")),
    ],
)
async def test_what_is_forged_shows_where(
    database: Database, database_url: str, statements: list[str], where: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRIDE", 2)
    await register(database, 4)
    await forged(database_url, *statements)
    assert await database.audit.broken() == where


@pytest.mark.parametrize(
    ("query", "seqs"),
    [
        (lambda q: replace(q, subject="m-1"), [2]),
        (lambda q: replace(q, actor="ann", action="register"), [1, 2, 3]),
        (lambda q: replace(q, actor="bob"), []),
        (lambda q: replace(q, page=Paging(descending=True)), [3, 2, 1]),
    ],
)
async def test_entries_are_found_by_what_they_tell(
    database: Database, query: Callable[[AuditQuery], AuditQuery], seqs: list[int]
) -> None:
    await register(database, 3)
    assert [entry.seq for entry in await entries(database, query(AuditQuery()))] == seqs


async def test_whoever_follows_asks_for_what_is_new(database: Database) -> None:
    assert await database.audit.head() == 0
    await register(database, 3)
    assert await database.audit.head() == 3
    assert [entry.seq for entry in await entries(database, AuditQuery(after=0))] == [1, 2, 3]
    assert [entry.seq for entry in await entries(database, AuditQuery(after=2))] == [3]
    assert await entries(database, AuditQuery(after=3)) == []
    first = await database.audit.entries(AuditQuery(after=1, page=Paging(limit=1)))
    second = await database.audit.entries(AuditQuery(after=1, page=Paging(limit=1, cursor=first.next_cursor)))
    assert [entry.seq for page in (first, second) for entry in page.items] == [2, 3]


async def test_entries_come_in_pages(database: Database) -> None:
    await register(database, 3)
    first = await database.audit.entries(AuditQuery(page=Paging(limit=2)))
    second = await database.audit.entries(AuditQuery(page=Paging(limit=2, cursor=first.next_cursor)))
    assert ([entry.seq for entry in first.items], [entry.seq for entry in second.items]) == ([1, 2], [3])
    assert second.next_cursor is None
