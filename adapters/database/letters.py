"""Rows of dead letters, and the messages that carry them on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.engine import upsert
from adapters.database.picture_rows import headers_of, headers_text, outbox_row, picture_of
from adapters.database.picture_tables import dead_letters as table
from adapters.database.picture_tables import outbox, pictures
from modelmora.domain.events.codec import to_kept_parts
from modelmora.domain.events.images import registered
from modelmora.domain.pictures.picture import Picture
from modelmora.domain.pictures.way import Way
from modelmora.domain.registry.texts import readable
from modelmora.ids import new_id
from modelmora.ports import DeadLetter

LETTERS = ".dlq"
"""How the topic of dead letters ends."""
MOST_DETAIL = 2_000
_TEXTS = {"code": 100, "detail": MOST_DETAIL, "stage": 100, "picture_id": 200, "space": 200}
_PLAIN = ("id", "topic", "key", "value", "attempts", "first_failed_at", "failed_at", "replayed_at")


def letter_row(letter: DeadLetter, *, tenant: str) -> dict[str, Any]:
    """What came stays byte for byte; what is said of it is made fit to be kept."""
    said = {name: readable(getattr(letter, name), most=most) for name, most in _TEXTS.items()}
    plain = {name: getattr(letter, name) for name in _PLAIN}
    return {**plain, **said, "tenant": tenant, "headers": headers_text(letter.headers)}


def letter_of(row: Any) -> DeadLetter:
    return DeadLetter(**{name: row[name] for name in (*_PLAIN, *_TEXTS)}, headers=headers_of(row["headers"]))


async def add_letters(
    connection: AsyncConnection, letters: Iterable[DeadLetter], *, tenant: str, time: datetime
) -> None:
    """Those whose ids are not there yet, each with its message."""
    rows = {letter.id: letter_row(letter, tenant=tenant) for letter in reversed(list(letters))}
    if not rows:
        return
    given = [rows[id_] for id_ in sorted(rows)]
    statement = upsert(connection, table).on_conflict_do_nothing().returning(table.c.id)
    added = set((await connection.execute(statement, given)).scalars())
    if added:
        messages = [_message(rows[id_], time) for id_ in sorted(added)]
        await connection.execute(insert(outbox), messages)


async def bury(
    connection: AsyncConnection, ways: Sequence[Way], *, tenant: str, time: datetime, topic: str, source: str
) -> dict[str, Picture]:
    """A letter for each way that was given up, with the announcement that brings its picture back; their records."""
    if not ways:
        return {}
    mine = (pictures.c.tenant == tenant) & pictures.c.id.in_({way.picture_id for way in ways})
    found = (await connection.execute(select(pictures).where(mine))).mappings()
    records = {row["id"]: picture_of(row) for row in found}
    letters = [
        _letter(records[way.picture_id], way, time=time, topic=topic, source=source)
        for way in ways
        if way.picture_id in records
    ]
    await add_letters(connection, letters, tenant=tenant, time=time)
    return records


async def answer(
    connection: AsyncConnection, ways: Collection[tuple[str, str]], *, tenant: str, time: datetime
) -> None:
    """Letters of ways, by picture and space, that go on after all: nobody has to replay them."""
    if not ways:
        return
    mine = (table.c.tenant == tenant) & tuple_(table.c.picture_id, table.c.space).in_(ways)
    await connection.execute(update(table).where(mine, table.c.replayed_at.is_(None)).values(replayed_at=time))


def _letter(picture: Picture, way: Way, *, time: datetime, topic: str, source: str) -> DeadLetter:
    event = registered(picture, source=source, id_=new_id(), time=time, topic=topic)
    key, value, headers = to_kept_parts(event)
    return DeadLetter(
        id=new_id(),
        topic=topic,
        key=key,
        value=value,
        headers=headers,
        picture_id=picture.id,
        space=way.space,
        code=way.code,
        detail=way.detail,
        stage=way.stage,
        attempts=way.attempts,
        first_failed_at=way.first_failed_at or time,
        failed_at=time,
    )


def _message(letter: dict[str, Any], time: datetime) -> dict[str, Any]:
    """The row of the outbox that carries a letter: the message as it came, with the reason in its headers."""
    told = {
        "error-code": letter["code"],
        "error-detail": letter["detail"][:1_000],
        "attempts": str(letter["attempts"]),
        "first-failed": letter["first_failed_at"].isoformat(),
        "dead-letter-id": letter["id"],
    }
    headers = (*headers_of(letter["headers"]), *((name, value.encode()) for name, value in told.items()))
    return outbox_row(
        letter["topic"] + LETTERS,
        letter["key"],
        value=letter["value"],
        headers=headers_text(headers),
        tenant=letter["tenant"],
        picture_id=letter["picture_id"] or None,
        not_before=time,
    )
