"""The port `RegisteredVersions`: a row a version, what it is made of, each change with its entry of the audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Select, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.audit import AuditTable
from adapters.database.clock import Clock
from adapters.database.engine import Transactions, upsert
from adapters.database.files import VersionFiles
from adapters.database.lineage import LineageTable
from adapters.database.models import name_of
from adapters.database.paging import Keyset
from adapters.database.tables import lineage as edges
from adapters.database.tables import versions as table
from adapters.database.tombstones import Tombstones
from modelmora.domain.registry.audit import Change
from modelmora.domain.registry.entries import ModelVersion
from modelmora.domain.registry.lineage import Node
from modelmora.domain.registry.pages import Page, VersionQuery
from modelmora.domain.registry.semver import SemVer, rank
from modelmora.errors import Conflict, ModelNotFound, PreconditionFailed, VersionNotFound

_CONTENT = TypeAdapter(ModelVersion)
_ORDER = {"version": table.c.rank, "created_at": table.c.created_at, "changed_at": table.c.changed_at}


class VersionsTable:
    """Versions of one tenant."""

    def __init__(
        self,
        transactions: Transactions,
        audit: AuditTable,
        lineage: LineageTable,
        *,
        tenant: str = "default",
        clock: Clock | None = None,
    ) -> None:
        self._transactions = transactions
        self._audit = audit
        self._lineage = lineage
        self._files = VersionFiles(tenant=tenant)
        self._tombstones = Tombstones(tenant=tenant, clock=clock)
        self._tenant = tenant

    async def add(self, version: ModelVersion, *, change: Change) -> None:
        """See the port."""
        async with self._audit.recording() as connection:
            await self.insert(connection, version)
            await self._audit.append(connection, change)

    async def removed(self, model: str, version: str) -> str | None:
        """See the port."""
        async with self._transactions.read() as connection:
            return await self._tombstones.source(connection, model, version)

    async def get(self, model: str, version: str) -> ModelVersion:
        """See the port."""
        named = (table.c.tenant == self._tenant) & (table.c.model == name_of(model, tenant=self._tenant))
        query = select(table.c.content).where(named, table.c.version == version)
        async with self._transactions.read() as connection:
            content = (await connection.execute(query)).scalar_one_or_none()
            if content is None:
                name = await self._find_model(connection, model)
                raise VersionNotFound(f"{name} has no version {version}", field="version", found=version)
        return _CONTENT.validate_json(content)

    async def find(self, query: VersionQuery) -> Page[ModelVersion]:
        """See the port."""
        order = Keyset(_ORDER[query.order], table.c.id, large=(table.c.content,))
        async with self._transactions.read() as connection:
            rows, cursor = await order.rows(connection, self._matching(query), query.page)
        return Page(tuple(_CONTENT.validate_json(row["content"]) for row in rows), cursor)

    async def change(self, version: ModelVersion, *, change: Change) -> None:
        """See the port."""
        async with self._audit.recording() as connection:
            await self.update(connection, version)
            await self._audit.append(connection, change)

    async def remove(self, version: ModelVersion, *, change: Change) -> None:
        """See the port."""
        async with self._audit.recording() as connection:
            gone = await connection.execute(delete(table).where(self._mine(version) & (table.c.row == version.row)))
            if not gone.rowcount:
                raise await self._changed(connection, version, expected=version.row)
            made = (edges.c.tenant == self._tenant) & (edges.c.child == version.key)
            await connection.execute(delete(edges).where(made))
            await self._tombstones.keep(connection, version)
            await self._audit.append(connection, change)

    async def insert(self, connection: AsyncConnection, version: ModelVersion) -> None:
        """Within a transaction that is recording; raises Conflict, ModelNotFound, ValidationFailed."""
        await self._find_model(connection, version.model)
        await self._tombstones.refuse_other(connection, version)
        node = Node("version", version.key)
        (await self._lineage.walk(connection, node)).refuse_circle(node, version.training.made_of)
        fixed = {"tenant": self._tenant, "id": version.id, "model": version.model, "version": version.version}
        row = {**fixed, "rank": rank(SemVer(version.version)), "created_at": version.created_at, **_row(version)}
        added = upsert(connection, table).values(**row).on_conflict_do_nothing().returning(table.c.id)
        if (await connection.execute(added)).scalar_one_or_none() is None:
            said = f"{version.key} is registered already; versions never change, take another number"
            raise Conflict(said, field="version", found=version.version)
        made_of = [
            {"tenant": self._tenant, "child": version.key, "kind": node.kind, "parent": node.name}
            for node in version.training.made_of
        ]
        if made_of:
            await connection.execute(insert(edges), made_of)
        await self._files.refer(connection, version)

    async def update(self, connection: AsyncConnection, version: ModelVersion) -> None:
        """Within a transaction that is recording; raises PreconditionFailed, VersionNotFound."""
        before = self._mine(version) & (table.c.row == version.row - 1)
        changed = await connection.execute(update(table).where(before).values(**_row(version)))
        if not changed.rowcount:
            raise await self._changed(connection, version, expected=version.row - 1)
        if version.declared is not None or not version.objects:  # else its files are those that it was registered with
            await self._files.refer(connection, version)

    def _matching(self, query: VersionQuery) -> Select[Any]:
        statement = select(table).where(table.c.tenant == self._tenant)
        if query.model is not None:
            statement = statement.where(table.c.model == name_of(query.model, tenant=self._tenant))
        for name in ("state", "provider", "artifact", "declared"):
            if (value := getattr(query, name)) is not None:
                statement = statement.where(table.c[name] == value)
        return statement

    def _mine(self, version: ModelVersion) -> ColumnElement[bool]:
        return (table.c.tenant == self._tenant) & (table.c.id == version.id)

    async def _find_model(self, connection: AsyncConnection, ref: str) -> str:
        """Its name; raises ModelNotFound."""
        found: str | None = (await connection.execute(select(name_of(ref, tenant=self._tenant)))).scalar_one_or_none()
        if found is None:
            raise ModelNotFound(f"no model {ref!r} is registered", field="model", found=ref)
        return found

    async def _changed(
        self, connection: AsyncConnection, version: ModelVersion, *, expected: int
    ) -> VersionNotFound | PreconditionFailed:
        found = (await connection.execute(select(table.c.row).where(self._mine(version)))).scalar_one_or_none()
        if found is None:
            said = f"{version.key} is not registered any more"
            return VersionNotFound(said, field="version", found=version.version)
        said = f"{version.key} was changed meanwhile; read it again"
        return PreconditionFailed(said, field="row", found=str(found), expected=str(expected))


def _row(version: ModelVersion) -> Mapping[str, Any]:
    """What may change."""
    return {
        "state": version.state,
        "provider": version.running.provider,
        "artifact": version.kept_as,
        "declared": version.declared,
        "content": _CONTENT.dump_json(version).decode(),
        "changed_at": version.changed_at,
        "row": version.row,
    }
