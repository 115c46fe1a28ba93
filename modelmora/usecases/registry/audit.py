"""The audit, read and checked."""

from __future__ import annotations

from dataclasses import dataclass

from modelmora.domain.registry.audit import AuditEntry, Broken
from modelmora.domain.registry.pages import AuditQuery, Page
from modelmora.ports import AuditLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """How many entries the audit has, and where its chain breaks first."""

    entries: int
    broken: Broken | None

    @property
    def intact(self) -> bool:
        return self.broken is None


class RegistryAudit:
    """What was done, by whom, and whether that is still what was written."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def entries(self, query: AuditQuery) -> Page[AuditEntry]:
        """Raises ValidationFailed for a cursor of another order."""
        return await self._log.entries(query)

    async def verify(self) -> Verified:
        """Reads all of it."""
        entries = await self._log.head()  # before: what is written meanwhile is not counted
        return Verified(entries=entries, broken=await self._log.broken())
