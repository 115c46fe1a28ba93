"""What becomes of pictures that come: decided in memory, one after the other, and what is to be written remembered."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from adapters.database.picture_rows import facts_text
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.pictures.picture import Facts, Picture
from modelmora.domain.pictures.way import ENDED, Way
from modelmora.errors import Conflict, ModelMoraError
from modelmora.ports import Registered, Registration

GIVEN_UP = frozenset({"rejected", "dead"})
_OVER = frozenset({"superseded", "tombstoned"})


class Shelf:
    """The pictures that stand in the way of some registrations, their ways, and the events that were taken before.

    After `take` of each: `new` and `changed` records by id, `begun` ways by picture and space, `told` registrations
    with the record that is to be announced, `taken` origins, `answered` ways whose dead letters have no question left.
    """

    def __init__(
        self,
        pictures: Iterable[Picture],
        ways: Mapping[str, Iterable[Way]],
        *,
        seen: Collection[tuple[str, str]],
        time: datetime,
    ) -> None:
        self._pictures = {picture.id: picture for picture in pictures}
        self._contents = {_content(one): one.id for one in self._pictures.values() if one.deleted_at is None}
        self._ways = {id_: {way.space: way for way in of} for id_, of in ways.items()}
        self._seen = set(seen)
        self._time = time
        self.new: dict[str, Picture] = {}
        self.changed: dict[str, Picture] = {}
        self.begun: dict[tuple[str, str], Way] = {}
        self.told: list[tuple[Registration, Picture]] = []
        self.taken: list[tuple[str, str]] = []
        self.answered: set[tuple[str, str]] = set()

    def take(self, one: Registration) -> Outcome[Registered]:
        """What stands for it now. An event that was taken before adds nothing: what it said may be outdated."""
        seen = one.origin is not None and one.origin in self._seen
        try:
            answer = self._place(one, seen=seen)
        except ModelMoraError as error:
            return Failed(error)
        if one.origin is not None and not seen:
            self._seen.add(one.origin)
            self.taken.append(one.origin)
        return Ok(replace(answer, seen=seen))

    def _place(self, one: Registration, *, seen: bool) -> Registered:
        came = one.picture
        if (known := self._pictures.get(came.id)) is not None:
            return self._known(known, one, seen=seen)
        if (alike := self._contents.get(_content(came))) is not None:
            return self._alike(self._pictures[alike], one, seen=seen)
        if seen:  # what it brought was removed since
            return Registered(picture=came)
        self._put(came)
        return self._begin(came, one)

    def _known(self, known: Picture, one: Registration, *, seen: bool) -> Registered:
        came = one.picture
        if known.collection != came.collection:
            said = f"picture {came.id} is in the collection {known.collection}"
            raise Conflict(said, field="image_id", found=came.id, expected="another id, or that collection")
        if known.deleted_at is not None:
            return Registered(picture=known)
        if seen or came.seq <= known.seq:
            return Registered(picture=known, ways=self._go_on(known, one))
        if self._contents.get(_content(came), came.id) != came.id:
            said = f"these bytes are picture {self._contents[_content(came)]} of the collection already"
            raise Conflict(said, field="sha256", found=came.sha256, expected="bytes that are not there yet")
        newer = replace(came, created_at=known.created_at, changed_at=self._time)
        self._put(newer)
        return self._begin(newer, one)

    def _alike(self, there: Picture, one: Registration, *, seen: bool) -> Registered:
        """Another of the same content: what is newly said of it is added, and what was given up is tried again."""
        if seen:
            return Registered(picture=there, ways=self._go_on(there, one), duplicate=True)
        facts, expires = _merged(there.facts, one.picture.facts), _later(there.expires_at, one.picture.expires_at)
        if facts_text(facts) != facts_text(there.facts):
            changed = replace(there, facts=facts, expires_at=expires, seq=there.seq + 1, changed_at=self._time)
            self._put(changed)
            return replace(self._begin(changed, one), duplicate=True)
        if expires != there.expires_at:
            there = replace(there, expires_at=expires, changed_at=self._time)
            self._put(there)
        return Registered(picture=there, ways=self._go_on(there, one, revive=True), duplicate=True)

    def _put(self, picture: Picture) -> None:
        before = self._pictures.get(picture.id)
        if before is not None:
            self._contents.pop(_content(before), None)
        self._pictures[picture.id] = picture
        self._contents[_content(picture)] = picture.id
        (self.new if before is None or picture.id in self.new else self.changed)[picture.id] = picture

    def _begin(self, picture: Picture, one: Registration) -> Registered:
        """All ways that are asked for, from their beginning; others are of a record that is no more."""
        there = self._ways.setdefault(picture.id, {})
        for way in [way for space, way in there.items() if space not in one.spaces and way.state not in _OVER]:
            self._write(replace(way, state="superseded", next_attempt_at=None, changed_at=self._time))
        ways = tuple(self._fresh(picture, space, one) for space in sorted(set(one.spaces)))
        self._tell(one, picture)
        return Registered(picture=picture, ways=ways)

    def _go_on(self, picture: Picture, one: Registration, *, revive: bool = False) -> tuple[Way, ...]:
        """The ways that are not ended, or not there yet; with `revive` those as well that are dead."""
        there, going, fresh = self._ways.setdefault(picture.id, {}), [], False
        for space in sorted({*there, *one.spaces}):
            way = there.get(space)
            if way is None or way.state == "superseded" or (revive and way.state == "dead"):
                if space in one.spaces:
                    going.append(self._fresh(picture, space, one))
                    fresh = True
            elif self._is_due(way):
                going.append(self._claimed(way) if one.claim else way)
        if fresh:
            self._tell(one, picture)
        return tuple(going)

    def _is_due(self, way: Way) -> bool:
        if way.state == "retry_wait":
            return way.next_attempt_at is None or way.next_attempt_at <= self._time
        return way.state not in ENDED

    def _fresh(self, picture: Picture, space: str, one: Registration) -> Way:
        state = "working" if one.claim else "received"
        return self._write(
            Way(picture_id=picture.id, space=space, state=state, seq=picture.seq, changed_at=self._time)  # type: ignore[arg-type] # one of two
        )

    def _claimed(self, way: Way) -> Way:
        return self._write(replace(way, state="working", next_attempt_at=None, changed_at=self._time))

    def _write(self, way: Way) -> Way:
        there = self._ways.setdefault(way.picture_id, {})
        if way.space in there and there[way.space].state in GIVEN_UP:
            self.answered.add((way.picture_id, way.space))
        there[way.space] = self.begun[way.picture_id, way.space] = way
        return way

    def _tell(self, one: Registration, picture: Picture) -> None:
        if one.announce is not None:
            self.told.append((one, picture))


def _content(picture: Picture) -> tuple[str, str]:
    return picture.collection, picture.sha256


def _merged(there: Facts, came: Facts) -> Facts:
    """Raises LimitExceeded where both together are too many."""
    return Facts.checked(
        filename=there.filename or came.filename,
        tags=[*there.tags, *came.tags],
        metadata={**there.metadata, **came.metadata},
    )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    """None is never."""
    return None if one is None or other is None else max(one, other)
