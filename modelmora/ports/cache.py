"""Embeddings that were made before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class EmbeddingCache(Protocol):
    """Bytes by key, for a while. It fails open: where it is away nothing is found and nothing is kept, which `ping`
    and a metric tell; nothing is raised."""

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """In the order of the keys."""
        ...

    async def put(self, entries: Mapping[str, bytes]) -> None: ...

    async def ping(self) -> float:
        """Milliseconds of one round trip; raises DependencyUnavailable."""
        ...

    async def close(self) -> None: ...
