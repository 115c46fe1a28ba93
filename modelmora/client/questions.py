"""What a search asks, checked and ready for either wire."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index as whole
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from modelmora.client.control import as_json
from modelmora.client.embedding import Embedding
from modelmora.client.pictures import read
from modelmora.domain.inference import Image, Text
from modelmora.domain.outcome import unwrap
from modelmora.errors import ValidationFailed

if TYPE_CHECKING:
    import numpy as np

    from modelmora.client.pictures import Picture

    Vector: TypeAlias = Embedding | bytes | Sequence[float] | np.ndarray

Kind = Literal["text", "image", "id", "vector"]
KINDS: tuple[Kind, ...] = ("text", "image", "id", "vector")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One thing to be like, or with a negative weight unlike: a text, a picture, the id of a kept picture, or a vector
    (an `Embedding`, numbers, or little-endian float32 bytes)."""

    text: str | None = None
    image: Picture | None = None
    id: str | None = None
    vector: Vector | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """A query as it is sent: a text, an id, the bytes of a picture, or those of a float32 vector."""

    kind: Kind
    value: str | bytes
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """All that is asked; what is None is the server's to say. `filter` is as JSON has it."""

    parts: tuple[Part, ...]
    limit: int | None = None
    cursor: str | None = None
    filter: Mapping[str, Any] | None = None
    score_threshold: float | None = None
    model: str | None = None
    collection: str | None = None
    exact: bool = False
    group_by: str | None = None
    group_size: int | None = None


async def parts_of(queries: Sequence[Query]) -> tuple[Part, ...]:
    """Raises ValidationFailed for what asks nothing or cannot be sent, InvalidInput for an unreadable picture."""
    if not queries:
        expected = "text, image, id, vector or queries"
        raise ValidationFailed("the question is empty", field="queries", found="nothing", expected=expected)
    return tuple([await _part(query, f"queries[{place}]") for place, query in enumerate(queries)])


def filter_of(given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """As JSON has it, moments as RFC 3339; raises ValidationFailed for what is none."""
    if given is None:
        return None
    told = json.loads(as_json(given))
    if not isinstance(told, dict):
        said = "filter is no mapping"
        raise ValidationFailed(said, field="filter", found=type(given).__name__, expected="a mapping")
    return told


def number(name: str, given: float | None) -> float | None:
    """Raises ValidationFailed for what is none."""
    try:
        told = None if given is None else float(given)
    except (TypeError, ValueError) as cause:
        raise ValidationFailed(f"{name} is no number", field=name, found=repr(given)[:40]) from cause
    if told is not None and not math.isfinite(told):
        raise ValidationFailed(f"{name} is not finite", field=name, found=repr(given)[:40], expected="a finite number")
    return told


def count(name: str, given: int | None) -> int | None:
    """Raises ValidationFailed for what is none above 0."""
    try:
        told = None if given is None else whole(given)
    except TypeError as cause:
        raise ValidationFailed(f"{name} is no whole number", field=name, found=repr(given)[:40]) from cause
    if told is not None and not 0 < told < 2**32:
        raise ValidationFailed(f"{name} must be above 0", field=name, found=str(given)[:40], expected="> 0")
    return told


def numbers(data: bytes) -> tuple[float, ...]:
    """The components of a vector's bytes."""
    return struct.unpack(f"<{len(data) // 4}f", data)


async def _part(query: Query, place: str) -> Part:
    given = [kind for kind in KINDS if getattr(query, kind) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "nothing"
        raise ValidationFailed("a query has one content", field=place, found=found, expected=" or ".join(KINDS))
    value = await _sendable(given[0], getattr(query, given[0]), place)
    return Part(given[0], value, number(f"{place}.weight", query.weight) or 0.0)


async def _sendable(kind: Kind, value: Any, place: str) -> str | bytes:
    match kind:
        case "vector":
            return _vector(value, f"{place}.vector")
        case "image":
            content = unwrap(await read(value))
            if isinstance(content, Image):
                return content.data
        case _ if isinstance(value, str):
            unwrap(await read(Text(value)))  # half characters of a command line, which no wire takes
            return value
    expected = "a picture" if kind == "image" else "a str"
    raise ValidationFailed(f"this is no {kind}", field=f"{place}.{kind}", found=type(value).__name__, expected=expected)


def _vector(value: Any, place: str) -> bytes:
    if isinstance(value, Embedding):
        return value.data
    try:
        told = numbers(value) if isinstance(value, bytes) else [float(one) for one in value]
        data = struct.pack(f"<{len(told)}f", *told)
    except (TypeError, ValueError, OverflowError, struct.error) as cause:
        raise ValidationFailed(f"not a vector of float32: {cause}", field=place, expected="finite numbers") from cause
    if not told or not all(map(math.isfinite, told)):
        raise ValidationFailed("not a vector", field=place, found=f"{len(told)} numbers", expected="finite numbers")
    return data
