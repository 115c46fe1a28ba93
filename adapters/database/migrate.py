"""The history of the tables, run at every start: one process migrates, the others wait for it."""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from adapters.database.engine import BUSY_TIMEOUT_S, sqlite_file, translated
from modelmora.errors import DependencyUnavailable, WrongState

LOCK_TIMEOUT_S = 60.0
_ADVISORY_LOCK = 0x6D6F_64656C  # any number that no other user of the server takes: "model"
_SCRIPTS = Path(__file__).parent / "migrations"


async def migrate(engine: AsyncEngine, *, to: str = "head") -> None:
    """Brings the tables up to `to`, all or nothing; safe from any number of processes at once.

    Raises WrongState for a database of a newer ModelMora, DependencyUnavailable when it cannot be reached.
    """
    await _run(engine, lambda config: command.upgrade(config, to))


async def revert(engine: AsyncEngine, *, to: str = "base") -> None:
    """Takes the tables back to `to`, with the data of what is dropped."""
    await _run(engine, lambda config: command.downgrade(config, to))


async def _run(engine: AsyncEngine, step: Callable[[Config], None]) -> None:
    def within(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
        config.attributes["connection"] = connection
        step(config)

    with translated(engine):
        async with _alone(engine) as connection:
            try:
                await connection.run_sync(within)
            except CommandError as error:
                raise WrongState(f"the database cannot be migrated: {error}; is it a newer ModelMora's?") from error


@asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction that no other process migrates beside."""
    file = sqlite_file(engine)
    if file is None:
        async with engine.begin() as connection:
            await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S:.0f}s'"))
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            yield connection
        return
    async with _file_lock(file.with_name(f"{file.name}.lock")):
        await asyncio.to_thread(_use_wal, file)
        async with engine.begin() as connection:
            yield connection


def _use_wal(file: Path) -> None:
    """Readers beside a writer; a property of the file, changed only outside a transaction."""
    with closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT_S)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


@asynccontextmanager
async def _file_lock(path: Path) -> AsyncIterator[None]:
    with path.open("w") as file:
        try:
            async with asyncio.timeout(LOCK_TIMEOUT_S):
                while not _try_lock(file.fileno()):  # noqa: ASYNC110 - another process sets no event of ours
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise DependencyUnavailable(f"another process has been migrating the database for long: {path}") from error
        yield  # closing the file gives the lock back


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
