"""Numbers of versions that were removed: nobody registers them again; what is declared comes back with its source."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.clock import Clock, now
from adapters.database.engine import upsert
from adapters.database.tables import tombstones as table
from modelmora.domain.registry.entries import ModelVersion
from modelmora.errors import Conflict


class Tombstones:
    """A row a removed version, of one tenant; it stays, whatever becomes of the model."""

    def __init__(self, *, tenant: str = "default", clock: Clock | None = None) -> None:
        self._tenant = tenant
        self._clock = clock

    async def keep(self, connection: AsyncConnection, version: ModelVersion) -> None:
        """Of a version that is being removed."""
        told = {"source": version.source, "removed_at": await now(connection, self._clock)}
        row = {"tenant": self._tenant, "model": version.model, "version": version.version, **told}
        statement = upsert(connection, table).values(**row)
        await connection.execute(statement.on_conflict_do_update(index_elements=table.primary_key.columns, set_=told))

    async def source(self, connection: AsyncConnection, model: str, version: str) -> str | None:
        """What a removed version consisted of; None where none of that number was removed."""
        named = (table.c.tenant == self._tenant) & (table.c.model == model)
        query = select(table.c.source).where(named, table.c.version == version)
        found: str | None = (await connection.execute(query)).scalar_one_or_none()
        return found

    async def refuse_other(self, connection: AsyncConnection, version: ModelVersion) -> None:
        """Raises Conflict for a version that was removed, but for one that is declared as it was.

        What remembers the number means what it had, and that is more than its files: how it is run, for one.
        """
        source = await self.source(connection, version.model, version.version)
        if source is not None and (version.declared is None or source != version.source):
            said = f"{version.key} was removed; take another number"
            raise Conflict(said, field="version", found=version.source[:80], expected=source[:80])
