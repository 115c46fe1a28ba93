"""Pictures as they come into their tables: new ones, known ones, those of a content that is there already."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, case, delete, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.engine import upsert
from adapters.database.picture_rows import event_row, picture_of, picture_row, way_of, way_row
from adapters.database.picture_tables import inbox, outbox, picture_tags, pictures, ways
from modelmora.domain.events.images import registered
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.pictures.picture import MOST_TAGS, Facts, Picture
from modelmora.domain.pictures.way import ENDED, Way
from modelmora.errors import Conflict
from modelmora.ids import new_id
from modelmora.ports import Registered, Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What stands for a registration now: its record, whether that is new or changed, or was another's."""

    picture: Picture
    fresh: bool = False
    known: bool = False
    duplicate: bool = False


class Registering:
    """One transaction that takes pictures in."""

    def __init__(self, connection: AsyncConnection, *, tenant: str, time: datetime, topic: str) -> None:
        self._connection = connection
        self._tenant = tenant
        self._time = time
        self._topic = topic

    async def take(self, asked: Sequence[Registration]) -> list[Outcome[Registered]]:
        """One outcome per registration, same order."""
        seen = await self._seen(asked)
        inserted = await self._insert(asked)
        by_id, by_content = await self._standing([one for one in asked if one.picture.id not in inserted])
        places: list[_Place | Conflict] = []
        for one in asked:
            if one.picture.id in inserted:
                inserted.discard(one.picture.id)  # who comes with the same id again finds what the first one made
                places.append(_Place(picture=one.picture, fresh=True))
                by_id[one.picture.id] = by_content[one.picture.collection, one.picture.sha256] = one.picture
                continue
            place = _placed(one, by_id, by_content, self._time)
            if isinstance(place, _Place) and place.fresh:
                by_id[place.picture.id] = by_content[place.picture.collection, place.picture.sha256] = place.picture
            places.append(place)
        await self._write(asked, places)
        held = await self._ways(asked, places)
        return [
            Failed(place)
            if isinstance(place, Conflict)
            else Ok(
                Registered(
                    picture=place.picture,
                    ways=held.get(place.picture.id, ()),
                    duplicate=place.duplicate,
                    seen=one.origin in seen,
                )
            )
            for one, place in zip(asked, places, strict=True)
        ]

    async def _seen(self, asked: Sequence[Registration]) -> Collection[tuple[str, str] | None]:
        """The origins that had been taken before."""
        origins = sorted({one.origin for one in asked if one.origin is not None})
        if not origins:
            return set()
        rows = [
            {"tenant": self._tenant, "source": source, "event_id": id_, "seen_at": self._time}
            for source, id_ in origins
        ]
        statement = upsert(self._connection, inbox).values(rows).on_conflict_do_nothing()
        added = await self._connection.execute(statement.returning(inbox.c.source, inbox.c.event_id))
        return set(origins) - {(row.source, row.event_id) for row in added}

    async def _insert(self, asked: Sequence[Registration]) -> set[str]:
        """The ids that are new. In the order of contents, so that two who bring the same wait for each other once."""
        rows = sorted((picture_row(one.picture) for one in asked), key=lambda row: (row["collection"], row["sha256"]))
        statement = upsert(self._connection, pictures).values(rows).on_conflict_do_nothing().returning(pictures.c.id)
        return set((await self._connection.execute(statement)).scalars())

    async def _standing(
        self, asked: Sequence[Registration]
    ) -> tuple[dict[str, Picture], dict[tuple[str, str], Picture]]:
        """The records that stand in the way, locked: by id, and by collection and content."""
        if not asked:
            return {}, {}
        contents = [(one.picture.collection, one.picture.sha256) for one in asked]
        alike = tuple_(pictures.c.collection, pictures.c.sha256).in_(contents) & pictures.c.deleted_at.is_(None)
        wanted = or_(pictures.c.id.in_([one.picture.id for one in asked]), alike)
        mine = and_(pictures.c.tenant == self._tenant, wanted)
        query = select(pictures).where(mine).order_by(pictures.c.id).with_for_update()
        found = [picture_of(row) for row in (await self._connection.execute(query)).mappings()]
        alive = {(one.collection, one.sha256): one for one in found if one.deleted_at is None}
        return {one.id: one for one in found}, alive

    async def _write(self, asked: Sequence[Registration], places: Sequence[_Place | Conflict]) -> None:
        """What changed of known records, the tags of all, and their announcements."""
        fresh = [(one, p.picture) for one, p in zip(asked, places, strict=True) if isinstance(p, _Place) and p.fresh]
        last = {picture.id: picture for _, picture in fresh}
        known = {p.picture.id for p in places if isinstance(p, _Place) and p.known}
        changed = [picture for picture in last.values() if picture.id in known]
        for picture in changed:
            row = picture_row(picture)
            mine = (pictures.c.tenant == self._tenant) & (pictures.c.id == picture.id)
            await self._connection.execute(update(pictures).where(mine).values(**row))
        if changed:
            ids = [picture.id for picture in changed]
            gone = (picture_tags.c.tenant == self._tenant) & picture_tags.c.picture_id.in_(ids)
            await self._connection.execute(delete(picture_tags).where(gone))
        await self._tag(last.values())
        rows = [self._announcement(one, picture) for one, picture in fresh if one.announce is not None]
        if rows:
            await self._connection.execute(insert(outbox), rows)

    async def _tag(self, all_: Iterable[Picture]) -> None:
        rows = [{"tenant": self._tenant, "picture_id": p.id, "tag": tag} for p in all_ for tag in p.facts.tags]
        if rows:
            await self._connection.execute(insert(picture_tags), rows)

    def _announcement(self, one: Registration, picture: Picture) -> dict[str, Any]:
        event = registered(picture, source=one.announce or "", id_=new_id(), time=self._time, topic=self._topic)
        return event_row(event, not_before=self._time + timedelta(seconds=one.hold_s), picture_id=picture.id)

    async def _ways(
        self, asked: Sequence[Registration], places: Sequence[_Place | Conflict]
    ) -> dict[str, tuple[Way, ...]]:
        """The ways that are to be gone now, by picture; those that are new or begin anew are written."""
        wanted: dict[str, tuple[Picture, set[str], bool]] = {}
        for one, place in zip(asked, places, strict=True):
            if isinstance(place, _Place) and place.picture.deleted_at is None:
                _, spaces, claim = wanted.get(place.picture.id, (None, set(), False))
                wanted[place.picture.id] = (place.picture, spaces | set(one.spaces), claim or one.claim)
        known = await ways_of(self._connection, wanted, tenant=self._tenant, lock=True)
        begun: list[Way] = []
        to_go: dict[str, tuple[Way, ...]] = {}
        for id_, (picture, spaces, claim) in wanted.items():
            there = {way.space: way for way in known.get(id_, ())}
            anew = [self._begun(picture, space, claim=claim) for space in sorted(spaces | set(there))]
            mine = [way for way in anew if self._to_go(there.get(way.space), picture, asked_for=way.space in spaces)]
            begun += mine
            to_go[id_] = tuple(mine)
        await self._begin(begun)
        return to_go

    def _begun(self, picture: Picture, space: str, *, claim: bool) -> Way:
        state = "working" if claim else "received"
        return Way(picture_id=picture.id, space=space, state=state, seq=picture.seq, changed_at=self._time)  # type: ignore[arg-type] # one of two

    def _to_go(self, way: Way | None, picture: Picture, *, asked_for: bool) -> bool:
        """Whether a way is to be gone: it is not there yet, of an older record, given up, or under way still."""
        if way is None:
            return asked_for
        if way.seq < picture.seq or way.state == "dead":
            return True
        if way.state == "retry_wait":
            return way.next_attempt_at is None or way.next_attempt_at <= self._time
        return way.state not in ENDED

    async def _begin(self, begun: Sequence[Way]) -> None:
        """An attempt that failed counts on while the record is the same."""
        if not begun:
            return
        rows = [
            {"tenant": self._tenant, **way_row(way)} for way in sorted(begun, key=lambda w: (w.picture_id, w.space))
        ]
        statement = upsert(self._connection, ways).values(rows)
        given = statement.excluded
        same = (ways.c.seq == given.seq) & (ways.c.state != "dead")
        statement = statement.on_conflict_do_update(
            index_elements=ways.primary_key.columns,
            set_={
                "state": given.state,
                "seq": given.seq,
                "attempts": case((same, ways.c.attempts), else_=0),
                "first_failed_at": case((same, ways.c.first_failed_at), else_=None),
                "next_attempt_at": None,
                "changed_at": given.changed_at,
            },
        )
        await self._connection.execute(statement)


async def ways_of(
    connection: AsyncConnection, ids: Iterable[str], *, tenant: str, lock: bool = False
) -> dict[str, tuple[Way, ...]]:
    """The ways of pictures by their ids, by space."""
    wanted = list(ids)
    if not wanted:
        return {}
    query = select(ways).where(ways.c.tenant == tenant, ways.c.picture_id.in_(wanted))
    query = query.order_by(ways.c.picture_id, ways.c.space)
    found: dict[str, tuple[Way, ...]] = {}
    for row in (await connection.execute(query.with_for_update() if lock else query)).mappings():
        found[row["picture_id"]] = (*found.get(row["picture_id"], ()), way_of(row))
    return found


def _placed(
    one: Registration, by_id: dict[str, Picture], by_content: dict[tuple[str, str], Picture], time: datetime
) -> _Place | Conflict:
    """What becomes of a picture whose id or content is there already."""
    came, known = one.picture, by_id.get(one.picture.id)
    alike = by_content.get((came.collection, came.sha256))
    if known is None or known.deleted_at is not None:
        if known is not None or alike is None:
            return _Place(picture=known or came)
        return _merged(alike, came, time)
    if known.collection != came.collection:
        said = f"picture {came.id} is in the collection {known.collection}"
        return Conflict(said, field="image_id", found=came.id, expected="another id, or that collection")
    if came.seq <= known.seq:
        return _Place(picture=known)
    if alike is not None and alike.id != known.id:
        said = f"these bytes are picture {alike.id} of the collection already"
        return Conflict(said, field="sha256", found=came.sha256, expected="bytes that are not there yet")
    return _Place(picture=replace(came, created_at=known.created_at, changed_at=time), fresh=True, known=True)


def _merged(there: Picture, came: Picture, time: datetime) -> _Place:
    """Another of the same content: what is newly said of it is added."""
    tags = tuple(dict.fromkeys((*there.facts.tags, *came.facts.tags)))[:MOST_TAGS]
    facts = Facts(
        filename=there.facts.filename or came.facts.filename,
        tags=tags,
        metadata={**there.facts.metadata, **came.facts.metadata},
    )
    if facts == there.facts:
        return _Place(picture=there, duplicate=True)
    changed = replace(there, facts=facts, seq=there.seq + 1, changed_at=time)
    return _Place(picture=changed, fresh=True, known=True, duplicate=True)
