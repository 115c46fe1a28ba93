"""What a search found, as the SDK hands it over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from modelmora.client.answers import parse_server_timing, promised
from modelmora.client.control import moment
from modelmora.domain.pictures.picture import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A kept picture that is like the question; `score` is the cosine, -1 to 1."""

    id: str
    score: float
    filename: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Value] = field(default_factory=dict)
    content_type: str = ""
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HitGroup:
    """The best pictures of one `value` of the key that was grouped by."""

    value: Value
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page of results, the best first, or `groups` of them where those were asked for.

    `next_cursor` is None at the end. `model` is the `name@version` whose index was asked, empty where there is none
    yet. The times are the server's, in milliseconds; they do not count in `==`.
    """

    hits: tuple[Hit, ...] = ()
    groups: tuple[HitGroup, ...] = ()
    next_cursor: str | None = None
    model: str = ""
    embed_ms: float = field(default=0.0, compare=False)
    search_ms: float = field(default=0.0, compare=False)
    total_ms: float = field(default=0.0, compare=False)


def found(body: Mapping[str, Any], *, server_timing: str) -> Found:
    """Raises InternalError where it is no answer of a search."""
    times = parse_server_timing(server_timing)
    with promised("what it found"):
        return Found(
            hits=tuple(map(_hit, body.get("results") or ())),
            groups=tuple(
                HitGroup(value=one["value"], hits=tuple(map(_hit, one["results"]))) for one in body.get("groups") or ()
            ),
            next_cursor=body.get("next_cursor") or None,
            model=str(body.get("model") or ""),
            **{f"{name}_ms": times.get(name, 0.0) for name in ("embed", "search", "total")},
        )


def _hit(told: Mapping[str, Any]) -> Hit:
    return Hit(
        id=str(told["id"]),
        score=float(told["score"]),
        filename=str(told.get("filename") or ""),
        tags=tuple(map(str, told.get("tags") or ())),
        metadata=dict(told.get("metadata") or {}),
        content_type=str(told.get("content_type") or ""),
        created_at=moment(told.get("created_at")),
    )
