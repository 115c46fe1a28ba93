"""Pictures as they come into their tables: what stands in their way is locked, a shelf decides, the rest is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.engine import upsert
from adapters.database.keepable import refuse_unkeepable
from adapters.database.letters import answer
from adapters.database.picture_rows import event_row, picture_of, picture_row
from adapters.database.picture_tables import inbox, outbox, picture_tags, pictures
from adapters.database.shelf import Shelf
from adapters.database.ways import ways_of, write_ways
from modelmora.domain.events.images import registered
from modelmora.domain.outcome import Failed, Outcome
from modelmora.domain.pictures.picture import Picture
from modelmora.errors import InputError
from modelmora.ids import new_id
from modelmora.ports import Registered, Registration

_CHANGING = [column.name for column in pictures.c if column.name not in ("tenant", "id", "created_at")]


class Raced(Exception):
    """Somebody was faster with one of the pictures: the transaction is to be tried again, which finds his."""


class Registering:
    """One transaction that takes pictures in, in as many statements for many as for one.

    Rows are locked in one order by all who change them: pictures, dead letters, ways, events.
    """

    def __init__(self, connection: AsyncConnection, *, tenant: str, time: datetime, topic: str) -> None:
        self._connection = connection
        self._tenant = tenant
        self._time = time
        self._topic = topic

    async def take(self, asked: Sequence[Registration]) -> list[Outcome[Registered]]:
        """One outcome per registration, same order; raises Raced."""
        checked = [self._checked(one) for one in asked]
        shelf = await self._shelf([one for one in checked if isinstance(one, Registration)])
        outcomes = [shelf.take(one) if isinstance(one, Registration) else one for one in checked]
        await self._write(shelf)
        return outcomes

    def _checked(self, one: Registration) -> Registration | Failed:
        try:
            refuse_unkeepable(one, tenant=self._tenant)
        except InputError as error:
            return Failed(error)
        return one

    async def _shelf(self, asked: Sequence[Registration]) -> Shelf:
        """Pictures first: who holds them is alone with what belongs to them."""
        there = await self._standing(asked)
        seen = await self._seen(asked)
        ways = await ways_of(self._connection, [one.id for one in there], tenant=self._tenant, lock=True)
        return Shelf(there, ways, seen=seen, time=self._time)

    async def _standing(self, asked: Sequence[Registration]) -> list[Picture]:
        """The records of these ids, and those of these contents, locked; each found by an index of its own."""
        if not asked:
            return []
        alike = select(pictures.c.id).where(
            pictures.c.tenant == self._tenant,
            pictures.c.collection.in_({one.picture.collection for one in asked}),
            pictures.c.sha256.in_({one.picture.sha256 for one in asked}),
            pictures.c.deleted_at.is_(None),
        )
        ids = {*(await self._connection.execute(alike)).scalars(), *(one.picture.id for one in asked)}
        mine = (pictures.c.tenant == self._tenant) & pictures.c.id.in_(ids)
        query = select(pictures).where(mine).order_by(pictures.c.id).with_for_update()
        return [picture_of(row) for row in (await self._connection.execute(query)).mappings()]

    async def _seen(self, asked: Sequence[Registration]) -> set[tuple[str, str]]:
        """The origins that had been taken before, and perhaps others."""
        origins = {one.origin for one in asked if one.origin is not None}
        if not origins:
            return set()
        query = select(inbox.c.source, inbox.c.event_id).where(
            inbox.c.tenant == self._tenant,
            inbox.c.source.in_({source for source, _ in origins}),
            inbox.c.event_id.in_({id_ for _, id_ in origins}),
        )
        return {(source, id_) for source, id_ in await self._connection.execute(query)}

    async def _write(self, shelf: Shelf) -> None:
        await self._change(list(shelf.changed.values()))
        await self._insert(list(shelf.new.values()))
        await self._tag([*shelf.changed.values(), *shelf.new.values()])
        await answer(self._connection, shelf.answered, tenant=self._tenant, time=self._time)
        await write_ways(self._connection, shelf.begun.values(), tenant=self._tenant)
        if shelf.told:
            rows = [self._announcement(one, picture) for one, picture in shelf.told]
            await self._connection.execute(insert(outbox), rows)
        if shelf.taken:
            taken = [
                {"tenant": self._tenant, "source": source, "event_id": id_, "seen_at": self._time}
                for source, id_ in sorted(shelf.taken)
            ]
            await self._connection.execute(upsert(self._connection, inbox).on_conflict_do_nothing(), taken)

    async def _change(self, changed: Sequence[Picture]) -> None:
        """Before others come in, which may bring a content that one of these had."""
        if not changed:
            return
        mine = (pictures.c.tenant == self._tenant) & (pictures.c.id == bindparam("k_id"))
        statement = update(pictures).where(mine).values({name: bindparam(f"v_{name}") for name in _CHANGING})
        rows = [(one.id, picture_row(one)) for one in changed]
        told = [{"k_id": id_, **{f"v_{name}": row[name] for name in _CHANGING}} for id_, row in rows]
        await self._connection.execute(statement, told)
        gone = (picture_tags.c.tenant == self._tenant) & picture_tags.c.picture_id.in_([one.id for one in changed])
        await self._connection.execute(delete(picture_tags).where(gone))

    async def _insert(self, new: Sequence[Picture]) -> None:
        """In the order of contents, so that two who bring the same wait for each other once; raises Raced."""
        if not new:
            return
        rows = [picture_row(one) for one in sorted(new, key=lambda one: (one.collection, one.sha256))]
        statement = upsert(self._connection, pictures).on_conflict_do_nothing().returning(pictures.c.id)
        if len((await self._connection.execute(statement, rows)).scalars().all()) < len(rows):
            raise Raced

    async def _tag(self, all_: Iterable[Picture]) -> None:
        rows = [{"tenant": self._tenant, "picture_id": p.id, "tag": tag} for p in all_ for tag in p.facts.tags]
        if rows:
            await self._connection.execute(insert(picture_tags), rows)

    def _announcement(self, one: Registration, picture: Picture) -> dict[str, Any]:
        event = registered(picture, source=one.announce or "", id_=new_id(), time=self._time, topic=self._topic)
        return event_row(event, not_before=self._time + timedelta(seconds=one.hold_s), picture_id=picture.id)
