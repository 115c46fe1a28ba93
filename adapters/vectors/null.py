"""The port `Vectors` where none are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from modelmora.domain.pictures.search import Hit, Point, Question
from modelmora.domain.pictures.spaces import IndexSettings
from modelmora.errors import DependencyUnavailable


class NullVectors:
    """Keeps nothing, which is no error, and says so to whoever searches."""

    async def create(self, name: str, *, dimension: int, settings: IndexSettings) -> None:
        return

    async def upsert(self, name: str, points: Sequence[Point]) -> None:
        return

    async def delete(self, name: str, picture_ids: Sequence[str]) -> None:
        return

    async def vectors(self, name: str, picture_ids: Sequence[str]) -> Mapping[str, bytes]:
        return {}

    async def points(self, name: str, picture_ids: Sequence[str]) -> list[Point]:
        return []

    async def search(self, name: str, question: Question) -> list[Hit]:
        _refuse()

    async def count(self, name: str) -> int:
        return 0

    async def ids(self, name: str, *, after: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        return (), None

    async def switch(self, alias: str, name: str) -> None:
        return

    async def standing(self) -> Mapping[str, str]:
        return {}

    async def names(self) -> tuple[str, ...]:
        return ()

    async def drop(self, name: str) -> None:
        return

    async def ping(self) -> float:
        return 0.0

    async def close(self) -> None:
        return


def _refuse() -> NoReturn:
    raise DependencyUnavailable("no vectors are kept here: MODELMORA_VECTORS_URL is null://")
