"""What refers to objects: the files of versions."""

from __future__ import annotations

from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.tables import version_files as table
from modelmora.domain.registry.entries import ModelVersion


class VersionFiles:
    """A row a version and digest, of one tenant; written with the version itself."""

    def __init__(self, *, tenant: str = "default") -> None:
        self._tenant = tenant

    async def refer(self, connection: AsyncConnection, version: ModelVersion) -> None:
        """Exactly to what the version consists of now; one that was purged consists of nothing."""
        mine = (table.c.tenant == self._tenant) & (table.c.version_id == version.id)
        await connection.execute(delete(table).where(mine))
        rows = [{"tenant": self._tenant, "version_id": version.id, "sha256": sha256} for sha256 in version.objects]
        if rows:
            await connection.execute(insert(table), rows)
