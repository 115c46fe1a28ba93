"""How events leave the outbox: in order, at least once, one carrier at a time, patient with a broker that is away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from modelmora.domain.events.envelope import Event
from modelmora.errors import DependencyUnavailable
from modelmora.ports import Kept
from modelmora.usecases.events.relay import LONGEST_S, PERIOD_S, Relay


@dataclass
class FakeOutbox:
    rows: list[Kept] = field(default_factory=list)

    async def add(self, events: Sequence[Event]) -> None:
        raise NotImplementedError

    async def due(self, *, limit: int) -> tuple[Kept, ...]:
        return tuple(self.rows[:limit])

    async def carried(self, numbers: Sequence[int]) -> None:
        self.rows = [row for row in self.rows if row.number not in numbers]

    async def waiting(self) -> int:
        return len(self.rows)


@dataclass
class FakeBroker:
    away: bool = False
    refuses: set[int] = field(default_factory=set)
    got: list[int] = field(default_factory=list)

    async def publish(self, events: Sequence[Kept]) -> list[bool]:
        if self.away:
            raise DependencyUnavailable("away")
        safe = [event.number not in self.refuses for event in events]
        self.got += [event.number for event, is_safe in zip(events, safe, strict=True) if is_safe]
        return safe

    async def ping(self) -> float:
        return 0.0

    async def close(self) -> None:
        return


@dataclass
class FakeLeases:
    free: bool = True

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        return 1 if self.free else None

    async def release(self, name: str, holder: str) -> None:
        return


def rows(count: int) -> list[Kept]:
    return [Kept(number=n, topic="t", key=b"k", value=b"") for n in range(count)]


@pytest.fixture
def parts() -> tuple[FakeOutbox, FakeBroker, FakeLeases, Relay]:
    outbox, broker, leases = FakeOutbox(rows(1_200)), FakeBroker(), FakeLeases()
    return outbox, broker, leases, Relay(outbox, broker, leases, holder="me", draw=lambda: 1.0)


async def test_all_that_is_due_is_carried_in_order(parts: tuple[FakeOutbox, FakeBroker, FakeLeases, Relay]) -> None:
    outbox, broker, _, relay = parts
    assert await relay.turn() == PERIOD_S
    assert broker.got == list(range(1_200))
    assert outbox.rows == []


async def test_what_is_not_safe_stays(parts: tuple[FakeOutbox, FakeBroker, FakeLeases, Relay]) -> None:
    outbox, broker, _, relay = parts
    outbox.rows, broker.refuses = rows(3), {1, 2}
    await relay.turn()
    assert [row.number for row in outbox.rows] == [1, 2]


async def test_who_has_no_lease_carries_nothing(parts: tuple[FakeOutbox, FakeBroker, FakeLeases, Relay]) -> None:
    _, broker, leases, relay = parts
    leases.free = False
    assert await relay.turn() == PERIOD_S
    assert broker.got == []


async def test_waits_grow_while_the_broker_is_away_and_end_with_it(
    parts: tuple[FakeOutbox, FakeBroker, FakeLeases, Relay],
) -> None:
    outbox, broker, _, relay = parts
    broker.away = True
    waits = [await relay.turn() for _ in range(8)]
    assert waits[:3] == [0.5, 1.0, 2.0]
    assert waits[-1] == LONGEST_S
    assert len(outbox.rows) == 1_200
    broker.away = False
    assert await relay.turn() == PERIOD_S
    assert outbox.rows == []
