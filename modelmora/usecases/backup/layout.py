"""What stands where in a backup: a head, tables, files by their digests, vectors, and an end that says it is whole."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from modelmora.domain.pictures.search import Point
from modelmora.domain.pictures.spaces import IndexSettings
from modelmora.errors import ValidationFailed
from modelmora.ports import ArchiveReader

M = TypeVar("M", bound=BaseModel)

FORMAT = 1
HEAD, END = "head.json", "end.json"
TABLES, FILES, PICTURES, THUMBNAILS, VECTORS = "tables/", "files/", "pictures/", "thumbnails/", "vectors/"


class Head(BaseModel):
    """What made it, and of which tables."""

    format: int = FORMAT
    version: str
    revision: str
    made_at: datetime


class Digested(BaseModel):
    """A member that its name does not digest."""

    bytes: int
    sha256: str


class End(BaseModel):
    """The last member. `left_out` are files that the store does not have, or not as they were put, with the reason;
    `gone` are ids of pictures that were removed while it was made."""

    members: dict[str, Digested] = {}
    counts: dict[str, int] = {}
    left_out: dict[str, str] = {}
    gone: list[str] = []


class IndexLine(BaseModel):
    """The first line of an index's vectors; each other line is a point."""

    name: str
    alias: str
    live: bool
    dimension: int
    settings: IndexSettings


class PointLine(BaseModel):
    """Vectors are base64 of little-endian float32."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    point: Point


@dataclass(frozen=True, slots=True)
class Report:
    """What a backup holds: how many of each, and what is not in it."""

    counts: Mapping[str, int]
    left_out: Mapping[str, str] = field(default_factory=dict)
    made_at: datetime | None = None


def line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


async def lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Without their ends; raises ValidationFailed where the last has none."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for one in whole:
            yield one
    if rest:
        raise ValidationFailed("a line of the backup is cut off", field="FILE")


def read(kind: type[M], data: bytes, *, where: str) -> M:
    """Raises ValidationFailed."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as cause:
        told = cause.errors(include_url=False, include_input=False)[0]
        raise ValidationFailed(f"{where} of the backup cannot be read: {told['msg']}", field="FILE") from cause


async def whole(archive: ArchiveReader, name: str) -> bytes:
    """A member's bytes, which fit into memory."""
    return b"".join([chunk async for chunk in archive.read(name)])


def row_of(data: bytes, *, table: str) -> dict[str, Any]:
    """Raises ValidationFailed."""
    try:
        row = json.loads(data)
    except ValueError as cause:
        raise ValidationFailed(f"a row of {table} cannot be read: {cause}", field="FILE") from cause
    if not isinstance(row, dict):
        raise ValidationFailed(f"a row of {table} is no object", field="FILE")
    return row
