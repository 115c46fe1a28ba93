"""The port `RegisteredVersions`: a row a version, what it is made of, each change with its entry of the audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Select, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.audit import AuditTable
from adapters.database.engine import Transactions, upsert
from adapters.database.paging import Keyset
from adapters.database.tables import lineage as edges
from adapters.database.tables import models
from adapters.database.tables import versions as table
from modelmora.domain.registry.audit import Change
from modelmora.domain.registry.entries import ModelVersion
from modelmora.domain.registry.pages import Page, VersionQuery
from modelmora.domain.registry.semver import SemVer, rank
from modelmora.errors import Conflict, ModelNotFound, PreconditionFailed, VersionNotFound

_CONTENT = TypeAdapter(ModelVersion)
_ORDER = {"version": table.c.rank, "created_at": table.c.created_at, "changed_at": table.c.changed_at}


class VersionsTable:
    """Versions of one tenant."""

    def __init__(self, transactions: Transactions, audit: AuditTable, *, tenant: str = "default") -> None:
        self._transactions = transactions
        self._audit = audit
        self._tenant = tenant

    async def add(self, version: ModelVersion, *, change: Change) -> None:
        """See the port."""
        async with self._transactions.write() as connection:
            await self._find_model(connection, version.model)
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
            await self._audit.append(connection, change)

    async def get(self, model: str, version: str) -> ModelVersion:
        """See the port."""
        named = (table.c.tenant == self._tenant) & (table.c.model == model) & (table.c.version == version)
        async with self._transactions.read() as connection:
            content = (await connection.execute(select(table.c.content).where(named))).scalar_one_or_none()
            if content is None:
                await self._find_model(connection, model)
                raise VersionNotFound(f"{model} has no version {version}", field="version", found=version)
        return _CONTENT.validate_json(content)

    async def find(self, query: VersionQuery) -> Page[ModelVersion]:
        """See the port."""
        order = Keyset(_ORDER[query.order], table.c.id)
        async with self._transactions.read() as connection:
            rows, cursor = await order.rows(connection, self._matching(query), query.page)
        return Page(tuple(_CONTENT.validate_json(row["content"]) for row in rows), cursor)

    async def change(self, version: ModelVersion, *, change: Change) -> None:
        """See the port."""
        before = self._mine(version) & (table.c.row == version.row - 1)
        async with self._transactions.write() as connection:
            changed = await connection.execute(update(table).where(before).values(**_row(version)))
            if not changed.rowcount:
                raise await self._changed(connection, version, expected=version.row - 1)
            await self._audit.append(connection, change)

    async def remove(self, version: ModelVersion, *, change: Change) -> None:
        """See the port."""
        async with self._transactions.write() as connection:
            gone = await connection.execute(delete(table).where(self._mine(version) & (table.c.row == version.row)))
            if not gone.rowcount:
                raise await self._changed(connection, version, expected=version.row)
            made = (edges.c.tenant == self._tenant) & (edges.c.child == version.key)
            await connection.execute(delete(edges).where(made))
            await self._audit.append(connection, change)

    def _matching(self, query: VersionQuery) -> Select[Any]:
        statement = select(table).where(table.c.tenant == self._tenant)
        for name in ("model", "state", "provider", "artifact"):
            if (value := getattr(query, name)) is not None:
                statement = statement.where(table.c[name] == value)
        return statement

    def _mine(self, version: ModelVersion) -> ColumnElement[bool]:
        return (table.c.tenant == self._tenant) & (table.c.id == version.id)

    async def _find_model(self, connection: AsyncConnection, name: str) -> None:
        """Raises ModelNotFound."""
        named = (models.c.tenant == self._tenant) & (models.c.name == name)
        if (await connection.execute(select(models.c.id).where(named))).first() is None:
            raise ModelNotFound(f"no model {name!r} is registered", field="model", found=name)

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
        "artifact": version.artifact.sha256,
        "content": _CONTENT.dump_json(version).decode(),
        "changed_at": version.changed_at,
        "row": version.row,
    }
