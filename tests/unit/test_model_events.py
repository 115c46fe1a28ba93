"""Models that are loaded and let go are told of, once, by one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from modelmora.domain.events.envelope import Event
from modelmora.ports import Holding, Kept, ModelHost, WorkerView
from modelmora.usecases.events.models import ModelEvents


@dataclass
class Runners:
    held: dict[str, str] = field(default_factory=dict)

    def workers(self) -> Sequence[WorkerView]:
        holdings: dict[str, Any] = {m: Holding(model=m, state=cast(Any, s), bytes=7) for m, s in self.held.items()}
        return [WorkerView(group="default", worker="default-1", pid=1, ready=True, holdings=holdings)]


@dataclass
class Told:
    events: list[Event] = field(default_factory=list)

    async def add(self, events: Sequence[Event]) -> None:
        self.events += events

    async def due(self, *, limit: int) -> tuple[Kept, ...]:
        return ()

    async def carried(self, numbers: Sequence[int]) -> None:
        return

    async def waiting(self) -> int:
        return 0


@dataclass
class Leases:
    free: bool = True

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        return 1 if self.free else None

    async def release(self, name: str, holder: str) -> None:
        return


async def test_what_is_loaded_and_unloaded_is_told_once_by_whoever_has_the_lease() -> None:
    runners, told, leases = Runners({"a@1.0.0": "loaded", "b@1.0.0": "loading"}), Told(), Leases()
    telling = ModelEvents(
        cast(ModelHost, runners),
        told,
        leases,
        lease="l",
        holder="me",
        source="/x",
        topic="t",
        new_id=lambda: "1",
        clock=lambda: datetime.now(UTC),
    )
    assert [await telling.turn() for _ in range(2)] == [1, 0]
    assert (told.events[0].type, told.events[0].data["bytes"]) == ("com.modelmora.model.loaded.v1", 7)
    leases.free = False
    runners.held = {}
    assert await telling.turn() == 0
    leases.free = True
    assert await telling.turn() == 1
    assert (told.events[1].type, told.events[1].key) == ("com.modelmora.model.unloaded.v1", "a")
