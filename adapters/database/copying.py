"""The port `Tables`: rows of all tables as they are at one moment, and back into an empty database of either kind."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import LargeBinary, Table, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from adapters.database import picture_tables
from adapters.database.engine import Transactions
from adapters.database.migrate import migrate, revert
from adapters.database.tables import Utc, footprints, holds, leases, metadata
from modelmora.errors import ValidationFailed, WrongState
from modelmora.ports import Row

ROWS = 500
"""So many at a time."""
_OF_PROCESSES = (leases, holds, footprints)
"""What holds for the processes and the machine that wrote it, and for nobody else."""
TABLES: Mapping[str, Table] = {one.name: one for one in metadata.sorted_tables if one not in _OF_PROCESSES}


class TablesCopied:
    """Within one transaction that sees no later writes."""

    names = tuple(TABLES)

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def rows(self, table: str) -> AsyncGenerator[Sequence[Row], None]:
        """See the port."""
        of = TABLES[table]
        found = await self._connection.stream(select(of).order_by(*of.primary_key.columns))
        async for rows in found.mappings().partitions(ROWS):
            yield [{name: _written(value) for name, value in row.items()} for row in rows]


class DatabaseTables:
    """See the port."""

    def __init__(self, engine: AsyncEngine, transactions: Transactions) -> None:
        self._engine = engine
        self._transactions = transactions

    async def revision(self) -> str:
        """See the port."""
        async with self._transactions.read() as connection:
            return str((await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one())

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[TablesCopied]:
        """See the port."""
        async with self._transactions.read() as connection:
            yield TablesCopied(connection)

    async def check_empty(self) -> None:
        """See the port."""
        async with self._transactions.read() as connection:
            await self._refuse_full(connection)

    async def fill(self, revision: str, rows: AsyncIterable[tuple[str, Sequence[Row]]]) -> None:
        """See the port."""
        await self.check_empty()
        if revision != await self.revision():
            await revert(self._engine, to=revision)  # nothing is in it
        try:
            async with self._transactions.write() as connection:
                async for name, some in rows:
                    of = _table(name)
                    if some:
                        await connection.execute(insert(of), [_read(of, row) for row in some])
                await _count_on(connection)
        finally:
            await migrate(self._engine)

    async def _refuse_full(self, connection: AsyncConnection) -> None:
        for name, table in TABLES.items():
            if (await connection.execute(select(text("1")).select_from(table).limit(1))).first() is not None:
                where = self._engine.url.render_as_string(hide_password=True)
                said = f"the database {where} is not empty: table {name} has rows"
                advice = (
                    "name a new one by MODELMORA_DATABASE_URL or MODELMORA_DATA_DIR, and restore before it is served"
                )
                raise WrongState(f"{said}; {advice}")


async def _count_on(connection: AsyncConnection) -> None:
    """Numbers that a server hands out go on behind those that were given; SQLite counts rows by itself."""
    if connection.dialect.name == "postgresql":
        table = picture_tables.outbox
        last = (await connection.execute(select(table.c.number).order_by(table.c.number.desc()).limit(1))).scalar()
        if last is not None:
            sequence = "SELECT setval(pg_get_serial_sequence('outbox', 'number'), :last)"
            await connection.execute(text(sequence), {"last": last})


def _table(name: str) -> Table:
    if name not in TABLES:
        raise ValidationFailed(f"there is no table {name[:100]!r}", field="FILE", found=name[:100])
    return TABLES[name]


def _written(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _read(table: Table, row: Row) -> dict[str, Any]:
    """Raises ValidationFailed where a value is not its column's."""
    try:
        return {name: _value(table.c[name].type, value) for name, value in row.items()}
    except (KeyError, ValueError, TypeError) as cause:
        said = f"a row of table {table.name} cannot be read: {cause}"
        raise ValidationFailed(said, field="FILE") from cause


def _value(kind: object, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, Utc):
        return datetime.fromisoformat(value)
    return base64.b64decode(value, validate=True) if isinstance(kind, LargeBinary) else value
