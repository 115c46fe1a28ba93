"""The SQLAlchemy engine, and transactions whose failures are ours."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from asyncpg import PostgresError
from sqlalchemy import Connection, Table, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from modelmora.errors import DependencyUnavailable, ValidationFailed

BUSY_TIMEOUT_S = 10
"""How long an SQLite writer waits for another's transaction, and for another process's."""
_BEGIN = "modelmora_begin"
_DEFECTS = (DataError, IntegrityError, NotSupportedError, ProgrammingError)
"""Statements of ours that are wrong, which no waiting mends."""


def create_engine(url: str) -> AsyncEngine:
    """An engine for `sqlite+aiosqlite:///FILE` or `postgresql+asyncpg://...`; connects to nothing yet.

    Raises ValidationFailed for any other URL.
    """
    parsed = _parse(url)
    if parsed.drivername == "sqlite+aiosqlite":
        return _sqlite(parsed)
    return create_async_engine(
        parsed,
        pool_size=5,
        max_overflow=5,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={"timeout": 10, "command_timeout": 60},
    )


def sqlite_file(engine: AsyncEngine) -> Path | None:
    """The file behind the engine; None for a server."""
    return Path(engine.url.database or "") if engine.dialect.name == "sqlite" else None


def upsert(connection: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that takes ON CONFLICT, in the dialect at hand."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


class Transactions:
    """Units of work: what one `async with` writes is kept whole or not at all."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._writing = engine
        # SQLite has one writer at a time, and lets those who wait look again now and then: some wait for seconds while
        # others pass them. Those of one process stand in line instead.
        self._line = asyncio.Lock() if engine.dialect.name == "sqlite" else None
        # All that is read in one transaction is of one moment, as it is on SQLite.
        of_one_moment = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
        self._reading = engine.execution_options(**{_BEGIN: "BEGIN DEFERRED"}, **of_one_moment)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Committed at the end, rolled back on any error; raises DependencyUnavailable."""
        with translated(self._writing):
            async with self._turn(), self._writing.begin() as connection:
                yield connection

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """First come, first served; raises TimeoutError."""
        if self._line is None:
            yield
            return
        try:
            async with asyncio.timeout(BUSY_TIMEOUT_S):
                await self._line.acquire()
        except TimeoutError as late:
            raise TimeoutError(f"more is to be written than it takes within {BUSY_TIMEOUT_S} s") from late
        try:
            yield
        finally:
            self._line.release()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that holds no write lock; raises DependencyUnavailable."""
        with translated(self._reading):
            async with self._reading.connect() as connection:
                yield connection


@contextmanager
def translated(engine: AsyncEngine) -> Iterator[None]:
    """Foreign failures of the database become DependencyUnavailable, which names it without its password."""
    try:
        yield
    except _DEFECTS:
        raise
    except (DBAPIError, PoolTimeout, PostgresError, sqlite3.Error, OSError) as error:
        raise _unavailable(engine, error) from error


def _unavailable(engine: AsyncEngine, error: Exception) -> DependencyUnavailable:
    reason = getattr(error, "orig", None) or error
    where = engine.url.render_as_string(hide_password=True)
    return DependencyUnavailable(
        f"the database {where} does not answer: {reason}; MODELMORA_DATABASE_URL names it", retry_after_s=1.0
    )


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValidationFailed("the database URL cannot be read", field="MODELMORA_DATABASE_URL") from error
    if parsed.drivername not in {"sqlite+aiosqlite", "postgresql+asyncpg"}:
        raise ValidationFailed(
            "the database is neither SQLite nor PostgreSQL",
            field="MODELMORA_DATABASE_URL",
            found=parsed.drivername,
            expected="sqlite+aiosqlite:////absolute/path.db or postgresql+asyncpg://user:password@host:port/name",
        )
    return parsed


def _sqlite(url: URL) -> AsyncEngine:
    engine = create_async_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine.sync_engine, "connect", _on_connect)
    event.listen(engine.sync_engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin its own, deferred transactions
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute(
        "PRAGMA synchronous = NORMAL"
    )  # durable enough under WAL: a crash of the machine loses the last commits
    cursor.close()


def _on_begin(connection: Connection) -> None:
    """Writers queue up for the lock at once; upgrading a read lock later would fail instead of waiting."""
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN IMMEDIATE"))
