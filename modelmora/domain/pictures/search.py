"""Questions to an index, and what is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from modelmora.domain.pictures.picture import Facts, Value

MOST_OFFSET = 10_000
"""So far do pages go: an index reads everything before a page once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A number that lies between, ends included where they are `gte` and `lte`."""

    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """All of it must hold. `any_tags`: one of them; `all_tags`: each; `no_tags`: none. `metadata`: the value, one of
    several (a tuple), or a range."""

    any_tags: tuple[str, ...] = ()
    all_tags: tuple[str, ...] = ()
    no_tags: tuple[str, ...] = ()
    metadata: Mapping[str, Value | tuple[Value, ...] | Range] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None

    @property
    def empty(self) -> bool:
        return self == Filter()


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a vector was made of and by what."""

    picture_id: str
    sha256: str
    model: str
    version: str
    precision: str
    seq: int
    embedded_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A vector in an index with all that a result shows: nothing else is asked when it is found."""

    vector: Sequence[float] | bytes
    """Little-endian float32 where it is bytes."""
    facts: Facts
    provenance: Provenance
    content_type: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of one index. `vector` is little-endian float32, L2-normalised; `exact` goes without HNSW. With
    `group_by`, a key of metadata, `limit` groups of `group_size` come. `exclude` are ids of pictures."""

    vector: bytes
    limit: int = 20
    offset: int = 0
    filter: Filter = Filter()
    score_threshold: float | None = None
    exact: bool = False
    group_by: str | None = None
    group_size: int = 3
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A picture that was found; `score` is the cosine, `group` the value it was grouped by."""

    id: str
    score: float
    facts: Facts
    provenance: Provenance
    content_type: str
    created_at: datetime
    group: Value | None = None
