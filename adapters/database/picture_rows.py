"""Rows of pictures, ways and events, and what they stand for."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping

from modelmora import tracing
from modelmora.domain.events.codec import to_kept_parts
from modelmora.domain.events.envelope import Event
from modelmora.domain.pictures.picture import Facts, Picture
from modelmora.domain.pictures.way import Way

_PICTURE = (
    "id",
    "collection",
    "sha256",
    "object",
    "content_type",
    "bytes",
    "width",
    "height",
    "seq",
    "created_at",
    "changed_at",
    "expires_at",
    "deleted_at",
    "tenant",
)
_WAY = (
    "picture_id",
    "space",
    "state",
    "seq",
    "attempts",
    "next_attempt_at",
    "stage",
    "code",
    "detail",
    "first_failed_at",
    "changed_at",
)


def picture_row(picture: Picture) -> dict[str, Any]:
    return {**{name: getattr(picture, name) for name in _PICTURE}, "facts": facts_text(picture.facts)}


def picture_of(row: RowMapping) -> Picture:
    return Picture(**{name: row[name] for name in _PICTURE}, facts=_facts(row["facts"]))


def facts_text(facts: Facts) -> str:
    told = {"filename": facts.filename, "tags": list(facts.tags), "metadata": dict(facts.metadata)}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def _facts(text: str) -> Facts:
    read = json.loads(text)
    return Facts(filename=read["filename"], tags=tuple(read["tags"]), metadata=read["metadata"])


def way_row(way: Way) -> dict[str, Any]:
    return {name: getattr(way, name) for name in _WAY}


def way_of(row: RowMapping) -> Way:
    return Way(**{name: row[name] for name in _WAY})


def event_row(event: Event, *, not_before: datetime, picture_id: str | None = None) -> dict[str, Any]:
    """As it is kept in the outbox."""
    key, value, headers = to_kept_parts(replace(event, trace=event.trace or tracing.here()))
    return outbox_row(
        event.topic,
        key,
        value=value,
        headers=headers_text(headers),
        tenant=event.tenant,
        picture_id=picture_id,
        not_before=not_before,
    )


def outbox_row(topic: str, key: bytes, **told: Any) -> dict[str, Any]:
    """A message as it is kept in the outbox; keys of anybody's messages may be too long for an index."""
    digest = hashlib.blake2b(topic.encode() + b"\0" + key, digest_size=8).digest()
    return {"topic": topic, "key": key, "lane": int.from_bytes(digest, "big", signed=True), **told}


def headers_text(headers: Sequence[tuple[str, bytes]]) -> str:
    return json.dumps([[name, base64.b64encode(value).decode()] for name, value in headers])


def headers_of(text: str) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, base64.b64decode(value)) for name, value in json.loads(text))
