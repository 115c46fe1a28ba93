"""Kept pictures, dead letters and indexes as the server tells them; what a newer one tells besides is left out."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from modelmora.client.answers import promised
from modelmora.client.control import mapping, moment
from modelmora.domain.pictures.picture import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptImage:
    """A picture that the server has taken. `state` is `indexed` where the next search finds it, `registered`,
    `embedding` or `retrying` where that comes later, or `failed`.

    `duplicate`: the collection had a picture of these bytes, and this is that one. `bytes` is the file's size, `width`
    and `height` are pixels, `spaces` the models (`name@version`) that index it.
    """

    id: str
    state: str
    duplicate: bool = False
    sha256: str = ""
    filename: str = ""
    content_type: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    spaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WayInfo:
    """How far a picture is on its way into one space (`name@version`); `code`, `detail` and `stage` say what went wrong
    in the last of the `attempts` that failed."""

    space: str
    state: str
    attempts: int = 0
    next_attempt_at: datetime | None = None
    stage: str = ""
    code: str = ""
    detail: str = ""
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """The record of a kept picture: what is known of it, what was said of it, and its ways into the indexes."""

    id: str
    state: str
    collection: str = "default"
    sha256: str = ""
    filename: str = ""
    content_type: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Value] = field(default_factory=dict)
    ways: tuple[WayInfo, ...] = ()
    created_at: datetime | None = None
    changed_at: datetime | None = None
    expires_at: datetime | None = None

    @property
    def why(self) -> str:
        """What went wrong, as far as something did."""
        return "; ".join(dict.fromkeys(way.detail or way.code for way in self.ways if way.code))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterInfo:
    """What the server gave up, and why. `key`, `value` (its first 64 KiB) and `headers` are the message as it came,
    told only where one letter is asked for."""

    id: str
    topic: str = ""
    image_id: str = ""
    space: str = ""
    code: str = ""
    detail: str = ""
    stage: str = ""
    attempts: int = 0
    first_failed_at: datetime | None = None
    failed_at: datetime | None = None
    replayed_at: datetime | None = None
    key: bytes = field(default=b"", repr=False)
    value: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexInfo:
    """The vectors of a collection's pictures by one version of a model. Searches go to the one that is `live`; of
    `total` pictures `done` are in it and `failed` were given up for it.

    `agreement` is how much of the ten nearest it shares with the index before it, 0 to 1.
    """

    model: str
    version: str
    collection: str = "default"
    state: str = ""
    dimension: int = 0
    total: int = 0
    done: int = 0
    failed: int = 0
    agreement: float | None = None
    why: str = ""
    created_at: datetime | None = None
    changed_at: datetime | None = None

    @property
    def key(self) -> str:
        """`name@version`."""
        return f"{self.model}@{self.version}"


_PLAIN = ("sha256", "filename", "content_type")
_COUNTS = ("bytes", "width", "height")


def kept_image(told: Mapping[str, Any]) -> KeptImage:
    """Raises InternalError where what makes it a picture is missing."""
    with promised("a kept picture"):
        return KeptImage(
            **_picture(told), duplicate=bool(told.get("duplicate")), spaces=tuple(map(str, told.get("spaces") or ()))
        )


def image_info(body: Any) -> ImageInfo:
    """Raises InternalError where it is none."""
    told = mapping(body)
    with promised("a picture's record"):
        return ImageInfo(
            **_picture(told),
            **_moments(told, "created_at", "changed_at", "expires_at"),
            collection=str(told.get("collection") or "default"),
            tags=tuple(map(str, told.get("tags") or ())),
            metadata=dict(told.get("metadata") or {}),
            ways=tuple(map(_way, told.get("ways") or ())),
        )


def dead_letter_info(body: Any) -> DeadLetterInfo:
    """Raises InternalError where it is none."""
    told = mapping(body)
    with promised("a dead letter"):
        texts: dict[str, Any] = {
            name: str(told.get(name) or "") for name in ("topic", "image_id", "space", "code", "detail", "stage")
        }
        return DeadLetterInfo(
            id=str(told["id"]),
            **texts,
            **_moments(told, "first_failed_at", "failed_at", "replayed_at"),
            attempts=int(told.get("attempts") or 0),
            key=_bytes(told.get("key")),
            value=_bytes(told.get("value")),
            headers=tuple((str(one["name"]), _bytes(one["value"])) for one in told.get("headers") or ()),
        )


def index_info(body: Any) -> IndexInfo:
    """Raises InternalError where it is none."""
    told = mapping(body)
    with promised("an index"):
        agreement = told.get("agreement")
        known: dict[str, Any] = {name: str(told[name]) for name in ("model", "version", "state")}
        known |= {name: int(told.get(name) or 0) for name in ("dimension", "total", "done", "failed")}
        return IndexInfo(
            **known,
            **_moments(told, "created_at", "changed_at"),
            collection=str(told.get("collection") or "default"),
            agreement=None if agreement is None else float(agreement),
            why=str(told.get("why") or ""),
        )


def counted(body: Any, name: str) -> int:
    """How many there were; raises InternalError where that is not told."""
    told = mapping(body)
    with promised("a count"):
        return int(told[name])


def _picture(told: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {name: str(told[name]) for name in ("id", "state")}
    known |= {name: str(told.get(name) or "") for name in _PLAIN}
    return known | {name: int(told.get(name) or 0) for name in _COUNTS}


def _way(told: Any) -> WayInfo:
    error = told.get("error") or {}
    return WayInfo(
        space=str(told["space"]),
        state=str(told["state"]),
        attempts=int(told.get("attempts") or 0),
        **_moments(told, "next_attempt_at", "changed_at"),
        stage=str(told.get("stage") or ""),
        code=str(error.get("code") or ""),
        detail=str(error.get("detail") or ""),
    )


def _moments(told: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: moment(told.get(name)) for name in names}


def _bytes(told: str | None) -> bytes:
    return base64.b64decode(told or "", validate=True)
