"""The promise of `RegisteredTogether`, kept by every database: all of it or nothing, trace and all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from adapters.database import Database
from modelmora.domain.registry.pages import AuditQuery
from modelmora.errors import Conflict, ModelMoraError, ModelNotFound, PreconditionFailed, VersionNotFound
from modelmora.ports import Write
from tests.registered import a_change, a_model, a_version, later


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    yield database
    await database.close()


async def actions(database: Database) -> list[str]:
    assert await database.audit.broken() is None
    return [entry.change.action for entry in (await database.audit.entries(AuditQuery())).items]


BOTH = [Write(entry=a_model(), change=a_change("one")), Write(entry=a_version(), change=a_change("two"))]


async def test_what_is_written_together_is_there_together(database: Database) -> None:
    await database.together.write(BOTH)
    assert await database.models.get("birds") == a_model()
    assert await database.versions.get("birds", "1.0.0") == a_version()
    assert await actions(database) == ["one", "two"]


async def test_one_entry_is_moved_twice(database: Database) -> None:
    await database.together.write(BOTH)
    validated = a_version().moved("validate", at=later(1))
    approved = validated.moved("approve", at=later(1))
    steps = [Write(entry=one, change=a_change(one.state)) for one in (validated, approved)]
    await database.together.write(steps)
    assert await database.versions.get("birds", "1.0.0") == approved
    assert await actions(database) == ["one", "two", "validated", "approved"]


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (replace(a_model(), row=7), PreconditionFailed),
        (replace(a_version(), row=7), PreconditionFailed),
        (replace(a_version(), id="other"), Conflict),
        (a_version("2.0.0", model="fish"), ModelNotFound),
        (replace(a_version("3.0.0"), row=2), VersionNotFound),
    ],
)
async def test_where_the_last_fails_nothing_was(database: Database, last: object, error: type[ModelMoraError]) -> None:
    await database.together.write(BOTH)
    owned = replace(a_model(), owner="bob", row=2)
    with pytest.raises(error):
        await database.together.write(
            [Write(entry=owned, change=a_change("three")), Write(entry=last, change=a_change("four"))]  # type: ignore[arg-type] # either
        )
    assert await database.models.get("birds") == a_model()
    assert await actions(database) == ["one", "two"]


async def test_those_who_write_the_same_rows_in_another_order_do_not_wait_for_each_other(
    database: Database, database_url: str
) -> None:
    """Of as many as there are, one a round gets through; the rest read anew."""
    names = ["a", "b", "c"]
    await database.together.write([Write(entry=a_model(name), change=a_change()) for name in names])
    other = await Database.open(database_url)

    async def amend(one: Database, order: list[str], owner: str) -> None:
        while True:
            rows = [await one.models.get(name) for name in order]
            changed = [replace(row, owner=owner, row=row.row + 1) for row in rows]
            try:
                await one.together.write([Write(entry=row, change=a_change(owner)) for row in changed])
            except PreconditionFailed:
                continue
            return

    try:
        async with asyncio.timeout(60):
            await asyncio.gather(
                *(
                    amend(one, names[:: 1 - 2 * (number % 2)], str(number))
                    for number, one in enumerate([database, other] * 5)
                )
            )
    finally:
        await other.close()
    rows = [await database.models.get(name) for name in names]
    assert {row.row for row in rows} == {11}
    assert len({row.owner for row in rows}) == 1
    assert len(await actions(database)) == 33
