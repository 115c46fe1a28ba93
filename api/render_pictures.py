"""Kept pictures and what was found as plain JSON-ready dictionaries."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from api.render_registry import moment
from modelmora.domain.pictures.search import Hit
from modelmora.usecases.pictures.search import Found, Group


def thumbnail_of(id_: str) -> str:
    """The path of a picture's thumbnail."""
    return f"/v1/images/{quote(id_, safe='')}/thumbnail"


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
