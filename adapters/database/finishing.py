"""What becomes of ways: verdicts, the events that tell of them, letters of what was given up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.picture_rows import event_row, headers_of, headers_text, picture_of
from adapters.database.picture_tables import dead_letters, outbox, pictures, ways
from adapters.database.registering import ways_of
from modelmora.domain.events.codec import to_kept_parts
from modelmora.domain.events.images import registered
from modelmora.domain.pictures.picture import Picture
from modelmora.domain.pictures.way import Step, Way
from modelmora.ids import new_id

LETTERS = ".dlq"
"""How the topic of dead letters ends."""
_SILENT = frozenset({"superseded", "tombstoned"})


class Finishing:
    """One transaction that ends ways, or puts them off."""

    def __init__(self, connection: AsyncConnection, *, tenant: str, time: datetime, topic: str) -> None:
        self._connection = connection
        self._tenant = tenant
        self._time = time
        self._topic = topic

    async def write(self, steps: Sequence[Step]) -> None:
        """A constant number of statements, however many steps."""
        known = await ways_of(self._connection, {s.picture_id for s in steps}, tenant=self._tenant, lock=True)
        by_key = {(way.picture_id, way.space): way for ways_ in known.values() for way in ways_}
        held = [(step, by_key.get((step.picture_id, step.space))) for step in steps]
        valid = [(s, way) for s, way in held if way and way.seq == s.seq and way.state not in _SILENT]
        await self._update([self._after(step, way) for step, way in valid])
        events = [step.event for step, _ in valid if step.event is not None]
        if events:
            rows = [event_row(event, not_before=self._time, picture_id=event.key) for event in events]
            await self._connection.execute(insert(outbox), rows)
        given_up = [(s, way) for s, way in valid if s.verdict.state in ("rejected", "dead")]
        await self.bury((s.picture_id, self._after(s, way)) for s, way in given_up)
        await self._release({step.picture_id for step, _ in valid})

    def _after(self, step: Step, way: Way) -> dict[str, Any]:
        """The row of a way after its step."""
        verdict, row = step.verdict, {"id": way.picture_id, "in": way.space, "changed_at": self._time}
        if verdict.state == "indexed":
            kept = {"attempts": way.attempts, "first_failed_at": way.first_failed_at, "next_attempt_at": None}
            return {**row, **kept, "state": "indexed", "stage": "", "code": "", "detail": ""}
        due = self._time + timedelta(seconds=verdict.delay_s) if verdict.state == "retry_wait" else None
        return {
            **row,
            "state": verdict.state,
            "attempts": way.attempts + 1,
            "next_attempt_at": due,
            "stage": verdict.stage,
            "code": verdict.code,
            "detail": verdict.detail,
            "first_failed_at": way.first_failed_at or self._time,
        }

    async def _update(self, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        names = [name for name in rows[0] if name not in ("id", "in")]
        mine = (ways.c.tenant == self._tenant) & (ways.c.picture_id == bindparam("k_id"))
        statement = update(ways).where(mine & (ways.c.space == bindparam("k_in")))
        statement = statement.values({name: bindparam(f"v_{name}") for name in names})
        told = [{"k_id": row["id"], "k_in": row["in"], **{f"v_{n}": row[n] for n in names}} for row in rows]
        await self._connection.execute(statement, told)

    async def bury(self, gone: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """A letter for each way that was given up, and a message for the topic of letters."""
        rows = list(gone)
        if not rows:
            return
        mine = (pictures.c.tenant == self._tenant) & pictures.c.id.in_([id_ for id_, _ in rows])
        found = (await self._connection.execute(select(pictures).where(mine))).mappings()
        records = {row["id"]: picture_of(row) for row in found}
        letters = [self._letter(records[id_], way) for id_, way in rows if id_ in records]
        await self._connection.execute(insert(dead_letters), letters)
        await self._connection.execute(insert(outbox), [letter_message(letter, self._time) for letter in letters])

    def _letter(self, picture: Picture, way: dict[str, Any]) -> dict[str, Any]:
        event = registered(picture, source="/modelmora", id_=new_id(), time=self._time, topic=self._topic)
        key, value, headers = to_kept_parts(event)
        return {
            "tenant": self._tenant,
            "id": new_id(),
            "topic": self._topic,
            "key": key,
            "value": value,
            "headers": headers_text(headers),
            "picture_id": picture.id,
            "space": way["in"],
            **{name: way[name] for name in ("code", "detail", "stage", "attempts", "first_failed_at")},
            "failed_at": self._time,
            "replayed_at": None,
        }

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


def letter_message(letter: dict[str, Any], time: datetime) -> dict[str, Any]:
    """The row of the outbox that carries a letter: the message as it came, with the reason in its headers."""
    told = {
        "error-code": letter["code"],
        "error-detail": letter["detail"][:1_000],
        "attempts": str(letter["attempts"]),
        "first-failed": letter["first_failed_at"].isoformat(),
        "dead-letter-id": letter["id"],
    }
    headers = (*headers_of(letter["headers"]), *((name, value.encode()) for name, value in told.items()))
    return {
        "tenant": letter["tenant"],
        "topic": letter["topic"] + LETTERS,
        "key": letter["key"],
        "value": letter["value"],
        "headers": headers_text(headers),
        "picture_id": letter["picture_id"] or None,
        "not_before": time,
    }
