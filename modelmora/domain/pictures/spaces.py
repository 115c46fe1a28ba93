"""A space: the vectors that one version of one model makes. Those of two are never compared."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

LONGEST_NAME = 200
_POINTS = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
"""RFC 9562's namespace for URLs: the id of a point follows from the picture's alone."""

LINKS, CANDIDATES = (4, 256), (4, 4096)
"""The least and the most of `m` and of `ef_construct`."""

IndexState = Literal["building", "verifying", "ready", "live", "draining", "dropped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """One version of one model, in one collection of one tenant."""

    model: str
    version: str
    collection: str = "default"
    tenant: str = "default"

    @property
    def key(self) -> str:
        """`model@version`, as in every request."""
        return f"{self.model}@{self.version}"

    @property
    def name(self) -> str:
        """What the vector store calls it."""
        return _short(f"{self.alias}-{self.version}")

    @property
    def alias(self) -> str:
        """What the vector store calls the one that searches go to, whatever its version."""
        return _short(f"mm-{self.tenant}-{self.collection}-{self.model}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """How a vector store keeps the vectors of a model; each is passed through to a server.

    `m` and `ef_construct` are HNSW's (Malkov and Yashunin 2016), `quantization` int8 scalars (`always_ram` keeps them
    in memory), `on_disk` puts full vectors on the disk, `payload` are keys of metadata that filters are quick on.
    """

    m: int | None = None
    ef_construct: int | None = None
    quantization: Literal["int8"] | None = None
    always_ram: bool = True
    on_disk: bool = False
    payload: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index of a space, and how far it is. `cursor` is the last picture that a re-index has been through; of `total`
    pictures `done` are in it."""

    space: Space
    state: IndexState
    dimension: int
    settings: IndexSettings = field(default_factory=IndexSettings)
    total: int = 0
    done: int = 0
    failed: int = 0
    cursor: str | None = None
    agreement: float | None = None
    why: str = ""
    created_at: datetime
    changed_at: datetime


def point_id(picture_id: str) -> str:
    """The id of a picture's point: a uuid5 of its own."""
    return str(uuid.uuid5(_POINTS, picture_id))


def _short(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: LONGEST_NAME - 17]}-{digest}"
