"""The port `RegisteredTogether`: several rows and their entries of the audit in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.database.audit import AuditTable
from adapters.database.models import ModelsTable
from adapters.database.versions import VersionsTable
from modelmora.domain.registry.entries import ModelVersion
from modelmora.ports import Write


class TogetherTables:
    """Over both tables."""

    def __init__(self, models: ModelsTable, versions: VersionsTable, audit: AuditTable) -> None:
        self._models = models
        self._versions = versions
        self._audit = audit

    async def write(self, writes: Sequence[Write]) -> None:
        """See the port."""
        async with self._audit.recording() as connection:
            for one in writes:
                entry, new = one.entry, one.entry.row == 1
                match entry:
                    case ModelVersion():
                        await (self._versions.insert if new else self._versions.update)(connection, entry)
                    case _:
                        await (self._models.insert if new else self._models.update)(connection, entry)
                await self._audit.append(connection, one.change)
