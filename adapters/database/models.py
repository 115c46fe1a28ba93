"""The port `RegisteredModels`: a row a model, its tags beside it, each change with its entry of the audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ScalarSelect, Select, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.audit import AuditTable
from adapters.database.engine import Transactions, upsert
from adapters.database.paging import Keyset, Row
from adapters.database.tables import model_tags as tags
from adapters.database.tables import models as table
from modelmora.domain.registry.audit import Change
from modelmora.domain.registry.entries import Model
from modelmora.domain.registry.pages import ModelQuery, Page
from modelmora.errors import Conflict, ModelNotFound, PreconditionFailed

_FIXED = ("id", "name", "created_at")
_COLUMNS = (*_FIXED, "type", "description", "owner", "current", "chosen", "changed_at", "row")


def name_of(ref: str, *, tenant: str) -> ScalarSelect[str]:
    """The name of the model that has this name or id; where they are two, of that with the id."""
    mine = (table.c.tenant == tenant) & or_(table.c.name == ref, table.c.id == ref)
    return select(table.c.name).where(mine).order_by(table.c.id != ref).limit(1).scalar_subquery()


class ModelsTable:
    """Models of one tenant."""

    def __init__(self, transactions: Transactions, audit: AuditTable, *, tenant: str = "default") -> None:
        self._transactions = transactions
        self._audit = audit
        self._tenant = tenant

    async def add(self, model: Model, *, change: Change) -> None:
        """See the port."""
        async with self._audit.recording() as connection:
            await self.insert(connection, model)
            await self._audit.append(connection, change)

    async def get(self, name_or_id: str) -> Model:
        """See the port."""
        wanted = table.c.name == name_of(name_or_id, tenant=self._tenant)
        async with self._transactions.read() as connection:
            rows = (await connection.execute(self._all().where(wanted))).mappings().all()
            found = await self._with_tags(connection, rows)
        if not found:
            raise ModelNotFound(f"no model {name_or_id!r} is registered", field="model", found=name_or_id)
        return found[0]

    async def find(self, query: ModelQuery) -> Page[Model]:
        """See the port."""
        order = Keyset(table.c[query.order], table.c.id)
        async with self._transactions.read() as connection:
            rows, cursor = await order.rows(connection, self._matching(query), query.page)
            return Page(await self._with_tags(connection, rows), cursor)

    async def change(self, model: Model, *, change: Change) -> None:
        """See the port."""
        async with self._audit.recording() as connection:
            await self.update(connection, model)
            await self._audit.append(connection, change)

    async def remove(self, model: Model, *, change: Change) -> None:
        """See the port."""
        async with self._audit.recording() as connection:
            try:
                gone = await connection.execute(delete(table).where(self._mine(model) & (table.c.row == model.row)))
            except IntegrityError as cause:
                said = f"{model.name} has versions; remove them first"
                raise Conflict(said, field="name", found=model.name) from cause
            if not gone.rowcount:
                raise await self._changed(connection, model)
            await self._audit.append(connection, change)

    async def insert(self, connection: AsyncConnection, model: Model) -> None:
        """Within a transaction; raises Conflict where the name is taken."""
        row = {"tenant": self._tenant, **_row(model)}
        added = upsert(connection, table).values(**row).on_conflict_do_nothing().returning(table.c.id)
        if (await connection.execute(added)).scalar_one_or_none() is None:
            raise Conflict(f"there is a model {model.name} already", field="name", found=model.name)
        await self._tag(connection, model)

    async def update(self, connection: AsyncConnection, model: Model) -> None:
        """Within a transaction; raises PreconditionFailed, ModelNotFound."""
        before = self._mine(model) & (table.c.row == model.row - 1)
        values = {name: value for name, value in _row(model).items() if name not in _FIXED}
        changed = await connection.execute(update(table).where(before).values(**values))
        if not changed.rowcount:
            raise await self._changed(connection, model)
        await connection.execute(delete(tags).where(self._tags_of([model.id])))
        await self._tag(connection, model)

    def _all(self) -> Select[Any]:
        return select(table).where(table.c.tenant == self._tenant)

    def _matching(self, query: ModelQuery) -> Select[Any]:
        statement = self._all()
        for name in ("type", "owner"):
            if (value := getattr(query, name)) is not None:
                statement = statement.where(table.c[name] == value)
        if query.prefix:
            statement = statement.where(table.c.name >= query.prefix, table.c.name < query.prefix + "\U0010ffff")
        if query.tag is not None:
            tagged = select(tags.c.model_id).where(tags.c.tenant == self._tenant, tags.c.tag == query.tag)
            statement = statement.where(table.c.id.in_(tagged))
        return statement

    def _mine(self, model: Model) -> Any:
        return (table.c.tenant == self._tenant) & (table.c.id == model.id)

    def _tags_of(self, ids: Iterable[str]) -> Any:
        return (tags.c.tenant == self._tenant) & tags.c.model_id.in_(list(ids))

    async def _tag(self, connection: AsyncConnection, model: Model) -> None:
        rows = [{"tenant": self._tenant, "model_id": model.id, "tag": tag} for tag in model.tags]
        if rows:
            await connection.execute(insert(tags), rows)

    async def _with_tags(self, connection: AsyncConnection, rows: Iterable[Row]) -> tuple[Model, ...]:
        made = list(rows)
        query = select(tags.c.model_id, tags.c.tag).where(self._tags_of(row["id"] for row in made)).order_by(tags.c.tag)
        of: dict[str, list[str]] = {}
        for model_id, tag in await connection.execute(query):
            of.setdefault(model_id, []).append(tag)
        return tuple(Model(**{name: row[name] for name in _COLUMNS}, tags=tuple(of.get(row["id"], ()))) for row in made)

    async def _changed(self, connection: AsyncConnection, model: Model) -> ModelNotFound | PreconditionFailed:
        found = (await connection.execute(select(table.c.row).where(self._mine(model)))).scalar_one_or_none()
        if found is None:
            return ModelNotFound(f"{model.name} is not registered any more", field="model", found=model.name)
        said = f"{model.name} was changed meanwhile; read it again"
        return PreconditionFailed(said, field="row", found=str(found), expected=str(model.row - 1))


def _row(model: Model) -> Mapping[str, Any]:
    return {name: getattr(model, name) for name in _COLUMNS}
