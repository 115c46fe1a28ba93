"""Vectors in indexes, found by likeness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from modelmora.domain.pictures.search import Hit, Point, Question
from modelmora.domain.pictures.spaces import IndexSettings


class Vectors(Protocol):
    """Indexes by name; an alias stands for one of them. Vectors are compared by cosine.

    Everything raises DependencyUnavailable where the store is away. What names an index takes an alias as well.
    """

    async def create(self, name: str, *, dimension: int, settings: IndexSettings) -> None:
        """Idempotent; raises Conflict where it is there with another dimension."""
        ...

    async def upsert(self, name: str, points: Sequence[Point]) -> None:
        """Searches find them when it returns. A point whose picture is there with a higher `seq` is left out. Raises
        ValidationFailed for a vector of another length, NotFound (ModelNotFound) where there is no such index."""
        ...

    async def delete(self, name: str, picture_ids: Sequence[str]) -> None:
        """Idempotent, also where there is no such index."""
        ...

    async def vectors(self, name: str, picture_ids: Sequence[str]) -> Mapping[str, bytes]:
        """The vectors of those that are there, little-endian float32."""
        ...

    async def points(self, name: str, picture_ids: Sequence[str]) -> list[Point]:
        """Those that are there, whole: put into another index they are what they were."""
        ...

    async def search(self, name: str, question: Question) -> list[Hit]:
        """The best first, ties by id; of groups all hits of the best group first. Nothing where there is no such index.
        Raises ValidationFailed for a vector of another length."""
        ...

    async def count(self, name: str) -> int:
        """0 where there is no such index."""
        ...

    async def ids(self, name: str, *, after: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        """Picture ids of an index a page at a time, and where the next begins."""
        ...

    async def switch(self, alias: str, name: str) -> None:
        """From now on the alias stands for that index, in one step."""
        ...

    async def standing(self) -> Mapping[str, str]:
        """What each alias stands for."""
        ...

    async def names(self) -> tuple[str, ...]: ...

    async def drop(self, name: str) -> None:
        """Idempotent."""
        ...

    async def ping(self) -> float:
        """Milliseconds of one round trip."""
        ...

    async def close(self) -> None: ...
