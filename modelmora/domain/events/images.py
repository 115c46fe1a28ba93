"""Events about pictures: made of records, and records made of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from modelmora.domain.events.data import (
    EmbeddingFailed,
    EmbeddingGenerated,
    ImageMetadataRegistered,
    ImageRemoved,
    read_data,
)
from modelmora.domain.events.envelope import Event
from modelmora.domain.events.types import (
    EMBEDDING_FAILED,
    EMBEDDING_GENERATED,
    IMAGE_REGISTERED,
    IMAGE_REMOVED,
    TYPES,
)
from modelmora.domain.pictures.picture import Facts, Picture, checked_collection
from modelmora.domain.pictures.way import Verdict
from modelmora.errors import ValidationFailed


def registered(picture: Picture, *, source: str, id_: str, time: datetime, topic: str) -> Event:
    """`ImageMetadataRegistered` of the record as it stands."""
    data: dict[str, Any] = {
        **_of(picture),
        "object": picture.object,
        "sha256": picture.sha256,
        "content_type": picture.content_type,
        "bytes": picture.bytes,
        "filename": picture.facts.filename,
        "tags": list(picture.facts.tags),
        "metadata": dict(picture.facts.metadata),
        "seq": picture.seq,
        "created_at": picture.created_at.isoformat(),
    }
    if picture.expires_at is not None:
        data["expires_at"] = picture.expires_at.isoformat()
    return _event(IMAGE_REGISTERED, picture, data, source=source, id_=id_, time=time, topic=topic)


def removed(picture: Picture, *, source: str, id_: str, time: datetime, topic: str) -> Event:
    """`ImageRemoved`; `picture` as it was, or the tombstone."""
    data = {**_of(picture), "sha256": picture.sha256, "object": picture.object, "seq": picture.seq}
    return _event(IMAGE_REMOVED, picture, data, source=source, id_=id_, time=time, topic=topic)


def generated(
    picture: Picture, made: EmbeddingGenerated, *, source: str, id_: str, time: datetime, topic: str
) -> Event:
    """`EmbeddingGenerated`."""
    return _event(EMBEDDING_GENERATED, picture, made.model_dump(), source=source, id_=id_, time=time, topic=topic)


def failed(
    picture: Picture, space: str, verdict: Verdict, *, attempts: int, source: str, id_: str, time: datetime, topic: str
) -> Event:
    """`EmbeddingFailed` for a way into a space (`model@version`) that was given up."""
    model, _, version = space.partition("@")
    told = {"code": verdict.code, "detail": verdict.detail, "stage": verdict.stage, "attempts": attempts}
    data = {**_of(picture), "model": model, "version": version, **told, "seq": picture.seq, "dead_letter": True}
    return _event(EMBEDDING_FAILED, picture, data, source=source, id_=id_, time=time, topic=topic)


def picture_of(event: Event) -> Picture:
    """The record that an `ImageMetadataRegistered` announces; `sha256` is empty where it is not told.

    Raises UnsupportedMedia (another type or version), ValidationFailed, LimitExceeded.
    """
    data = registered_data(event)
    facts = Facts.checked(filename=data.filename, tags=data.tags, metadata={**data.metadata})
    created = data.created_at or event.time
    return Picture(
        id=data.image_id,
        collection=checked_collection(data.collection),
        sha256=data.sha256 or "",
        object=data.object,
        content_type=data.content_type,
        bytes=data.bytes,
        facts=facts,
        seq=data.seq,
        created_at=created,
        changed_at=created,
        expires_at=data.expires_at,
        tenant=data.tenant,
    )


def registered_data(event: Event) -> ImageMetadataRegistered:
    """Raises UnsupportedMedia, ValidationFailed."""
    name, data = TYPES.read(event.type, event.data)
    if name != IMAGE_REGISTERED:
        raise ValidationFailed(
            "another event", field="type", found=event.type, expected=TYPES.written(IMAGE_REGISTERED)
        )
    return read_data(ImageMetadataRegistered, data)


def removed_data(event: Event) -> ImageRemoved:
    """Raises UnsupportedMedia, ValidationFailed."""
    _, data = TYPES.read(event.type, event.data)
    return read_data(ImageRemoved, data)


def _of(picture: Picture) -> dict[str, Any]:
    return {"image_id": picture.id, "tenant": picture.tenant, "collection": picture.collection}


def _event(
    name: str, picture: Picture, data: dict[str, Any], *, source: str, id_: str, time: datetime, topic: str
) -> Event:
    return Event(
        id=id_,
        source=source,
        type=TYPES.written(name),
        topic=topic,
        key=picture.id,
        time=time,
        data=data,
        subject=picture.id,
        tenant=picture.tenant,
    )


__all__ = [
    "EmbeddingFailed",
    "EmbeddingGenerated",
    "failed",
    "generated",
    "picture_of",
    "registered",
    "registered_data",
    "removed",
    "removed_data",
]
