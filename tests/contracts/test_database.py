"""A database as a whole: how it is opened, what is said when it does not answer."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from pathlib import Path

import asyncpg
import pytest

from adapters.database import Database
from adapters.database.engine import Transactions, create_engine
from modelmora.errors import DependencyUnavailable, ValidationFailed
from tests.support import reserve_port


async def test_ping_tells_milliseconds(database_url: str) -> None:
    database = await Database.open(database_url)
    try:
        assert 0 < await database.ping() < 10_000
    finally:
        await database.close()


async def test_an_sqlite_file_and_its_folder_are_made_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "Application Support" / "modelmora"
    database = await Database.open(f"sqlite+aiosqlite:///{folder}/modelmora.db")
    await database.close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with sqlite3.connect(folder / "modelmora.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_reader_is_not_held_up_by_a_writer_in_sqlite(tmp_path: Path) -> None:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path}/modelmora.db")
    writer = sqlite3.connect(tmp_path / "modelmora.db", isolation_level=None)
    try:
        writer.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(5):  # far less than the time a writer would wait
            assert list(await database.desired.all()) == []
    finally:
        writer.close()
        await database.close()


async def test_writers_of_one_process_come_in_the_order_in_which_they_asked(tmp_path: Path) -> None:
    """SQLite's own waiting lets some pass others, for seconds."""
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/modelmora.db")
    transactions, came = Transactions(engine), list[int]()

    async def write(number: int) -> None:
        async with transactions.write() as connection:
            await connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS numbers (n INTEGER)")
            await connection.exec_driver_sql("INSERT INTO numbers VALUES (?)", (number,))
            await asyncio.sleep(0.005)
        came.append(number)

    try:
        await asyncio.gather(*(write(number) for number in range(40)))
    finally:
        await engine.dispose()
    assert came == list(range(40))


async def test_a_writer_that_never_comes_to_its_turn_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/modelmora.db")
    transactions = Transactions(engine)
    monkeypatch.setattr("adapters.database.engine.BUSY_TIMEOUT_S", 0.1)
    try:
        async with transactions.write():
            with pytest.raises(DependencyUnavailable, match=r"more is to be written than it takes within 0\.1 s"):
                async with transactions.write():
                    pytest.fail("it is another's turn")
        async with transactions.write():
            pass
    finally:
        await engine.dispose()


async def test_a_file_that_is_no_database_is_dependency_unavailable(tmp_path: Path) -> None:
    (tmp_path / "modelmora.db").write_bytes(b"not a database, " * 100)
    with pytest.raises(DependencyUnavailable, match=r"modelmora\.db does not answer: file is not a database"):
        await Database.open(f"sqlite+aiosqlite:///{tmp_path}/modelmora.db")


async def test_a_folder_that_cannot_be_made_is_dependency_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DependencyUnavailable, match="MODELMORA_DATABASE_URL"):
        await Database.open(f"sqlite+aiosqlite:///{tmp_path}/file/modelmora.db")


async def test_a_server_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(DependencyUnavailable) as caught:
        await Database.open(f"postgresql+asyncpg://me:secret@127.0.0.1:{reserve_port()}/modelmora")
    assert "me:***@127.0.0.1" in caught.value.detail
    assert "secret" not in caught.value.detail


async def test_a_database_that_the_server_does_not_have_is_dependency_unavailable(postgres: str) -> None:
    with pytest.raises(DependencyUnavailable, match='"nowhere" does not exist'):
        await Database.open(f"postgresql+asyncpg://{postgres}/nowhere")


@pytest.mark.parametrize("url", ["mysql://h/db", "sqlite:////tmp/x.db", "no url"])
def test_other_databases_are_not_taken(url: str) -> None:
    with pytest.raises(ValidationFailed):
        create_engine(url)


async def cut_off(url: str, *, admit: bool) -> None:
    """Ends every connection to the database; with `admit` false no new ones are taken."""
    server, _, name = url.removeprefix("postgresql+asyncpg://").partition("/")
    connection = await asyncpg.connect(f"postgresql://{server}/postgres")
    try:
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {admit}")
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    finally:
        await connection.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_server_that_comes_back_is_used_again(database_url: str) -> None:
    database = await Database.open(database_url)
    try:
        await database.desired.set("clip", "1.0.0", "loaded")
        await cut_off(database_url, admit=True)
        assert len(await database.desired.all()) == 1
        await cut_off(database_url, admit=False)
        for attempt in (database.desired.all(), database.leases.acquire("sweep", "a", ttl_s=10), database.ping()):
            with pytest.raises(DependencyUnavailable, match="does not answer"):
                await attempt
        await cut_off(database_url, admit=True)
        assert await database.leases.acquire("sweep", "a", ttl_s=10) == 1
    finally:
        await database.close()


async def test_a_writer_that_never_ends_is_dependency_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.database.engine.BUSY_TIMEOUT_S", 0.1)
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path}/modelmora.db")
    writer = sqlite3.connect(tmp_path / "modelmora.db", isolation_level=None)
    try:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(DependencyUnavailable, match="database is locked"):
            await database.desired.set("clip", "1.0.0", "loaded")
    finally:
        writer.close()
    assert (await database.desired.set("clip", "1.0.0", "loaded")).generation == 1
    await database.close()
