"""The port `Holds`: which objects must stay and which are going."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, exists, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.clock import Clock, now
from adapters.database.engine import Transactions, upsert
from adapters.database.tables import holds as table
from adapters.database.tables import version_files as files
from adapters.database.tables import versions
from modelmora.errors import Conflict

STRIDE = 500
"""So many objects are in one statement: databases bound what it may hold."""
CONDEMNED = "!"
"""How the holder of what is condemned begins; nobody else's does."""
_LOCK = 0x686F_6C64_73  # any number that no other user of the server takes: "holds"


class HoldsTable:
    """A row an object and holder. Tenants share the store, and heed each other's."""

    def __init__(self, transactions: Transactions, *, tenant: str = "default", clock: Clock | None = None) -> None:
        self._transactions = transactions
        self._tenant = tenant
        self._clock = clock

    async def hold(self, holder: str, digests: Collection[str], *, ttl_s: float) -> None:
        """See the port."""
        async with self._alone() as (connection, time):
            condemned = await self._held(connection, digests, time, going=True)
            if condemned:
                said = f"{len(condemned)} of the files are being removed, as nothing referred to them; bring them again"
                raise Conflict(said, field="files.sha256", found=min(condemned), retry_after_s=1.0)
            await self._write(connection, holder, digests, until=time + timedelta(seconds=ttl_s))

    async def let_go(self, holder: str) -> None:
        """See the port."""
        async with self._alone() as (connection, _):
            await connection.execute(delete(table).where(table.c.tenant == self._tenant, table.c.holder == holder))

    async def condemn(self, digests: Collection[str], *, ttl_s: float, by: str = "") -> Collection[str]:
        """See the port; what has expired goes on the way."""
        async with self._alone() as (connection, time):
            await connection.execute(delete(table).where(table.c.expires_at <= time))
            # Held first: who lets go has its version kept by then.
            free = set(digests) - await self._held(connection, digests, time, going=False)
            free -= await _found(connection, select(files.c.sha256).distinct(), files.c.sha256, free)
            await self._write(connection, CONDEMNED + by, free, until=time + timedelta(seconds=ttl_s))
        return sorted(free)

    async def condemned(self, digests: Collection[str]) -> Collection[str]:
        """See the port."""
        async with self._transactions.read() as connection:
            return await self._held(connection, digests, await now(connection, self._clock), going=True)

    async def spare(self, digests: Collection[str], *, by: str = "") -> None:
        """See the port."""
        async with self._alone() as (connection, _):
            for some in _strides(digests):
                mine = (table.c.holder == CONDEMNED + by) & table.c.sha256.in_(some)
                await connection.execute(delete(table).where(mine))

    async def unlisted(self) -> Collection[str]:
        """See the port: versions that refer to nothing but the list of their files."""
        listed = exists().where(
            files.c.tenant == versions.c.tenant,
            files.c.version_id == versions.c.id,
            files.c.sha256 != versions.c.artifact,
        )
        query = select(versions.c.artifact).distinct()
        query = query.where(versions.c.declared.is_not(None), versions.c.artifact.is_not(None), ~listed)
        query = query.where(versions.c.state != "purged")
        async with self._transactions.read() as connection:
            return sorted((await connection.execute(query)).scalars())

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[tuple[AsyncConnection, datetime]]:
        """A transaction beside which nobody changes what is held, and the time."""
        async with self._transactions.write() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield connection, await now(connection, self._clock)

    async def _held(
        self, connection: AsyncConnection, digests: Iterable[str], time: datetime, *, going: bool
    ) -> set[str]:
        """Those that are condemned, or those that somebody needs."""
        going_too = table.c.holder.startswith(CONDEMNED)
        whose = going_too if going else ~going_too
        query = select(table.c.sha256).distinct().where(whose, table.c.expires_at > time)
        return await _found(connection, query, table.c.sha256, digests)

    async def _write(
        self, connection: AsyncConnection, holder: str, digests: Iterable[str], *, until: datetime
    ) -> None:
        for some in _strides(digests):
            rows = [{"tenant": self._tenant, "sha256": one, "holder": holder, "expires_at": until} for one in some]
            statement = upsert(connection, table)
            renewed = {"expires_at": statement.excluded.expires_at}
            keys = table.primary_key.columns
            await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=renewed), rows)


async def _found(connection: AsyncConnection, query: Select[Any], column: Any, digests: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for some in _strides(digests):
        found |= set((await connection.execute(query.where(column.in_(some)))).scalars())
    return found


def _strides(digests: Iterable[str]) -> Iterator[list[str]]:
    """In one order for everybody, so that no two wait for each other."""
    waiting = sorted(set(digests))
    for start in range(0, len(waiting), STRIDE):
        yield waiting[start : start + STRIDE]
