"""Pictures that are kept: their bytes, their records and the ways of these into indexes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from modelmora.domain.outcome import Outcome
from modelmora.domain.pictures.picture import Picture, PictureState
from modelmora.domain.pictures.spaces import Index, IndexState, Space
from modelmora.domain.pictures.way import Step, Way
from modelmora.domain.registry.pages import Page, Paging

NEWEST_FIRST = Paging(descending=True)


class PictureFiles(Protocol):
    """The bytes of pictures by their SHA-256, and their thumbnails. Raises DependencyUnavailable."""

    async def put(self, sha256: str, data: bytes, *, content_type: str) -> str:
        """Where it lies now, as in `Picture.object`; idempotent."""
        ...

    def place(self, sha256: str) -> str:
        """Where `put` puts it."""
        ...

    async def get(self, object_: str, *, max_bytes: int) -> bytes:
        """Of an object of its own, or of another one that the operator allows.

        Raises ImageNotFound (there is none), LimitExceeded (larger, found out before it is read), PermissionDenied (it
        may not be read), ValidationFailed (not the name of an object).
        """
        ...

    async def remove(self, sha256: str) -> None:
        """With its thumbnail; idempotent. What was never its own stays."""
        ...

    async def put_thumbnail(self, sha256: str, data: bytes) -> None: ...

    async def thumbnail(self, sha256: str) -> bytes | None: ...

    async def ping(self) -> float:
        """Milliseconds of one round trip."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look at a picture's bytes tells: it is one."""

    content_type: str
    width: int
    height: int
    thumbnail: bytes
    """256 px at most, WebP."""


class PictureLooks(Protocol):
    """Looks at pictures, in the pool that decodes."""

    async def look(self, data: bytes, *, deadline: float) -> Look:
        """Raises InvalidInput, UnsupportedMedia, LimitExceeded (pixels), Overloaded, DeadlineExceeded."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A picture as it comes, with the spaces it is to be in.

    It is announced in the name of `announce` (an event's source; None: not at all), not before `hold_s` have passed; a
    picture that comes by an event instead carries the event's `origin` (source and id), which is taken once. `claim`
    leaves its ways `working` for whoever registers, else they are `received`.
    """

    picture: Picture
    spaces: tuple[str, ...]
    announce: str | None = None
    hold_s: float = 0.0
    origin: tuple[str, str] | None = None
    claim: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The record that stands now, and which of its ways are to be gone by the caller.

    `duplicate`: there was a picture of that content in the collection; it is that one's record, and unless it has new
    facts nothing was changed. `seen`: the event had been taken before.
    """

    picture: Picture
    ways: tuple[Way, ...] = ()
    duplicate: bool = False
    seen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureQuery:
    """Pictures of which all that is given holds, the newest first unless the page says otherwise."""

    collection: str | None = None
    state: PictureState | None = None
    any_tags: tuple[str, ...] = ()
    sha256: str | None = None
    created_before: datetime | None = None
    page: Paging = NEWEST_FIRST


class PictureRecords(Protocol):
    """Records of pictures, their ways, and with each change the events that tell of it: in one transaction.

    Raises DependencyUnavailable.
    """

    async def register(self, registrations: Sequence[Registration]) -> list[Outcome[Registered]]:
        """One outcome each, same order, all in one transaction. A picture whose id is known with a `seq` that is not
        lower, or that is a tombstone, is left as it is, and its ended ways are not gone again; one with a lower `seq`
        is replaced, and its ways begin anew. Fails an item with Conflict where its id is another collection's."""
        ...

    async def finish(self, steps: Sequence[Step]) -> None:
        """Verdicts, their events, and for what is rejected or dead a dead letter, in one transaction; what was
        superseded or tombstoned meanwhile stays so and tells nothing. A held announcement of a picture that is through
        is let go."""
        ...

    async def get(self, id_: str, *, deleted: bool = False) -> Picture:
        """Raises ImageNotFound; for a removed one too, unless it is asked for."""
        ...

    async def ways(self, ids: Collection[str]) -> dict[str, tuple[Way, ...]]:
        """Of each picture that has any, by space."""
        ...

    async def find(self, query: PictureQuery) -> Page[Picture]:
        """Raises ValidationFailed for a cursor of another order."""
        ...

    async def count(self, *, collection: str | None = None) -> int: ...

    async def collections(self) -> tuple[str, ...]:
        """Those that have pictures."""
        ...

    async def remove(self, ids: Sequence[str], *, source: str) -> tuple[Picture, ...]:
        """Those that were there, as they were but with a `seq` one higher: now tombstones that keep no facts, their
        ways tombstoned, their announcements and dead letters gone, and an event of each removal kept."""
        ...

    async def used(self, sha256: str) -> bool:
        """Whether any picture that is not removed, of any tenant and collection, has these bytes."""
        ...

    async def expired(self, *, limit: int) -> tuple[Picture, ...]: ...

    async def announce_again(self, *, stuck_s: float, tries: int, limit: int, source: str) -> int:
        """Ways whose wait is over, and those that have been `received` or `working` without a change for `stuck_s` (and
        have no announcement waiting), are `received` again and their pictures announced; how many pictures. Being stuck
        while `working` counts as a try: a way that has used up its `tries` so is dead, with a letter."""
        ...

    async def missing(self, space: str, *, collection: str, after: str | None, limit: int) -> tuple[Picture, ...]:
        """Pictures by id after that one that have no way into the space, or one that is not indexed."""
        ...

    async def lag(self) -> dict[str, int]:
        """How many ways are in each state."""
        ...


class Indexes(Protocol):
    """Which indexes there are. Raises DependencyUnavailable."""

    async def add(self, index: Index) -> Index:
        """The one that is there now: another may have been faster."""
        ...

    async def all(self, *, collection: str | None = None) -> tuple[Index, ...]: ...

    async def change(self, index: Index, *, from_: Collection[IndexState]) -> bool:
        """Whether it was in one of those states; only then it is changed."""
        ...

    async def switch(self, to: Space) -> Index | None:
        """Makes it `live` and what was live of its model `draining`, in one transaction; the one that was live."""
        ...

    async def remove(self, space: Space) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """What could not be taken in, as it came, and why; of what could not be read `picture_id` and `space` are empty."""

    id: str
    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    picture_id: str = ""
    space: str = ""
    code: str
    detail: str
    stage: str = ""
    attempts: int = 1
    first_failed_at: datetime
    failed_at: datetime
    replayed_at: datetime | None = None


class DeadLetters(Protocol):
    """What was given up. Raises DependencyUnavailable."""

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """With a message for the topic `<topic>.dlq` for each, in one transaction; one of an id that is there is
        left."""
        ...

    async def get(self, id_: str) -> DeadLetter:
        """Raises ImageNotFound."""
        ...

    async def find(self, *, code: str | None = None, page: Paging = NEWEST_FIRST) -> Page[DeadLetter]: ...

    async def replay(self, ids: Sequence[str], *, source: str) -> int:
        """Their ways are received again with all their tries and their pictures announced; letters without a picture go
        to their topic as they came. Each is marked as replayed; how many there were."""
        ...

    async def remove(self, ids: Sequence[str]) -> int: ...

    async def count(self) -> int:
        """Of those that were not replayed."""
        ...
