"""What becomes of ways: verdicts, the events that tell of them, letters of what was given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.letters import MOST_DETAIL, answer, bury
from adapters.database.picture_rows import event_row
from adapters.database.picture_tables import outbox, ways
from adapters.database.shelf import GIVEN_UP
from adapters.database.ways import ways_of, write_ways
from modelmora.domain.events.envelope import Event
from modelmora.domain.pictures.way import Step, Way
from modelmora.domain.registry.texts import readable

_LEFT = frozenset({"indexed", "superseded", "tombstoned"})
SOURCE = "/modelmora"
"""Of announcements in letters whose verdict came without an event."""


class _Ended:
    """What steps lead to."""

    def __init__(self) -> None:
        self.changed: dict[tuple[str, str], Way] = {}
        self.events: list[Event] = []
        self.buried: list[Way] = []
        self.back: set[tuple[str, str]] = set()

    def add(self, before: Way, after: Way, step: Step) -> None:
        self.changed[after.picture_id, after.space] = after
        if step.event is not None:
            self.events.append(step.event)
        if after.state in GIVEN_UP:
            self.buried.append(after)
        elif before.state in GIVEN_UP:
            self.back.add((after.picture_id, after.space))


class Finishing:
    """One transaction that ends ways, or puts them off, in as many statements for many as for one."""

    def __init__(self, connection: AsyncConnection, *, tenant: str, time: datetime, topic: str) -> None:
        self._connection = connection
        self._tenant = tenant
        self._time = time
        self._topic = topic

    async def write(self, steps: Sequence[Step]) -> None:
        """One step after the other: two who went one way do not end it twice."""
        ids = {step.picture_id for step in steps}
        known = await ways_of(self._connection, ids, tenant=self._tenant, lock=True)
        there = {(way.picture_id, way.space): way for of in known.values() for way in of}
        ended = _Ended()
        for step in steps:
            key = (step.picture_id, step.space)
            if key in there and (after := _after(there[key], step, self._time)) is not None:
                ended.add(there[key], after, step)
                there[key] = after
        await self._write(ended)

    async def _write(self, ended: _Ended) -> None:
        tenant, time, topic = self._tenant, self._time, self._topic
        source = ended.events[0].source if ended.events else SOURCE
        await bury(self._connection, ended.buried, tenant=tenant, time=time, topic=topic, source=source)
        await answer(self._connection, ended.back, tenant=tenant, time=time)
        await write_ways(self._connection, ended.changed.values(), tenant=tenant)
        await self._keep(ended.events)
        await self._release({id_ for id_, _ in ended.changed})

    async def _keep(self, events: Sequence[Event]) -> None:
        if events:
            rows = [event_row(event, not_before=self._time, picture_id=event.key) for event in events]
            await self._connection.execute(insert(outbox), rows)

    async def _release(self, ids: set[str]) -> None:
        """Announcements that were held back until these pictures are through."""
        if not ids:
            return
        going = select(ways.c.picture_id).where(
            ways.c.tenant == outbox.c.tenant,
            ways.c.picture_id == outbox.c.picture_id,
            ways.c.state.in_(("working", "received")),
        )
        mine = (outbox.c.tenant == self._tenant) & outbox.c.picture_id.in_(ids) & (outbox.c.not_before > self._time)
        await self._connection.execute(update(outbox).where(mine & ~exists(going)).values(not_before=self._time))


def _after(way: Way, step: Step, time: datetime) -> Way | None:
    """The way after its step; None where the step is of another record, or comes too late to matter.

    What is indexed stays so, whoever failed at it later; what was given up is indexed where somebody managed it.
    """
    verdict = step.verdict
    if way.seq != step.seq or way.state in _LEFT:
        return None
    if verdict.state == "indexed":
        done = replace(way, state="indexed", next_attempt_at=None, changed_at=time)
        return replace(done, stage="", code="", detail="")
    if way.state in GIVEN_UP:
        return None
    if verdict.state == "superseded":
        return replace(way, state="superseded", next_attempt_at=None, changed_at=time)
    return replace(
        way,
        state=verdict.state,
        attempts=way.attempts + 1,
        next_attempt_at=time + timedelta(seconds=verdict.delay_s) if verdict.state == "retry_wait" else None,
        stage=verdict.stage,
        code=verdict.code,
        detail=readable(verdict.detail, most=MOST_DETAIL),
        first_failed_at=way.first_failed_at or time,
        changed_at=time,
    )
