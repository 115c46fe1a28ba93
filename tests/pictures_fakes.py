"""Fakes of the ports of kept pictures, in memory: what is decided about records is decided by the database's own rules.

`FakeDatabase` has the ports by the names that `adapters.database.Database` has them by. Each fake is `away` where that
is set: whatever is asked of it raises it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import numpy as np

from adapters.database.announcing import REMEMBERED
from adapters.database.finishing import _after
from adapters.database.keepable import refuse_unkeepable
from adapters.database.shelf import GIVEN_UP, Shelf
from modelmora.domain.events.codec import read_event, to_kept_parts
from modelmora.domain.events.envelope import Event
from modelmora.domain.events.images import failed, registered, removed
from modelmora.domain.outcome import Failed, Outcome
from modelmora.domain.pictures.picture import Facts, Picture
from modelmora.domain.pictures.search import Filter, Hit, Point, Question, Range
from modelmora.domain.pictures.spaces import Index, IndexSettings, IndexState, Space
from modelmora.domain.pictures.way import Step, Verdict, Way, shown
from modelmora.domain.registry.pages import Page, Paging
from modelmora.errors import (
    Conflict,
    ImageNotFound,
    InputError,
    LimitExceeded,
    ModelMoraError,
    ModelNotFound,
    ValidationFailed,
)
from modelmora.ids import new_id
from modelmora.ports import DeadLetter, Kept, Look, PictureQuery, Registered, Registration
from modelmora.ports.pictures import NEWEST_FIRST
from tests.pictures import Time, digest

T = TypeVar("T", Picture, DeadLetter)
TOPIC = "modelmora.images"


@dataclass(slots=True)
class _Waiting:
    kept: Kept
    not_before: datetime
    picture_id: str | None = None


class _Store:
    """The tables of a database."""

    def __init__(self, time: Callable[[], datetime]) -> None:
        self.time = time
        self.away: ModelMoraError | None = None
        self.pictures: dict[str, Picture] = {}
        self.ways: dict[tuple[str, str], Way] = {}
        self.outbox: list[_Waiting] = []
        self.inbox: dict[tuple[str, str], datetime] = {}
        self.letters: dict[str, DeadLetter] = {}
        self.indexes: dict[Space, Index] = {}
        self.numbers = 0
        self.calls: list[str] = []

    def open(self, call: str) -> None:
        """Every question begins here."""
        self.calls.append(call)
        if self.away is not None:
            raise self.away

    def send(
        self, topic: str, key: bytes, value: bytes, headers: Any, *, hold_s: float = 0.0, picture_id: str | None = None
    ) -> None:
        self.numbers += 1
        kept = Kept(number=self.numbers, topic=topic, key=key, value=value, headers=tuple(headers))
        self.outbox.append(_Waiting(kept, self.time() + timedelta(seconds=hold_s), picture_id))

    def tell(self, event: Event, *, hold_s: float = 0.0, picture_id: str | None = None) -> None:
        self.send(event.topic, *to_kept_parts(event), hold_s=hold_s, picture_id=picture_id)

    def of(self, id_: str) -> tuple[Way, ...]:
        return tuple(self.ways[key] for key in sorted(self.ways) if key[0] == id_)

    def announce(self, ids: Collection[str], source: str) -> int:
        found = [self.pictures[id_] for id_ in sorted(ids) if self.pictures[id_].deleted_at is None]
        for one in found:
            event = registered(one, source=source, id_=new_id(), time=self.time(), topic=TOPIC)
            self.tell(event, picture_id=one.id)
        return len(found)

    def bury(self, way: Way, source: str) -> None:
        """A letter, and its message."""
        picture = self.pictures[way.picture_id]
        event = registered(picture, source=source, id_=new_id(), time=self.time(), topic=TOPIC)
        key, value, headers = to_kept_parts(event)
        letter = DeadLetter(
            id=new_id(),
            topic=TOPIC,
            key=key,
            value=value,
            headers=headers,
            picture_id=way.picture_id,
            space=way.space,
            code=way.code,
            detail=way.detail,
            stage=way.stage,
            attempts=way.attempts,
            first_failed_at=way.first_failed_at or self.time(),
            failed_at=self.time(),
        )
        self.put_letter(letter)

    def put_letter(self, letter: DeadLetter) -> None:
        if letter.id not in self.letters:
            self.letters[letter.id] = letter
            told = {
                "error-code": letter.code,
                "error-detail": letter.detail[:1_000],
                "attempts": str(letter.attempts),
                "first-failed": letter.first_failed_at.isoformat(),
                "dead-letter-id": letter.id,
            }
            headers = (*letter.headers, *((name, value.encode(errors="replace")) for name, value in told.items()))
            self.send(f"{letter.topic}.dlq", letter.key, letter.value, headers, picture_id=letter.picture_id or None)

    def answer(self, ways: Collection[tuple[str, str]]) -> None:
        for id_, letter in self.letters.items():
            if (letter.picture_id, letter.space) in ways and letter.replayed_at is None:
                self.letters[id_] = replace(letter, replayed_at=self.time())


class FakeRecords:
    """The port `PictureRecords`."""

    def __init__(self, store: _Store) -> None:
        self._store = store

    async def register(self, registrations: Sequence[Registration]) -> list[Outcome[Registered]]:
        store = self._store
        store.open("register")
        ways: dict[str, list[Way]] = {}
        for way in store.ways.values():
            ways.setdefault(way.picture_id, []).append(way)
        shelf = Shelf(store.pictures.values(), ways, seen=store.inbox, time=store.time())
        outcomes = [self._taken(shelf, one) for one in registrations]
        store.pictures |= shelf.changed | shelf.new
        store.ways |= shelf.begun
        store.answer(shelf.answered)
        for one, picture in shelf.told:
            event = registered(picture, source=one.announce or "", id_=new_id(), time=store.time(), topic=TOPIC)
            store.tell(event, hold_s=one.hold_s, picture_id=picture.id)
        store.inbox |= dict.fromkeys(shelf.taken, store.time())
        return outcomes

    def _taken(self, shelf: Shelf, one: Registration) -> Outcome[Registered]:
        try:
            refuse_unkeepable(one, tenant="default")
        except InputError as error:
            return Failed(error)
        return shelf.take(one)

    async def finish(self, steps: Sequence[Step]) -> None:
        store = self._store
        store.open("finish")
        for step in steps:
            before = store.ways.get((step.picture_id, step.space))
            after = _after(before, step, store.time()) if before is not None else None
            if before is None or after is None:
                continue
            store.ways[step.picture_id, step.space] = after
            if step.event is not None:
                store.tell(step.event, picture_id=step.picture_id)
            if after.state in GIVEN_UP:
                store.bury(after, step.event.source if step.event else "/modelmora")
            elif before.state in GIVEN_UP:
                store.answer([(step.picture_id, step.space)])
        through = {step.picture_id for step in steps if not self._goes(step.picture_id)}
        for waiting in store.outbox:
            if waiting.picture_id in through:
                waiting.not_before = min(waiting.not_before, store.time())

    def _goes(self, id_: str) -> bool:
        return any(way.state in ("working", "received") for way in self._store.of(id_))

    async def get(self, id_: str, *, deleted: bool = False) -> Picture:
        self._store.open("get")
        found = self._store.pictures.get(id_)
        if found is None or (found.deleted_at is not None and not deleted):
            raise ImageNotFound(f"there is no picture {id_}", field="id", found=id_[:80])
        return found

    async def ways(self, ids: Collection[str]) -> dict[str, tuple[Way, ...]]:
        self._store.open("ways")
        return {id_: ways for id_ in ids if (ways := self._store.of(id_))}

    async def find(self, query: PictureQuery) -> Page[Picture]:
        self._store.open("find")
        found = [one for one in self._store.pictures.values() if self._matches(one, query)]
        return _page(found, query.page, lambda one: (one.created_at.isoformat(), one.id))

    def _matches(self, one: Picture, query: PictureQuery) -> bool:
        deleted = one.deleted_at is not None
        state = shown(self._store.of(one.id), deleted=deleted)
        return all(
            (
                query.collection in (None, one.collection),
                not deleted if query.state is None else state == query.state,
                not query.any_tags or bool({*query.any_tags} & {*one.facts.tags}),
                query.sha256 in (None, one.sha256),
                query.created_before is None or one.created_at < query.created_before,
            )
        )

    async def count(self, *, collection: str | None = None) -> int:
        self._store.open("count")
        return sum(collection in (None, one.collection) for one in self._alive())

    async def collections(self) -> tuple[str, ...]:
        self._store.open("collections")
        return tuple(sorted({one.collection for one in self._alive()}))

    def _alive(self) -> list[Picture]:
        return [one for one in self._store.pictures.values() if one.deleted_at is None]

    async def remove(self, ids: Sequence[str], *, source: str) -> tuple[Picture, ...]:
        store = self._store
        store.open("remove")
        time = store.time()
        found = sorted((one for one in self._alive() if one.id in ids), key=lambda one: one.id)
        gone = tuple(replace(one, seq=one.seq + 1, changed_at=time, deleted_at=time) for one in found)
        named = {one.id for one in gone}
        store.pictures |= {one.id: replace(one, facts=Facts()) for one in gone}
        store.ways |= {
            key: replace(way, state="tombstoned", next_attempt_at=None, changed_at=time)
            for key, way in store.ways.items()
            if key[0] in named
        }
        store.letters = {id_: one for id_, one in store.letters.items() if one.picture_id not in named}
        store.outbox = [one for one in store.outbox if one.picture_id not in named]
        for one in gone:
            store.tell(removed(one, source=source, id_=new_id(), time=time, topic=TOPIC), picture_id=one.id)
        return gone

    async def used(self, sha256: str) -> bool:
        self._store.open("used")
        return any(one.sha256 == sha256 for one in self._alive())

    async def expired(self, *, limit: int) -> tuple[Picture, ...]:
        self._store.open("expired")
        time = self._store.time()
        return tuple(one for one in self._alive() if one.expires_at is not None and one.expires_at <= time)[:limit]

    async def announce_again(self, *, stuck_s: float, tries: int, limit: int, source: str) -> int:
        store = self._store
        store.open("announce_again")
        store.inbox = {origin: at for origin, at in store.inbox.items() if at >= store.time() - REMEMBERED}
        due = [way for way in store.ways.values() if self._is_due(way, timedelta(seconds=stuck_s))][:limit]
        told = set()
        for way in due:
            again = replace(way, state="received", next_attempt_at=None, changed_at=store.time())
            if way.state == "working":
                again = replace(again, attempts=way.attempts + 1, first_failed_at=way.first_failed_at or way.changed_at)
                if again.attempts >= tries:
                    self._give_up(again, source)
                    continue
            store.ways[way.picture_id, way.space] = again
            told.add(way.picture_id)
        return store.announce(told, source)

    def _give_up(self, way: Way, source: str) -> None:
        store = self._store
        said = f"no progress was made in {way.attempts} tries"
        dead = replace(way, state="dead", code="deadline_exceeded", detail=said)
        store.ways[way.picture_id, way.space] = dead
        store.bury(dead, source)
        verdict = Verdict(state="dead", stage=dead.stage, code=dead.code, detail=dead.detail)
        told = {"source": source, "id_": new_id(), "topic": TOPIC}
        picture = store.pictures[way.picture_id]
        event = failed(picture, way.space, verdict, attempts=way.attempts, time=store.time(), **told)
        store.tell(event, picture_id=way.picture_id)

    def _is_due(self, way: Way, stuck: timedelta) -> bool:
        time = self._store.time()
        if way.state == "retry_wait":
            return way.next_attempt_at is not None and way.next_attempt_at <= time
        waits = any(one.picture_id == way.picture_id for one in self._store.outbox)
        return way.state in ("working", "received") and way.changed_at <= time - stuck and not waits

    async def missing(self, space: str, *, collection: str, after: str | None, limit: int) -> tuple[Picture, ...]:
        self._store.open("missing")

        def is_missing(one: Picture) -> bool:
            way = self._store.ways.get((one.id, space))
            return way is None or way.state != "indexed" or way.seq != one.seq

        there = sorted((one for one in self._alive() if one.collection == collection), key=lambda one: one.id)
        return tuple(one for one in there if (after is None or one.id > after) and is_missing(one))[:limit]

    async def lag(self) -> dict[str, int]:
        self._store.open("lag")
        states = [way.state for way in self._store.ways.values()]
        return {state: states.count(state) for state in states}


class FakeOutbox:
    """The port `Outbox`."""

    def __init__(self, store: _Store) -> None:
        self._store = store

    async def add(self, events: Sequence[Event]) -> None:
        self._store.open("outbox.add")
        for event in events:
            self._store.tell(event)

    async def due(self, *, limit: int) -> tuple[Kept, ...]:
        self._store.open("outbox.due")
        held: set[tuple[str, bytes]] = set()
        due: list[Kept] = []
        for one in self._store.outbox:
            lane = (one.kept.topic, one.kept.key)
            if one.not_before > self._store.time():
                held.add(lane)
            elif lane not in held:
                due.append(one.kept)
        return tuple(due[:limit])

    async def carried(self, numbers: Sequence[int]) -> None:
        self._store.open("outbox.carried")
        self._store.outbox = [one for one in self._store.outbox if one.kept.number not in numbers]

    async def waiting(self) -> int:
        self._store.open("outbox.waiting")
        return len(self._store.outbox)


class FakeDeadLetters:
    """The port `DeadLetters`."""

    def __init__(self, store: _Store) -> None:
        self._store = store

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        self._store.open("letters.add")
        for letter in letters:
            self._store.put_letter(letter)

    async def get(self, id_: str) -> DeadLetter:
        self._store.open("letters.get")
        if id_ not in self._store.letters:
            raise ImageNotFound(f"there is no dead letter {id_}", field="id", found=id_[:80])
        return self._store.letters[id_]

    async def find(self, *, code: str | None = None, page: Paging = NEWEST_FIRST) -> Page[DeadLetter]:
        self._store.open("letters.find")
        found = [one for one in self._store.letters.values() if code in (None, one.code)]
        return _page(found, page, lambda one: (one.failed_at.isoformat(), one.id))

    async def replay(self, ids: Sequence[str], *, source: str) -> int:
        store = self._store
        store.open("letters.replay")
        found = [one for one in store.letters.values() if one.id in ids and one.replayed_at is None]
        told = set()
        for letter in found:
            way = store.ways.get((letter.picture_id, letter.space))
            if way is None:
                store.send(letter.topic, letter.key, letter.value, letter.headers)
            elif way.state in GIVEN_UP:
                anew = replace(way, state="received", attempts=0, next_attempt_at=None, first_failed_at=None)
                store.ways[letter.picture_id, letter.space] = replace(anew, changed_at=store.time())
                told.add(letter.picture_id)
            store.letters[letter.id] = replace(letter, replayed_at=store.time())
        store.announce(told, source)
        return len(found)

    async def remove(self, ids: Sequence[str]) -> int:
        self._store.open("letters.remove")
        return sum(self._store.letters.pop(id_, None) is not None for id_ in ids)

    async def count(self) -> int:
        self._store.open("letters.count")
        return sum(one.replayed_at is None for one in self._store.letters.values())


class FakeIndexes:
    """The port `Indexes`."""

    def __init__(self, store: _Store) -> None:
        self._store = store

    async def add(self, index: Index) -> Index:
        self._store.open("indexes.add")
        there = self._store.indexes
        if index.space not in there:
            live = self._live(index.space) if index.state == "live" else None
            if live is not None:
                return live
            there[index.space] = index
        return there[index.space]

    async def all(self, *, collection: str | None = None) -> tuple[Index, ...]:
        self._store.open("indexes.all")
        found = [one for one in self._store.indexes.values() if collection in (None, one.space.collection)]
        order = [(one.space.collection, one.space.model, one.created_at, one.space.version) for one in found]
        return tuple(one for _, one in sorted(zip(order, found, strict=True), key=lambda pair: pair[0]))

    async def change(self, index: Index, *, from_: Collection[IndexState]) -> bool:
        self._store.open("indexes.change")
        there = self._store.indexes.get(index.space)
        if there is None or there.state not in from_:
            return False
        live = self._live(index.space) if index.state == "live" else None
        if live is not None and live.space != index.space:
            raise Conflict(f"another index of {index.space.model} is live; switch to {index.space.key} instead")
        self._store.indexes[index.space] = replace(index, changed_at=self._store.time())
        return True

    async def switch(self, to: Space) -> Index | None:
        self._store.open("indexes.switch")
        there, time = self._store.indexes, self._store.time()
        if to not in there:
            raise ModelNotFound(f"there is no index of {to.key} in the collection {to.collection}", field="version")
        before = self._live(to)
        before = before if before is not None and before.space != to else None
        if before is not None:
            there[before.space] = replace(before, state="draining", changed_at=time)
        there[to] = replace(there[to], state="live", changed_at=time)
        return before

    async def remove(self, space: Space) -> None:
        self._store.open("indexes.remove")
        self._store.indexes.pop(space, None)

    def _live(self, space: Space) -> Index | None:
        found = (one for one in self._store.indexes.values() if one.space.alias == space.alias and one.state == "live")
        return next(found, None)


class FakeDatabase:
    """All ports over one store; `away` takes them all away. `calls` are the questions that were asked."""

    def __init__(self, time: Callable[[], datetime] | None = None) -> None:
        self.store = _Store(time or Time())
        self.pictures = FakeRecords(self.store)
        self.outbox = FakeOutbox(self.store)
        self.dead_letters = FakeDeadLetters(self.store)
        self.indexes = FakeIndexes(self.store)

    @property
    def calls(self) -> list[str]:
        return self.store.calls

    async def close(self) -> None:
        return

    def states(self, id_: str) -> dict[str, str]:
        """Of each way of a picture, by its space."""
        return {way.space: way.state for way in self.store.of(id_)}

    def told(self, topic: str = TOPIC) -> list[Event]:
        """The events that wait in the outbox, in order."""
        waiting = (one.kept for one in self.store.outbox if one.kept.topic == topic)
        return [read_event(kept.value, key=kept.key, headers=kept.headers, topic=kept.topic) for kept in waiting]

    def types(self) -> list[str]:
        """Their types without what all have in common: `image.registered.v1`."""
        return [event.type.split(".", 2)[2] for event in self.told()]


@dataclass(slots=True)
class _Index:
    dimension: int
    settings: IndexSettings
    points: dict[str, Point] = field(default_factory=dict)


class FakeVectors:
    """The port `Vectors`. `refuses` are ids of pictures whose upsert is a defect of the store's."""

    def __init__(self) -> None:
        self.away: ModelMoraError | None = None
        self.refuses: set[str] = set()
        self.indexes: dict[str, _Index] = {}
        self.aliases: dict[str, str] = {}
        self.upserts: list[tuple[str, list[str]]] = []

    async def create(self, name: str, *, dimension: int, settings: IndexSettings) -> None:
        self._open()
        there = self.indexes.setdefault(name, _Index(dimension, settings))
        if there.dimension != dimension:
            raise Conflict(f"the index {name} is of {there.dimension} dimensions", field="dimension")

    async def upsert(self, name: str, points: Sequence[Point]) -> None:
        self._open()
        ids = [point.provenance.picture_id for point in points]
        self.upserts.append((name, ids))
        index = self._index(name)
        if index is None:
            raise ModelNotFound(f"there is no index {name}", field="index", found=name)
        if self.refuses & {*ids}:
            raise RuntimeError("the store does not like one of these points")
        for point in points:
            _row(point.vector, index.dimension)
        for point in points:
            there = index.points.get(point.provenance.picture_id)
            if there is None or there.provenance.seq <= point.provenance.seq:
                index.points[point.provenance.picture_id] = point

    async def delete(self, name: str, picture_ids: Sequence[str]) -> None:
        self._open()
        index = self._index(name)
        for id_ in picture_ids if index is not None else ():
            index.points.pop(id_, None)  # type: ignore[union-attr] # there is nothing to go through where it is None

    async def vectors(self, name: str, picture_ids: Sequence[str]) -> Mapping[str, bytes]:
        self._open()
        index = self._index(name)
        there = index.points if index is not None else {}
        return {id_: _bytes(there[id_].vector) for id_ in picture_ids if id_ in there}

    async def points(self, name: str, picture_ids: Sequence[str]) -> list[Point]:
        self._open()
        index = self._index(name)
        there = index.points if index is not None else {}
        return [there[id_] for id_ in picture_ids if id_ in there]

    async def search(self, name: str, question: Question) -> list[Hit]:
        self._open()
        index = self._index(name)
        if index is None:
            return []
        asked = _row(question.vector, index.dimension)
        hits = [_hit(point, float(asked @ _row(point.vector, index.dimension))) for point in index.points.values()]
        least = question.score_threshold if question.score_threshold is not None else -2.0
        fitting = [hit for hit in hits if hit.score >= least and _fits(hit, question)]
        ordered = sorted(fitting, key=lambda hit: (-hit.score, hit.id))
        if question.group_by is None:
            return ordered[question.offset : question.offset + question.limit]
        return _grouped(ordered, question)

    async def count(self, name: str) -> int:
        self._open()
        index = self._index(name)
        return 0 if index is None else len(index.points)

    async def ids(self, name: str, *, after: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        self._open()
        index = self._index(name)
        there = sorted(id_ for id_ in (index.points if index else ()) if after is None or id_ >= after)
        return tuple(there[:limit]), there[limit] if len(there) > limit else None

    async def switch(self, alias: str, name: str) -> None:
        self._open()
        if name not in self.indexes:
            raise ModelNotFound(f"there is no index {name}", field="index", found=name)
        self.aliases[alias] = name

    async def standing(self) -> Mapping[str, str]:
        self._open()
        return dict(self.aliases)

    async def names(self) -> tuple[str, ...]:
        self._open()
        return tuple(sorted(self.indexes))

    async def drop(self, name: str) -> None:
        self._open()
        self.indexes.pop(name, None)
        self.aliases = {alias: to for alias, to in self.aliases.items() if to != name}

    async def ping(self) -> float:
        self._open()
        return 0.0

    async def close(self) -> None:
        return

    def ids_in(self, name: str) -> list[str]:
        """The pictures in an index, or in what an alias stands for."""
        index = self._index(name)
        return sorted(index.points) if index is not None else []

    def _index(self, name: str) -> _Index | None:
        return self.indexes.get(self.aliases.get(name, name))

    def _open(self) -> None:
        if self.away is not None:
            raise self.away


class FakeFiles:
    """The port `PictureFiles` over a dictionary; `fails` are objects that cannot be had, with the reason."""

    def __init__(self) -> None:
        self.away: ModelMoraError | None = None
        self.fails: dict[str, ModelMoraError] = {}
        self.objects: dict[str, bytes] = {}
        self.thumbnails: dict[str, bytes] = {}
        self.gets: list[str] = []

    async def put(self, sha256: str, data: bytes, *, content_type: str) -> str:
        self._open()
        self.objects[self.place(sha256)] = data
        return self.place(sha256)

    def place(self, sha256: str) -> str:
        return f"s3://pictures/{sha256}"

    async def get(self, object_: str, *, max_bytes: int) -> bytes:
        self._open()
        self.gets.append(object_)
        if object_ in self.fails:
            raise self.fails[object_]
        if object_ not in self.objects:
            raise ImageNotFound(f"there is no {object_}", field="object", found=object_)
        if len(self.objects[object_]) > max_bytes:
            raise LimitExceeded(f"{object_} is too large", field="object")
        return self.objects[object_]

    async def remove(self, sha256: str) -> None:
        self._open()
        self.objects.pop(f"s3://pictures/{sha256}", None)
        self.thumbnails.pop(sha256, None)

    async def put_thumbnail(self, sha256: str, data: bytes) -> None:
        self._open()
        self.thumbnails[sha256] = data

    async def thumbnail(self, sha256: str) -> bytes | None:
        self._open()
        return self.thumbnails.get(sha256)

    async def ping(self) -> float:
        self._open()
        return 0.0

    def lie(self, data: bytes) -> str:
        """An object of these bytes under its own name, as a producer stores it."""
        name = f"s3://pictures/{digest(data)}"
        self.objects[name] = data
        return name

    def _open(self) -> None:
        if self.away is not None:
            raise self.away


class FakeLooks:
    """The port `PictureLooks`: all is a PNG of 4 by 2; what contains a marker of `fails` fails with its error."""

    def __init__(self) -> None:
        self.away: ModelMoraError | None = None
        self.fails: dict[bytes, ModelMoraError] = {}
        self.looks = 0

    async def look(self, data: bytes, *, deadline: float) -> Look:
        if self.away is not None:
            raise self.away
        self.looks += 1
        for marker, error in self.fails.items():
            if marker in data:
                raise error
        return Look(content_type="image/png", width=4, height=2, thumbnail=b"small " + data[:16])


class FakeLeases:
    """The port `Leases`: of each name one has it, until it is let go of; `taken` are those that others have."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.holders: dict[str, str] = {}

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        if name in self.taken or self.holders.setdefault(name, holder) != holder:
            return None
        return 1

    async def release(self, name: str, holder: str) -> None:
        if self.holders.get(name) == holder:
            del self.holders[name]


def _page(found: Sequence[T], page: Paging, order: Callable[[T], tuple[str, str]]) -> Page[T]:
    ordered = sorted(found, key=order, reverse=page.descending)
    if page.cursor is not None:
        try:
            seen = tuple(json.loads(page.cursor))
        except ValueError:
            raise ValidationFailed("not a cursor of this list in this order", field="cursor") from None
        ordered = [one for one in ordered if (order(one) < seen if page.descending else order(one) > seen)]
    items = tuple(ordered[: page.limit])
    return Page(items, json.dumps(order(items[-1])) if len(ordered) > page.limit else None)


def _bytes(vector: Sequence[float] | bytes) -> bytes:
    return vector if isinstance(vector, bytes) else np.array(vector, "<f4").tobytes()


def _row(vector: Sequence[float] | bytes, dimension: int) -> Any:
    row = np.frombuffer(_bytes(vector), "<f4").astype(np.float64)
    if len(row) != dimension:
        found, expected = str(len(row)), str(dimension)
        raise ValidationFailed("a vector of another length", field="vector", found=found, expected=expected)
    return row / (np.linalg.norm(row) or 1.0)


def _hit(point: Point, score: float) -> Hit:
    return Hit(
        id=point.provenance.picture_id,
        score=score,
        facts=point.facts,
        provenance=point.provenance,
        content_type=point.content_type,
        created_at=point.created_at,
    )


def _grouped(ordered: Sequence[Hit], question: Question) -> list[Hit]:
    groups: dict[Any, list[Hit]] = {}
    for hit in ordered:
        value = hit.facts.metadata.get(question.group_by or "")
        if value is not None:
            groups.setdefault((type(value), value), []).append(replace(hit, group=value))
    return [hit for group in [*groups.values()][: question.limit] for hit in group[: question.group_size]]


def _fits(hit: Hit, question: Question) -> bool:
    asked, tags = question.filter, {*hit.facts.tags}
    return all(
        (
            hit.id not in question.exclude,
            not asked.any_tags or bool({*asked.any_tags} & tags),
            {*asked.all_tags} <= tags,
            not {*asked.no_tags} & tags,
            not asked.ids or hit.id in asked.ids,
            asked.created_after is None or hit.created_at >= asked.created_after,
            asked.created_before is None or hit.created_at < asked.created_before,
            _metadata_fits(hit, asked),
        )
    )


def _metadata_fits(hit: Hit, asked: Filter) -> bool:
    for key, wanted in asked.metadata.items():
        value = hit.facts.metadata.get(key)
        if isinstance(wanted, Range):
            if not isinstance(value, int | float) or isinstance(value, bool) or not _within(value, wanted):
                return False
        elif not any(type(one) is type(value) and one == value for one in _several(wanted)):
            return False
    return True


def _several(wanted: Any) -> tuple[Any, ...]:
    return wanted if isinstance(wanted, tuple) else (wanted,)


def _within(value: float, range_: Range) -> bool:
    return all(
        (
            range_.gt is None or value > range_.gt,
            range_.gte is None or value >= range_.gte,
            range_.lt is None or value < range_.lt,
            range_.lte is None or value <= range_.lte,
        )
    )
