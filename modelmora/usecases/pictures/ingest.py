"""Events about pictures are taken in, a chunk at a time: read, registered, fetched, embedded, indexed, told of."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from modelmora import tracing
from modelmora.domain.events.codec import read_event
from modelmora.domain.events.data import ImageRemoved
from modelmora.domain.events.envelope import Event
from modelmora.domain.events.images import picture_of, removed_data
from modelmora.domain.events.types import IMAGE_REGISTERED, IMAGE_REMOVED, TYPES
from modelmora.domain.inference import Call
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.pictures.picture import Picture
from modelmora.domain.pictures.way import Stage, Step, Way
from modelmora.errors import DependencyUnavailable, InputError, ModelMoraError, ValidationFailed, unexpected
from modelmora.ids import new_id
from modelmora.ports import (
    DeadLetter,
    DeadLetters,
    Delivery,
    PictureFiles,
    PictureLooks,
    PictureRecords,
    Registration,
)
from modelmora.telemetry import INGESTED
from modelmora.usecases.pictures.indexing import Going, Indexing
from modelmora.usecases.pictures.remove import Remove
from modelmora.usecases.pictures.spaces import Spaces

log = structlog.get_logger(__name__)

OUTAGES = frozenset({"dependency_unavailable", "overloaded", "model_loading", "deadline_exceeded"})
"""What befalls all pictures alike: nothing is wrong with one that meets it."""
LETTER_BYTES = 2**20
"""So much of a message that could not be read is kept."""


class Outage(DependencyUnavailable):
    """Nothing of a chunk could be done, for a reason that is not its own: it is to be tried again as it is."""


@dataclass(slots=True)
class _Coming:
    """A picture on its way through a chunk."""

    delivery: Delivery
    event: Event
    picture: Picture
    data: bytes | None = None
    ways: tuple[Way, ...] = ()
    stands: bool = False
    failure: ModelMoraError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSettings:
    """`patience_s` is how long a chunk may take; `tenant` whose pictures are taken."""

    image_bytes: int
    patience_s: float = 120.0
    fetches: int = 16
    tenant: str = "default"


@dataclass(slots=True)
class _Counts:
    """What became of a chunk, for the metric."""

    codes: dict[str, int] = field(default_factory=dict)

    def add(self, code: str) -> None:
        self.codes[code] = self.codes.get(code, 0) + 1

    def tell(self) -> None:
        for code, count in self.codes.items():
            INGESTED.labels(code).inc(count)


class Ingest:
    """The use case behind every consumer. What it returns from is durable: indexed, given up with a letter, or waiting
    in the database; so a delivery may be committed then, and may come again at any time."""

    def __init__(
        self,
        indexing: Indexing,
        spaces: Spaces,
        remove: Remove,
        *,
        records: PictureRecords,
        files: PictureFiles,
        letters: DeadLetters,
        looks: PictureLooks | None,
        settings: IngestSettings,
        now: Callable[[], datetime],
    ) -> None:
        """Without `looks` pictures get no thumbnail and are looked at where they are embedded."""
        self._indexing = indexing
        self._spaces = spaces
        self._remove = remove
        self._records = records
        self._files = files
        self._letters = letters
        self._looks = looks
        self._settings = settings
        self._now = now
        self._fetching = asyncio.Semaphore(settings.fetches)

    async def __call__(self, deliveries: Sequence[Delivery], *, last: bool = False) -> None:
        """Of distinct keys. Raises Outage where none could be embedded or indexed, unless this is the `last` try with
        them together: then each waits by itself, one try poorer. Raises DependencyUnavailable where nothing is durable.
        """
        counts = _Counts()
        coming = await self._read(deliveries, counts)
        deadline = time.monotonic() + self._settings.patience_s
        await self._fetch([one for one in coming if not one.picture.sha256], last=last)  # known by their content alone
        registered = await self._register(coming)
        await self._fetch([one for one in registered if one.ways and one.data is None], last=last)
        await self._look_at(registered, deadline)
        steps = await self._steps(registered, deadline, last=last)
        await self._records.finish(steps)
        await self._indexing.forget_removed(steps, {one.picture.id: one.picture.collection for one in registered})
        for step in steps:
            counts.add(step.verdict.code or step.verdict.state)
        counts.tell()

    async def _read(self, deliveries: Sequence[Delivery], counts: _Counts) -> list[_Coming]:
        """Pictures that are announced. What cannot be read becomes a letter; removals are carried out here."""
        coming: list[_Coming] = []
        letters: list[DeadLetter] = []
        for delivery in deliveries:
            read = self._read_one(delivery)
            if isinstance(read, ModelMoraError):
                letters.append(self._letter(delivery, read, "reading"))
                counts.add(read.code)
            elif isinstance(read, ImageRemoved):
                await self._remove.again(read)
                counts.add("removed")
            elif read is not None:
                coming.append(read)
        if letters:
            await self._letters.add(letters)
        return coming

    def _read_one(self, delivery: Delivery) -> _Coming | ImageRemoved | ModelMoraError | None:
        """What a message says, why it cannot be read, or None where it is not about what is done here."""
        try:
            event = read_event(delivery.value, key=delivery.key, headers=delivery.headers, topic=delivery.topic)
            name, _ = TYPES.read(event.type, event.data)
            if name == IMAGE_REGISTERED:
                return _Coming(delivery, event, self._mine(picture_of(event)))
            return removed_data(event) if name == IMAGE_REMOVED else None
        except ModelMoraError as error:
            return error
        except Exception:  # whatever a stranger thought of, it must not come again for ever
            log.exception("event_unreadable", topic=delivery.topic, offset=delivery.offset)
            return unexpected()

    def _mine(self, picture: Picture) -> Picture:
        if picture.tenant != self._settings.tenant:
            found, expected = picture.tenant, self._settings.tenant
            raise ValidationFailed("a picture of another tenant", field="data.tenant", found=found, expected=expected)
        return picture

    def _letter(self, delivery: Delivery, error: ModelMoraError, stage: Stage) -> DeadLetter:
        """Its id follows from where it stood: a message that comes again makes no second letter, one that was replayed
        does."""
        now, where = self._now(), f"{delivery.topic}/{delivery.partition}/{delivery.offset}"
        digest = hashlib.sha256(where.encode() + b"\0" + delivery.value).hexdigest()[:32]
        log.warning("event_refused", topic=delivery.topic, offset=delivery.offset, code=error.code)
        return DeadLetter(
            id=digest,
            topic=delivery.topic,
            key=delivery.key,
            value=delivery.value[:LETTER_BYTES],
            headers=delivery.headers,
            code=error.code,
            detail=error.detail,
            stage=stage,
            first_failed_at=now,
            failed_at=now,
        )

    async def _register(self, coming: Sequence[_Coming]) -> list[_Coming]:
        """One transaction for all; afterwards each has the record that stands, and the ways to be gone."""
        known = [one for one in coming if one.failure is None]
        spaces = {name: await self._spaces.of(name) for name in {one.picture.collection for one in known}}
        asked = [
            Registration(
                picture=one.picture,
                spaces=tuple(space.key for space in spaces[one.picture.collection]),
                origin=(one.event.source, one.event.id),
            )
            for one in known
        ]
        for one, outcome in zip(known, await self._records.register(asked) if asked else [], strict=True):
            if isinstance(outcome, Failed):
                one.failure = outcome.error
            else:
                one.picture, one.ways, one.stands = outcome.value.picture, outcome.value.ways, True
        letters = [self._letter(one.delivery, one.failure, "fetching") for one in coming if one.failure is not None]
        if letters:  # there is no record that could tell of them
            await self._letters.add(letters)
        return [one for one in known if one.stands]

    async def _fetch(self, wanted: Sequence[_Coming], *, last: bool) -> None:
        """Their bytes, side by side. Raises Outage where the store is away, unless it is the `last` try."""
        await asyncio.gather(*map(self._fetch_one, wanted))
        away = [one for one in wanted if one.failure is not None and one.failure.code in OUTAGES]
        if away and len(away) < len(wanted):  # the store is there: what hung once may come now
            await asyncio.gather(*map(self._fetch_one, away))
        elif away and not last:
            raise Outage(f"no picture can be fetched: {away[0].failure}", retry_after_s=1.0)

    async def _fetch_one(self, one: _Coming) -> None:
        one.failure = None
        try:
            async with self._fetching:
                one.data = await self._files.get(one.picture.object, max_bytes=self._settings.image_bytes)
        except ModelMoraError as error:
            one.failure = error
            return
        except Exception:  # a defect that one object brings out is that one's
            log.exception("fetch_failed", picture_id=one.picture.id)
            one.failure = unexpected()
            return
        found = await asyncio.to_thread(lambda data: hashlib.sha256(data).hexdigest(), one.data)
        if one.picture.sha256 and one.picture.sha256 != found:
            said = "the object has other bytes than were announced"
            one.failure = ValidationFailed(said, field="data.sha256", found=found, expected=one.picture.sha256)
        elif not one.picture.sha256:
            one.picture = replace(one.picture, sha256=found, bytes=len(one.data))

    async def _look_at(self, coming: Iterable[_Coming], deadline: float) -> None:
        """Thumbnails of those that have none; what is no picture is found out here or where it is embedded."""
        looks = self._looks
        if looks is None:
            return

        async def look(one: _Coming) -> None:
            if one.data is None or one.failure is not None or await self._files.thumbnail(one.picture.sha256):
                return
            seen = await looks.look(one.data, deadline=deadline)
            await self._files.put_thumbnail(one.picture.sha256, seen.thumbnail)

        async def guarded(one: _Coming) -> None:
            try:
                await look(one)
            except InputError as error:
                one.failure = error
            except ModelMoraError as error:  # a picture without a thumbnail is better than none
                log.warning("thumbnail_failed", picture_id=one.picture.id, code=error.code)

        await asyncio.gather(*(guarded(one) for one in coming if one.ways))

    async def _steps(self, registered: Sequence[_Coming], deadline: float, *, last: bool) -> list[Step]:
        """What becomes of every way of the chunk. Raises Outage."""
        going = [Going(picture=one.picture, data=_data(one), ways=one.ways) for one in registered if one.ways]
        if not going:
            return []
        call = Call(request_id=new_id(), deadline=deadline, priority="bulk", trace=tracing.drawn_here())
        steps = await self._indexing.steps(going, call=call)
        if not last and all(step.verdict.code in OUTAGES for step in steps):
            raise Outage(f"nothing can be indexed: {steps[0].verdict.detail}", retry_after_s=1.0)
        return steps


def _data(one: _Coming) -> Outcome[bytes]:
    if one.failure is not None:
        return Failed(one.failure)
    return Ok(one.data or b"")
