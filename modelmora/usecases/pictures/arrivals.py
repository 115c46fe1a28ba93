"""Pictures as they are brought, and made ready to be kept: looked at, named by their content, their bytes safe."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog

from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.pictures.picture import Facts, Picture, checked_collection
from modelmora.errors import ModelMoraError, ValidationFailed
from modelmora.ports import Look, PictureFiles, PictureLooks
from modelmora.usecases.admission import Limits, too_large

log = structlog.get_logger(__name__)

TOGETHER = 8
"""Pictures of one upload that are looked at and stored at once."""
THREADED_BYTES = 2**20
"""From so many bytes on a digest takes longer than a hop to a thread."""
LONGEST_TTL_S = 100 * 365 * 86_400


@dataclass(frozen=True, slots=True)
class Object:
    """Where the bytes of a picture lie that is not sent: `s3://bucket/key`."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One picture as a door read it, failed already where that was not possible; facts are not checked yet."""

    content: Outcome[bytes | Object]
    filename: str = ""
    tags: Sequence[object] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes that it takes to hold."""
        return len(self.content.value) if isinstance(self.content, Ok) and isinstance(self.content.value, bytes) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is said of all pictures of an upload; `ttl_s` None: as the server is set up. With `wait` the answer comes
    once they are indexed, or could not be in time. `each` are metadata of pictures by their place, beside those of all.

    Raises ValidationFailed, LimitExceeded.
    """

    collection: str = "default"
    tags: Sequence[object] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)
    each: Sequence[Mapping[str, object]] = ()
    ttl_s: int | None = None
    wait: bool = True

    def __post_init__(self) -> None:
        checked_collection(self.collection)
        Facts.checked(tags=self.tags, metadata=self.metadata)
        if self.ttl_s is not None and not 1 <= self.ttl_s <= LONGEST_TTL_S:
            found, expected = str(self.ttl_s)[:40], f"1 to {LONGEST_TTL_S} seconds"
            raise ValidationFailed("not a time to keep pictures", field="ttl_s", found=found, expected=expected)

    def of(self, arrival: Arrival, index: int) -> Arrival:
        """The picture at that place of the whole upload with what is said of all."""
        own = self.each[index] if index < len(self.each) else {}
        return replace(
            arrival,
            tags=(*self.tags, *arrival.tags),
            metadata={**self.metadata, **own, **arrival.metadata},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A picture whose bytes are safe, and these; `own`: they were stored here, and not by whoever names them."""

    picture: Picture
    data: bytes
    own: bool = True


class Receiving:
    """Makes arrivals ready. `ttl_s` is how long pictures are kept of which nothing else is said (None: for good)."""

    def __init__(
        self,
        looks: PictureLooks,
        files: PictureFiles,
        *,
        limits: Limits,
        ttl_s: int | None,
        new_id: Callable[[], str],
        clock: Callable[[], datetime],
    ) -> None:
        self._looks = looks
        self._files = files
        self._limits = limits
        self._ttl_s = ttl_s
        self._new_id = new_id
        self._clock = clock

    async def __call__(self, arrivals: Sequence[Arrival], terms: Terms, *, deadline: float) -> list[Outcome[Ready]]:
        """One outcome each, same order."""
        room = asyncio.Semaphore(TOGETHER)

        async def one(arrival: Arrival) -> Outcome[Ready]:
            async with room:
                try:
                    return await self._one(arrival, terms, deadline)
                except ModelMoraError as error:
                    return Failed(error)

        return list(await asyncio.gather(*map(one, arrivals)))

    async def keep(self, ready: Sequence[Ready]) -> None:
        """Once more, for records that stand by now: who removed the last picture of the same bytes meanwhile did not
        know of these. What is there costs a look; where the store is away there was nobody to remove anything."""
        own = [one for one in ready if one.own]
        for start in range(0, len(own), TOGETHER):
            puts = [
                self._files.put(one.picture.sha256, one.data, content_type=one.picture.content_type)
                for one in own[start : start + TOGETHER]
            ]
            for result in await asyncio.gather(*puts, return_exceptions=True):
                if isinstance(result, BaseException):
                    log.warning("bytes_not_looked_at_again", exc_info=result)

    async def _one(self, arrival: Arrival, terms: Terms, deadline: float) -> Outcome[Ready]:
        if isinstance(arrival.content, Failed):
            return arrival.content
        facts = Facts.checked(filename=arrival.filename, tags=arrival.tags, metadata=arrival.metadata)
        content, most = arrival.content.value, self._limits.image_bytes
        data = content if isinstance(content, bytes) else await self._files.get(content.name, max_bytes=most)
        if len(data) > most:
            return too_large("picture file", field="image", found=len(data), limit=most, unit="bytes")
        look = await self._looks.look(data, deadline=deadline)
        sha256 = await digest(data)
        stored = content.name if isinstance(content, Object) else None
        where = stored or await self._files.put(sha256, data, content_type=look.content_type)
        await self._files.put_thumbnail(sha256, look.thumbnail)
        picture = self._picture(data, sha256, look, where=where, facts=facts, terms=terms)
        return Ok(Ready(picture=picture, data=data, own=stored is None))

    def _picture(self, data: bytes, sha256: str, look: Look, *, where: str, facts: Facts, terms: Terms) -> Picture:
        now, ttl_s = self._clock(), terms.ttl_s or self._ttl_s
        return Picture(
            id=self._new_id(),
            collection=terms.collection,
            sha256=sha256,
            object=where,
            content_type=look.content_type,
            bytes=len(data),
            width=look.width,
            height=look.height,
            facts=facts,
            created_at=now,
            changed_at=now,
            expires_at=None if ttl_s is None else now + timedelta(seconds=ttl_s),
        )


async def digest(data: bytes) -> str:
    """Its SHA-256; of large pictures in a thread."""
    if len(data) < THREADED_BYTES:
        return hashlib.sha256(data).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
