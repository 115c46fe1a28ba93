"""The port `DeadLetters`: what was given up, why, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.announcing import Announcing
from adapters.database.clock import Clock, now
from adapters.database.engine import Transactions
from adapters.database.letters import add_letters, letter_of
from adapters.database.paging import Keyset, Row
from adapters.database.picture_rows import outbox_row
from adapters.database.picture_tables import dead_letters as table
from adapters.database.picture_tables import outbox
from adapters.database.shelf import GIVEN_UP
from adapters.database.ways import ways_of, write_ways
from modelmora.domain.registry.pages import Page, Paging
from modelmora.errors import ImageNotFound
from modelmora.ports import DeadLetter
from modelmora.ports.pictures import NEWEST_FIRST


class DeadLettersTable:
    """Letters of one tenant; `topic` is where events about pictures go."""

    def __init__(
        self, transactions: Transactions, *, topic: str, tenant: str = "default", clock: Clock | None = None
    ) -> None:
        self._transactions = transactions
        self._topic = topic
        self._tenant = tenant
        self._clock = clock

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """See the port."""
        async with self._transactions.write() as connection:
            time = await now(connection, self._clock)
            await add_letters(connection, letters, tenant=self._tenant, time=time)

    async def get(self, id_: str) -> DeadLetter:
        """See the port."""
        async with self._transactions.read() as connection:
            query = select(table).where(table.c.tenant == self._tenant, table.c.id == id_)
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise ImageNotFound(f"there is no dead letter {id_}", field="id", found=id_[:80])
        return letter_of(row)

    async def find(self, *, code: str | None = None, page: Paging = NEWEST_FIRST) -> Page[DeadLetter]:
        """See the port."""
        query = select(table).where(table.c.tenant == self._tenant)
        if code is not None:
            query = query.where(table.c.code == code)
        order = Keyset(table.c.failed_at, table.c.id, large=(table.c.value,))
        async with self._transactions.read() as connection:
            rows, cursor = await order.rows(connection, query, page)
        return Page(tuple(map(letter_of, rows)), cursor)

    async def replay(self, ids: Sequence[str], *, source: str) -> int:
        """See the port. A letter is replayed once; what fails again leaves another."""
        mine = (table.c.tenant == self._tenant) & table.c.id.in_(ids) & table.c.replayed_at.is_(None)
        async with self._transactions.write() as connection:
            time = await now(connection, self._clock)
            query = select(table).where(mine).order_by(table.c.id).with_for_update()
            rows = (await connection.execute(query)).mappings().all()
            of_none = await self._receive(connection, rows, time=time, source=source)
            if of_none:
                await connection.execute(insert(outbox), [_as_it_came(row, time) for row in of_none])
            await connection.execute(update(table).where(mine).values(replayed_at=time))
        return len(rows)

    async def _receive(
        self, connection: AsyncConnection, rows: Sequence[Row], *, time: datetime, source: str
    ) -> list[Row]:
        """Begins their ways anew and announces their pictures; those that have no way are left, and told."""
        ids = {row["picture_id"] for row in rows if row["picture_id"]}
        known = await ways_of(connection, ids, tenant=self._tenant, lock=True)
        there = {(way.picture_id, way.space): way for of in known.values() for way in of}
        asked = {key: there[key] for row in rows if (key := (row["picture_id"], row["space"])) in there}
        anew = [
            replace(way, state="received", attempts=0, next_attempt_at=None, first_failed_at=None, changed_at=time)
            for way in asked.values()
            if way.state in GIVEN_UP
        ]
        await write_ways(connection, anew, tenant=self._tenant)
        announcing = Announcing(connection, tenant=self._tenant, time=time, topic=self._topic, source=source)
        await announcing.announce({way.picture_id for way in anew})
        return [row for row in rows if (row["picture_id"], row["space"]) not in asked]

    async def remove(self, ids: Sequence[str]) -> int:
        """See the port."""
        async with self._transactions.write() as connection:
            gone = await connection.execute(delete(table).where(table.c.tenant == self._tenant, table.c.id.in_(ids)))
        return int(gone.rowcount)

    async def count(self) -> int:
        """See the port."""
        query = select(func.count()).select_from(table).where(table.c.tenant == self._tenant)
        async with self._transactions.read() as connection:
            return int((await connection.execute(query.where(table.c.replayed_at.is_(None)))).scalar_one())


def _as_it_came(row: Row, time: datetime) -> dict[str, object]:
    told = {name: row[name] for name in ("value", "headers", "tenant")}
    return outbox_row(row["topic"], row["key"], **told, picture_id=None, not_before=time)
