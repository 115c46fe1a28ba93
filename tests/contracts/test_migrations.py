"""The history of the tables, on every database."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Inspector, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.database.engine import create_engine
from adapters.database.migrate import migrate, revert
from adapters.database.tables import metadata
from modelmora.errors import WrongState

FIRST = {"desired_models", "footprints", "leases"}
REGISTRY = {
    "models",
    "model_tags",
    "versions",
    "version_files",
    "tombstones",
    "lineage",
    "holds",
    "audit",
    "audit_heads",
    "idempotency",
}
PICTURES = {"pictures", "picture_tags", "ways", "outbox", "inbox", "dead_letters", "indexes"}
TABLES = FIRST | REGISTRY | PICTURES


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


async def tables(engine: AsyncEngine) -> set[str]:
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    return set(names) - {"alembic_version"}


async def test_from_empty_up_and_down_and_up_again(engine: AsyncEngine) -> None:
    assert await tables(engine) == set()
    await migrate(engine)
    assert await tables(engine) == TABLES
    await revert(engine)
    assert await tables(engine) == set()
    await migrate(engine)
    assert await tables(engine) == TABLES


async def test_from_the_earlier_head_up_and_back_with_what_was_in_it(engine: AsyncEngine) -> None:
    await migrate(engine, to="0001")
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO desired_models VALUES ('t', 'a', '1.0.0', 'loaded', 7, '2030-01-01')")
        )
    await migrate(engine)
    assert await tables(engine) == TABLES
    await revert(engine, to="0001")
    assert await tables(engine) == FIRST
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT generation FROM desired_models"))).scalar_one() == 7


async def test_migrating_what_is_migrated_changes_nothing(engine: AsyncEngine) -> None:
    await migrate(engine)
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO desired_models VALUES ('t', 'a', '1.0.0', 'loaded', 7, '2030-01-01')")
        )
    await migrate(engine)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT generation FROM desired_models"))).scalar_one() == 7


async def test_the_history_ends_at_the_tables_as_declared(engine: AsyncEngine) -> None:
    def differences(connection: Connection) -> Any:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_server_default": True}), metadata)

    await migrate(engine)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_every_row_has_a_tenant_from_the_first_migration_on(engine: AsyncEngine) -> None:
    def tenants(connection: Connection) -> dict[str, tuple[bool, str]]:
        inspector: Inspector = inspect(connection)
        there = inspector.get_table_names()
        columns = {
            name: {each["name"]: each for each in inspector.get_columns(name)} for name in TABLES if name in there
        }
        return {name: (each["tenant"]["nullable"], str(each["tenant"]["default"])) for name, each in columns.items()}

    for revision in ("0001", "head"):
        await migrate(engine, to=revision)
        async with engine.connect() as connection:
            for nullable, default in (await connection.run_sync(tenants)).values():
                assert not nullable
                assert default.split("::")[0] == "'default'"


async def test_a_wish_that_is_neither_loaded_nor_unloaded_is_refused_by_the_table(engine: AsyncEngine) -> None:
    await migrate(engine)
    with pytest.raises(Exception, match="ck_desired_models_wanted"):
        async with engine.begin() as connection:
            await connection.execute(
                text("INSERT INTO desired_models VALUES ('t', 'a', '1.0.0', 'maybe', 1, '2030-01-01')")
            )


OPEN_AND_WRITE = """
import asyncio, sys
from adapters.database import Database

async def main():
    database = await Database.open(sys.argv[1])
    print((await database.desired.set("clip", "1.0.0", "loaded")).generation)
    await database.close()

asyncio.run(main())
"""


async def test_four_processes_that_start_at_once_migrate_once(database_url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", OPEN_AND_WRITE, database_url]
    pipe = asyncio.subprocess.PIPE
    started = [await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe) for _ in range(4)]
    ended = await asyncio.gather(*(process.communicate() for process in started))
    assert [process.returncode for process in started] == [0] * 4, [errors.decode() for _, errors in ended]
    assert sorted(int(output) for output, _ in ended) == [1, 2, 3, 4]


async def test_a_step_that_fails_leaves_nothing_behind(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:  # in the way of the last table that the first migration makes
        await connection.execute(text("CREATE TABLE leases (other INTEGER)"))
    with pytest.raises(Exception, match="leases"):
        await migrate(engine)
    assert await tables(engine) == {"leases"}


async def test_a_database_of_a_newer_version_is_refused_in_a_sentence(engine: AsyncEngine) -> None:
    await migrate(engine)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(WrongState, match=r"9999.*newer ModelMora"):
        await migrate(engine)
