"""The port `Indexes`: which indexes of vectors there are, and which of a model's is searched."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping, delete, select, update
from sqlalchemy.exc import IntegrityError

from adapters.database.clock import Clock, now
from adapters.database.engine import Transactions, upsert
from adapters.database.picture_tables import indexes as table
from modelmora.domain.pictures.spaces import Index, IndexSettings, IndexState, Space
from modelmora.errors import Conflict, ModelNotFound

_PLAIN = ("state", "dimension", "total", "done", "failed", "cursor", "agreement", "why", "created_at", "changed_at")


class IndexesTable:
    """Indexes of one tenant."""

    def __init__(self, transactions: Transactions, *, tenant: str = "default", clock: Clock | None = None) -> None:
        self._transactions = transactions
        self._tenant = tenant
        self._clock = clock

    async def add(self, index: Index) -> Index:
        """See the port."""
        async with self._transactions.write() as connection:
            statement = upsert(connection, table).values(**_row(index)).on_conflict_do_nothing()
            await connection.execute(statement)
            query = select(table).where(self._of(index.space))
            there = (await connection.execute(query)).mappings().one_or_none()
            if there is None:  # another version is live: ours is not
                live = select(table).where(self._of_model(index.space), table.c.state == "live")
                there = (await connection.execute(live)).mappings().one()
        return _index(there)

    async def all(self, *, collection: str | None = None) -> tuple[Index, ...]:
        """See the port."""
        query = select(table).where(table.c.tenant == self._tenant)
        if collection is not None:
            query = query.where(table.c.collection == collection)
        query = query.order_by(table.c.collection, table.c.model, table.c.created_at, table.c.version)
        async with self._transactions.read() as connection:
            return tuple(map(_index, (await connection.execute(query)).mappings()))

    async def change(self, index: Index, *, from_: Collection[IndexState]) -> bool:
        """See the port; raises Conflict for one that would be live beside another."""
        async with self._transactions.write() as connection:
            time = await now(connection, self._clock)
            values = {**_row(index), "changed_at": time}
            statement = update(table).where(self._of(index.space), table.c.state.in_(list(from_))).values(**values)
            try:
                return bool((await connection.execute(statement)).rowcount)
            except IntegrityError as cause:
                said = f"another index of {index.space.model} is live; switch to {index.space.key} instead"
                raise Conflict(said, field="state", found=index.state) from cause

    async def switch(self, to: Space) -> Index | None:
        """See the port; raises ModelNotFound where there is no such index, and what is live stays so."""
        async with self._transactions.write() as connection:
            time = await now(connection, self._clock)
            # All of the model, so that of two switches at once the second finds what the first made live.
            locked = select(table.c.version).where(self._of_model(to)).order_by(table.c.version).with_for_update()
            versions = (await connection.execute(locked)).scalars().all()
            if to.version not in versions:
                said = f"there is no index of {to.key} in the collection {to.collection}"
                raise ModelNotFound(said, field="version", found=to.version)
            live = self._of_model(to) & (table.c.state == "live") & (table.c.version != to.version)
            before = (await connection.execute(select(table).where(live))).mappings().one_or_none()
            await connection.execute(update(table).where(live).values(state="draining", changed_at=time))
            await connection.execute(update(table).where(self._of(to)).values(state="live", changed_at=time))
        return None if before is None else _index(before)

    async def remove(self, space: Space) -> None:
        """See the port."""
        async with self._transactions.write() as connection:
            await connection.execute(delete(table).where(self._of(space)))

    def _of_model(self, space: Space) -> Any:
        mine = (table.c.tenant == self._tenant) & (table.c.collection == space.collection)
        return mine & (table.c.model == space.model)

    def _of(self, space: Space) -> Any:
        return self._of_model(space) & (table.c.version == space.version)


def _row(index: Index) -> dict[str, Any]:
    space = index.space
    named = {"tenant": space.tenant, "collection": space.collection, "model": space.model, "version": space.version}
    told = {name: getattr(index, name) for name in _PLAIN}
    return {**named, **told, "settings": json.dumps(asdict(index.settings))}


def _index(row: RowMapping) -> Index:
    read = json.loads(row["settings"])
    settings = IndexSettings(**{**read, "payload": tuple(read["payload"])})
    space = Space(model=row["model"], version=row["version"], collection=row["collection"], tenant=row["tenant"])
    return Index(space=space, settings=settings, **{name: row[name] for name in _PLAIN})
