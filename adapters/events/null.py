"""The port `Publisher` that carries nothing: what is told to nobody is told."""

from __future__ import annotations

from collections.abc import Sequence

from modelmora.ports import Kept


class NullPublisher:
    """Every event is safe with nobody."""

    async def publish(self, events: Sequence[Kept]) -> list[bool]:
        return [True] * len(events)

    async def ping(self) -> float:
        return 0.0

    async def close(self) -> None:
        return
