"""Kept pictures and what was found as plain JSON-ready dictionaries."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from api import render
from api.render_registry import moment
from modelmora.domain.outcome import Failed, Outcome
from modelmora.domain.pictures.search import Hit
from modelmora.domain.pictures.spaces import Index
from modelmora.domain.pictures.way import Way
from modelmora.usecases.pictures.kept import Kept
from modelmora.usecases.pictures.search import Found, Group


def thumbnail_of(id_: str) -> str:
    """The path of a picture's thumbnail."""
    return f"/v1/images/{quote(id_, safe='')}/thumbnail"


def uploaded(index: int, outcome: Outcome[Kept]) -> dict[str, Any]:
    """What became of one picture that was brought."""
    if isinstance(outcome, Failed):
        return {"index": index, "error": render.fault(outcome.error.as_fault())}
    kept = outcome.value
    told = {**_shown(kept), "spaces": list(kept.spaces)}
    return {"index": index, "id": told.pop("id"), "state": told.pop("state"), "duplicate": kept.duplicate, **told}


def record(kept: Kept) -> dict[str, Any]:
    """A kept picture with all that is said of it, and how far it is on each of its ways."""
    picture = kept.picture
    return {
        **_shown(kept),
        "collection": picture.collection,
        "tags": list(picture.facts.tags),
        "metadata": dict(picture.facts.metadata),
        "created_at": moment(picture.created_at),
        "changed_at": moment(picture.changed_at),
        "expires_at": None if picture.expires_at is None else moment(picture.expires_at),
        "ways": list(map(_way, kept.ways)),
    }


def index(value: Index) -> dict[str, Any]:
    """An index, and how far it is."""
    space = value.space
    return {
        "model": space.model,
        "version": space.version,
        "collection": space.collection,
        "state": value.state,
        "dimension": value.dimension,
        "total": value.total,
        "done": value.done,
        "failed": value.failed,
        "agreement": value.agreement,
        "why": value.why,
        "created_at": moment(value.created_at),
        "changed_at": moment(value.changed_at),
    }


def _shown(kept: Kept) -> dict[str, Any]:
    picture = kept.picture
    return {
        "id": picture.id,
        "state": kept.state,
        "sha256": picture.sha256,
        "filename": picture.facts.filename,
        "content_type": picture.content_type,
        "bytes": picture.bytes,
        "width": picture.width,
        "height": picture.height,
        "thumbnail": thumbnail_of(picture.id),
    }


def _way(way: Way) -> dict[str, Any]:
    told: dict[str, Any] = {"space": way.space, "state": way.state, "attempts": way.attempts}
    if way.next_attempt_at is not None:
        told["next_attempt_at"] = moment(way.next_attempt_at)
    if way.code:
        told |= {"stage": way.stage, "error": {"code": way.code, "detail": render.sayable(way.detail)}}
    return {**told, "changed_at": moment(way.changed_at)}


def hit(value: Hit) -> dict[str, Any]:
    """One result."""
    return {
        "id": value.id,
        "score": value.score,
        "filename": value.facts.filename,
        "tags": list(value.facts.tags),
        "metadata": dict(value.facts.metadata),
        "thumbnail": thumbnail_of(value.id),
        "content_type": value.content_type,
        "created_at": moment(value.created_at),
    }


def found(value: Found) -> dict[str, Any]:
    """The answer of a search: results, or groups of them."""
    if value.groups is not None:
        return {"groups": list(map(_group, value.groups)), "next_cursor": None, "model": value.model}
    return {"results": list(map(hit, value.hits)), "next_cursor": value.next_cursor, "model": value.model}


def search_timing(value: Found) -> str:
    """The text of the Server-Timing header; gRPC's trailing metadata is the same."""
    return f"embed;dur={value.embed_ms:.2f}, search;dur={value.search_ms:.2f}, total;dur={value.total_ms:.2f}"


def _group(value: Group) -> dict[str, Any]:
    return {"value": value.value, "results": list(map(hit, value.hits))}
