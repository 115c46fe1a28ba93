"""The port `PictureRecords`: pictures, their ways, and the events that tell of both, in common transactions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, delete, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.announcing import Announcing
from adapters.database.clock import Clock, now
from adapters.database.engine import Transactions
from adapters.database.finishing import Finishing
from adapters.database.paging import Keyset
from adapters.database.picture_rows import event_row, facts_text, picture_of
from adapters.database.picture_tables import dead_letters, outbox, picture_tags, pictures, ways
from adapters.database.registering import Raced, Registering
from adapters.database.ways import ways_of, write_ways
from modelmora.domain.events.images import removed
from modelmora.domain.outcome import Outcome
from modelmora.domain.pictures.picture import Facts, Picture, PictureState
from modelmora.domain.pictures.way import Step, Way
from modelmora.domain.registry.pages import Page
from modelmora.errors import ImageNotFound, Overloaded
from modelmora.ids import new_id
from modelmora.ports import PictureQuery, Registered, Registration

_GIVEN_UP = ("rejected", "dead")
MOST_RACES = 10
"""So often is a transaction tried in which somebody else was faster with a picture; the next one finds his."""


class PicturesTable:
    """Pictures of one tenant; `topic` is where their events go."""

    def __init__(
        self, transactions: Transactions, *, topic: str, tenant: str = "default", clock: Clock | None = None
    ) -> None:
        self._transactions = transactions
        self._topic = topic
        self._tenant = tenant
        self._clock = clock

    async def register(self, registrations: Sequence[Registration]) -> list[Outcome[Registered]]:
        """See the port."""
        if not registrations:
            return []
        for _ in range(MOST_RACES):
            try:
                return await self._register(registrations)
            except (Raced, IntegrityError) as raced:
                last = raced
        raise Overloaded("others bring the same pictures at this moment; try again", retry_after_s=1.0) from last

    async def _register(self, registrations: Sequence[Registration]) -> list[Outcome[Registered]]:
        async with self._transactions.write() as connection:
            time = await now(connection, self._clock)
            taking = Registering(connection, tenant=self._tenant, time=time, topic=self._topic)
            return await taking.take(registrations)

    async def finish(self, steps: Sequence[Step]) -> None:
        """See the port."""
        if not steps:
            return
        async with self._transactions.write() as connection:
            time = await now(connection, self._clock)
            await Finishing(connection, tenant=self._tenant, time=time, topic=self._topic).write(steps)

    async def get(self, id_: str, *, deleted: bool = False) -> Picture:
        """See the port."""
        query = self._all().where(pictures.c.id == id_)
        if not deleted:
            query = query.where(pictures.c.deleted_at.is_(None))
        async with self._transactions.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise ImageNotFound(f"there is no picture {id_}", field="id", found=id_[:80])
        return picture_of(row)

    async def ways(self, ids: Collection[str]) -> dict[str, tuple[Way, ...]]:
        """See the port."""
        async with self._transactions.read() as connection:
            return await ways_of(connection, ids, tenant=self._tenant)

    async def find(self, query: PictureQuery) -> Page[Picture]:
        """See the port."""
        order = Keyset(pictures.c.created_at, pictures.c.id)
        async with self._transactions.read() as connection:
            rows, cursor = await order.rows(connection, self._matching(query), query.page)
        return Page(tuple(map(picture_of, rows)), cursor)

    async def count(self, *, collection: str | None = None) -> int:
        """See the port."""
        query = select(func.count()).select_from(pictures).where(self._alive())
        if collection is not None:
            query = query.where(pictures.c.collection == collection)
        async with self._transactions.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def collections(self) -> tuple[str, ...]:
        """See the port."""
        query = select(pictures.c.collection).where(self._alive()).distinct().order_by(pictures.c.collection)
        async with self._transactions.read() as connection:
            return tuple((await connection.execute(query)).scalars())

    async def remove(self, ids: Sequence[str], *, source: str) -> tuple[Picture, ...]:
        """See the port."""
        async with self._transactions.write() as connection:
            time = await now(connection, self._clock)
            query = select(pictures).where(self._alive() & pictures.c.id.in_(ids)).order_by(pictures.c.id)
            rows = (await connection.execute(query.with_for_update())).mappings()
            found = [picture_of(row) for row in rows]
            gone = [replace(one, seq=one.seq + 1, changed_at=time, deleted_at=time) for one in found]
            if gone:
                await self._bury(connection, [one.id for one in gone], time)
                events = [removed(one, source=source, id_=new_id(), time=time, topic=self._topic) for one in gone]
                told = [event_row(event, not_before=time, picture_id=event.key) for event in events]
                await connection.execute(insert(outbox), told)
        return tuple(gone)

    async def _bury(self, connection: AsyncConnection, ids: Sequence[str], time: datetime) -> None:
        """Tombstones without facts; then what belonged to them, in the order in which rows are locked everywhere."""
        mine = (pictures.c.tenant == self._tenant) & pictures.c.id.in_(ids)
        empty = {"facts": facts_text(Facts()), "deleted_at": time, "changed_at": time}
        await connection.execute(update(pictures).where(mine).values(seq=pictures.c.seq + 1, **empty))
        await self._delete(connection, picture_tags, ids)
        await self._delete(connection, dead_letters, ids)
        known = await ways_of(connection, ids, tenant=self._tenant, lock=True)
        over = [
            replace(way, state="tombstoned", next_attempt_at=None, changed_at=time)
            for of in known.values()
            for way in of
        ]
        await write_ways(connection, over, tenant=self._tenant)
        await self._delete(connection, outbox, ids)

    async def _delete(self, connection: AsyncConnection, table: Table, ids: Sequence[str]) -> None:
        await connection.execute(delete(table).where(table.c.tenant == self._tenant, table.c.picture_id.in_(ids)))

    async def used(self, sha256: str) -> bool:
        """See the port; of every tenant."""
        query = select(pictures.c.id).where(pictures.c.sha256 == sha256, pictures.c.deleted_at.is_(None)).limit(1)
        async with self._transactions.read() as connection:
            return (await connection.execute(query)).first() is not None

    async def expired(self, *, limit: int) -> tuple[Picture, ...]:
        """See the port."""
        async with self._transactions.read() as connection:
            time = await now(connection, self._clock)
            query = self._all().where(pictures.c.expires_at <= time, pictures.c.deleted_at.is_(None)).limit(limit)
            return tuple(map(picture_of, (await connection.execute(query)).mappings()))

    async def announce_again(self, *, stuck_s: float, tries: int, limit: int, source: str) -> int:
        """See the port; events that were taken a week ago are forgotten on the way."""
        stuck = timedelta(seconds=stuck_s)
        async with self._transactions.read() as connection:
            if not await (await self._announcing(connection, source)).has_any(stuck=stuck):
                return 0
        async with self._transactions.write() as connection:
            return await (await self._announcing(connection, source)).again(stuck=stuck, tries=tries, limit=limit)

    async def _announcing(self, connection: AsyncConnection, source: str) -> Announcing:
        time = await now(connection, self._clock)
        return Announcing(connection, tenant=self._tenant, time=time, topic=self._topic, source=source)

    async def missing(self, space: str, *, collection: str, after: str | None, limit: int) -> tuple[Picture, ...]:
        """See the port."""
        there = select(ways.c.picture_id).where(
            ways.c.tenant == self._tenant,
            ways.c.picture_id == pictures.c.id,
            ways.c.space == space,
            ways.c.state == "indexed",
            ways.c.seq == pictures.c.seq,
        )
        query = self._all().where(self._alive(), pictures.c.collection == collection, ~exists(there))
        if after is not None:
            query = query.where(pictures.c.id > after)
        async with self._transactions.read() as connection:
            rows = await connection.execute(query.order_by(pictures.c.id).limit(limit))
            return tuple(map(picture_of, rows.mappings()))

    async def lag(self) -> dict[str, int]:
        """See the port."""
        query = select(ways.c.state, func.count()).where(ways.c.tenant == self._tenant).group_by(ways.c.state)
        async with self._transactions.read() as connection:
            return {state: count for state, count in await connection.execute(query)}

    def _all(self) -> Select[Any]:
        return select(pictures).where(pictures.c.tenant == self._tenant)

    def _alive(self) -> ColumnElement[bool]:
        return (pictures.c.tenant == self._tenant) & pictures.c.deleted_at.is_(None)

    def _matching(self, query: PictureQuery) -> Select[Any]:
        statement = self._all().where(self._in_state(query.state))
        if query.collection is not None:
            statement = statement.where(pictures.c.collection == query.collection)
        if query.sha256 is not None:
            statement = statement.where(pictures.c.sha256 == query.sha256)
        if query.created_before is not None:
            statement = statement.where(pictures.c.created_at < query.created_before)
        if query.any_tags:
            tagged = select(picture_tags.c.picture_id).where(
                picture_tags.c.tenant == self._tenant, picture_tags.c.tag.in_(query.any_tags)
            )
            statement = statement.where(pictures.c.id.in_(tagged))
        return statement

    def _in_state(self, state: PictureState | None) -> ColumnElement[bool]:
        """As `modelmora.domain.pictures.way.shown` reckons it: the worst of what is not done."""
        if state == "deleted":
            return pictures.c.deleted_at.is_not(None)
        alive, failed = pictures.c.deleted_at.is_(None), self._some(*_GIVEN_UP)
        begun = self._some(*_GIVEN_UP, "retry_wait", "working")
        shown: dict[PictureState, ColumnElement[bool]] = {
            "failed": self._among(*_GIVEN_UP),
            "retrying": self._among("retry_wait") & ~failed,
            "embedding": self._among("working") & ~self._some(*_GIVEN_UP, "retry_wait"),
            "indexed": self._some("indexed") & ~begun & ~self._some("received"),
            "registered": ~begun & (self._some("received") | ~self._some("indexed")),
        }
        return alive if state is None else alive & shown[state]

    def _among(self, *states: str) -> ColumnElement[bool]:
        """Of states that few are in: found by the state."""
        found = select(ways.c.picture_id).where(ways.c.tenant == self._tenant, ways.c.state.in_(states))
        return pictures.c.id.in_(found)

    def _some(self, *states: str) -> ColumnElement[bool]:
        """Looked up for each picture."""
        mine = (ways.c.tenant == self._tenant) & (ways.c.picture_id == pictures.c.id)
        return exists(select(ways.c.picture_id).where(mine, ways.c.state.in_(states)))
