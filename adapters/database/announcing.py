"""Pictures that are announced again: those whose wait is over, and those that got stuck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, exists, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.letters import bury
from adapters.database.picture_rows import event_row, picture_of, way_of
from adapters.database.picture_tables import inbox, outbox, pictures, ways
from adapters.database.ways import write_ways
from modelmora.domain.events.envelope import Event
from modelmora.domain.events.images import failed, registered
from modelmora.domain.pictures.picture import Picture
from modelmora.domain.pictures.way import Verdict, Way
from modelmora.ids import new_id

REMEMBERED = timedelta(days=7)
"""So long is an event known that was taken: no broker delivers one again later."""


class Announcing:
    """One transaction that announces again."""

    def __init__(self, connection: AsyncConnection, *, tenant: str, time: datetime, topic: str, source: str) -> None:
        self._connection = connection
        self._tenant = tenant
        self._time = time
        self._topic = topic
        self._source = source

    async def has_any(self, *, stuck: timedelta) -> bool:
        """Whether there is something to do: asked without a lock, for it is asked every second."""
        old = select(inbox.c.event_id).where(inbox.c.seen_at < self._time - REMEMBERED).limit(1)
        return (await self._connection.execute(old)).first() is not None or bool(await self._due(stuck, 1, lock=False))

    async def again(self, *, stuck: timedelta, tries: int, limit: int) -> int:
        """How many pictures were announced."""
        await self._connection.execute(delete(inbox).where(inbox.c.seen_at < self._time - REMEMBERED))
        due = [self._after(way, tries) for way in await self._due(stuck, limit, lock=True)]
        await write_ways(self._connection, due, tenant=self._tenant)
        await self._give_up([way for way in due if way.state == "dead"])
        return await self.announce({way.picture_id for way in due if way.state == "received"})

    async def announce(self, ids: set[str]) -> int:
        """Their records as they stand, one event each; removed ones are not."""
        if not ids:
            return 0
        mine = (pictures.c.tenant == self._tenant) & pictures.c.id.in_(ids) & pictures.c.deleted_at.is_(None)
        found = (await self._connection.execute(select(pictures).where(mine).order_by(pictures.c.id))).mappings()
        events = [
            registered(picture_of(row), source=self._source, id_=new_id(), time=self._time, topic=self._topic)
            for row in found
        ]
        await self._keep(events)
        return len(events)

    async def _due(self, stuck: timedelta, limit: int, *, lock: bool) -> list[Way]:
        """By an index for each of the states; what others work on at this moment is theirs."""
        waiting = select(outbox.c.number).where(
            outbox.c.tenant == ways.c.tenant, outbox.c.picture_id == ways.c.picture_id
        )
        idle = (ways.c.changed_at <= self._time - stuck) & ~exists(waiting)
        conditions: dict[str, ColumnElement[bool]] = {
            "retry_wait": ways.c.next_attempt_at <= self._time,
            "working": idle,
            "received": idle,
        }
        found: list[Way] = []
        for state, condition in conditions.items():
            query = select(ways).where(ways.c.tenant == self._tenant, ways.c.state == state, condition)
            some = query.limit(limit - len(found))
            rows = await self._connection.execute(some.with_for_update(skip_locked=True) if lock else some)
            found += [way_of(row) for row in rows.mappings()]
            if len(found) == limit:
                break
        return found

    def _after(self, way: Way, tries: int) -> Way:
        """Received again. Being stuck while somebody worked on it is a try, and the last one ends it; waiting for a
        consumer that is behind is none."""
        again = replace(way, state="received", next_attempt_at=None, changed_at=self._time)
        if way.state != "working":
            return again
        attempts = way.attempts + 1
        again = replace(again, attempts=attempts, first_failed_at=way.first_failed_at or way.changed_at)
        if attempts < tries:
            return again
        return replace(
            again, state="dead", code="deadline_exceeded", detail=f"no progress was made in {attempts} tries"
        )

    async def _give_up(self, dead: Sequence[Way]) -> None:
        records = await bury(
            self._connection, dead, tenant=self._tenant, time=self._time, topic=self._topic, source=self._source
        )
        await self._keep([self._failed(records[way.picture_id], way) for way in dead if way.picture_id in records])

    def _failed(self, picture: Picture, way: Way) -> Event:
        verdict = Verdict(state="dead", stage=way.stage, code=way.code, detail=way.detail)
        return failed(
            picture,
            way.space,
            verdict,
            attempts=way.attempts,
            source=self._source,
            id_=new_id(),
            time=self._time,
            topic=self._topic,
        )

    async def _keep(self, events: Sequence[Event]) -> None:
        if events:
            rows = [event_row(event, not_before=self._time, picture_id=event.key) for event in events]
            await self._connection.execute(insert(outbox), rows)
