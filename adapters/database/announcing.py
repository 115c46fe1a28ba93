"""Pictures that are announced again: those whose wait is over, and those that got stuck."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, exists, insert, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.finishing import Finishing
from adapters.database.picture_rows import event_row, picture_of
from adapters.database.picture_tables import inbox, outbox, pictures, ways
from modelmora.domain.events.images import registered
from modelmora.ids import new_id

REMEMBERED = timedelta(days=7)
"""So long is an event known that was taken: no broker delivers one again later."""


class Announcing:
    """One transaction that announces again."""

    def __init__(self, connection: AsyncConnection, *, tenant: str, time: datetime, topic: str) -> None:
        self._connection = connection
        self._tenant = tenant
        self._time = time
        self._topic = topic

    async def again(self, *, stuck: timedelta, tries: int, limit: int, source: str) -> int:
        """How many pictures were announced."""
        await self._connection.execute(delete(inbox).where(inbox.c.seen_at < self._time - REMEMBERED))
        due = await self._due(stuck, limit)
        spent = [row for row in due if row["state"] != "retry_wait" and row["attempts"] + 1 >= tries]
        gone = {(row["picture_id"], row["space"]) for row in spent}
        await self._give_up(spent)
        going = [row for row in due if (row["picture_id"], row["space"]) not in gone]
        await self._receive(going)
        return await self.announce(sorted({row["picture_id"] for row in going}), source=source)

    async def announce(self, ids: Sequence[str], *, source: str) -> int:
        """Their records as they stand, one event each; removed ones are not."""
        mine = (pictures.c.tenant == self._tenant) & pictures.c.id.in_(ids) & pictures.c.deleted_at.is_(None)
        found = (await self._connection.execute(select(pictures).where(mine).order_by(pictures.c.id))).mappings()
        events = [
            registered(picture_of(row), source=source, id_=new_id(), time=self._time, topic=self._topic)
            for row in found
        ]
        if events:
            rows = [event_row(event, not_before=self._time, picture_id=event.key) for event in events]
            await self._connection.execute(insert(outbox), rows)
        return len(events)

    async def _due(self, stuck: timedelta, limit: int) -> list[dict[str, Any]]:
        """Each of the conditions by an index of its own."""
        waiting = select(outbox.c.number).where(
            outbox.c.tenant == ways.c.tenant, outbox.c.picture_id == ways.c.picture_id
        )
        mine, long_ago = ways.c.tenant == self._tenant, self._time - stuck
        over = select(ways).where(mine, ways.c.state == "retry_wait", ways.c.next_attempt_at <= self._time).limit(limit)
        parts = [over.subquery()]
        for state in ("received", "working"):
            idle = select(ways).where(mine, ways.c.state == state, ways.c.changed_at <= long_ago, ~exists(waiting))
            parts.append(idle.limit(limit).subquery())
        query = union_all(*(select(part) for part in parts)).limit(limit)
        return [dict(row) for row in (await self._connection.execute(query)).mappings()]

    async def _receive(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            stuck = row["state"] != "retry_wait"
            values: dict[str, Any] = {"state": "received", "changed_at": self._time, "next_attempt_at": None}
            if stuck:
                values |= {"attempts": row["attempts"] + 1, "first_failed_at": row["first_failed_at"] or self._time}
            await self._connection.execute(update(ways).where(_one(row)).values(**values))

    async def _give_up(self, rows: Sequence[dict[str, Any]]) -> None:
        finishing = Finishing(self._connection, tenant=self._tenant, time=self._time, topic=self._topic)
        for row in rows:
            detail = f"no progress was made in {row['attempts'] + 1} tries"
            told = {"state": "dead", "code": "deadline_exceeded", "detail": detail, "attempts": row["attempts"] + 1}
            first = row["first_failed_at"] or row["changed_at"]
            values = {**told, "changed_at": self._time, "first_failed_at": first}
            await self._connection.execute(update(ways).where(_one(row)).values(**values))
            await finishing.bury([(row["picture_id"], {"in": row["space"], "stage": row["stage"], **values})])


def _one(row: dict[str, Any]) -> Any:
    same = (ways.c.tenant == row["tenant"]) & (ways.c.picture_id == row["picture_id"])
    return same & (ways.c.space == row["space"]) & (ways.c.state == row["state"])
