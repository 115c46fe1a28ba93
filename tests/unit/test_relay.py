"""How events leave the outbox: in order, at least once, one carrier at a time, patient with a broker that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from modelmora.domain.events.envelope import Event
from modelmora.errors import DependencyUnavailable
from modelmora.ports import Kept
from modelmora.telemetry import OUTBOX_WAITING
from modelmora.usecases.events.relay import KEPT_BACK_S, LONGEST_S, PAGE, PERIOD_S, Relay

DEFECTS = ("modelmora_events_relayed_total", {"code": "internal"})


@dataclass
class FakeOutbox:
    rows: list[Kept] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def add(self, events: Sequence[Event]) -> None:
        raise NotImplementedError

    async def due(self, *, limit: int) -> tuple[Kept, ...]:
        self.asked.set()
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
    came: asyncio.Event = field(default_factory=asyncio.Event)
    defect: Exception | None = None
    after: Callable[[], None] = lambda: None

    async def publish(self, events: Sequence[Kept]) -> list[bool]:
        if self.away:
            raise DependencyUnavailable("away")
        if self.defect is not None:
            raise self.defect
        self.after()
        self.came.set()
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
    released: list[tuple[str, str]] = field(default_factory=list)

    def give_away(self) -> None:
        self.free = False

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        return 1 if self.free else None

    async def release(self, name: str, holder: str) -> None:
        self.released.append((name, holder))


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


async def test_a_lease_that_is_lost_ends_the_turn(parts: tuple[FakeOutbox, FakeBroker, FakeLeases, Relay]) -> None:
    outbox, broker, leases, relay = parts
    broker.after = leases.give_away
    assert await relay.turn() == PERIOD_S
    assert broker.got == list(range(PAGE))
    assert len(outbox.rows) == 1_200 - PAGE


async def test_what_a_broker_never_takes_does_not_hold_up_the_rest(
    parts: tuple[FakeOutbox, FakeBroker, FakeLeases, Relay],
) -> None:
    outbox, broker, _, relay = parts
    broker.refuses = set(range(700))
    for _ in range(3):
        assert await relay.turn() == KEPT_BACK_S
    assert broker.got == list(range(700, 1_200))
    assert [row.number for row in outbox.rows] == list(range(700))


async def test_a_defect_is_met_like_an_outage(parts: tuple[FakeOutbox, FakeBroker, FakeLeases, Relay]) -> None:
    outbox, broker, _, relay = parts
    broker.defect = ValueError("a defect")
    before = REGISTRY.get_sample_value(*DEFECTS) or 0.0
    with capture_logs() as told:
        assert [await relay.turn() for _ in range(2)] == [0.5, 1.0]
        broker.defect = None
        assert await relay.turn() == PERIOD_S
    assert [line["event"] for line in told] == ["events_stuck", "events_flow"]
    assert REGISTRY.get_sample_value(*DEFECTS) == before + 2
    assert outbox.rows == []


async def test_how_many_wait_is_measured_also_while_the_broker_is_away(
    parts: tuple[FakeOutbox, FakeBroker, FakeLeases, Relay],
) -> None:
    _, broker, _, relay = parts
    broker.away = True
    await relay.turn()
    assert OUTBOX_WAITING._value.get() == 1_200
    broker.away = False
    await relay.turn()
    assert OUTBOX_WAITING._value.get() == 0


async def test_a_nudge_is_answered_at_once(
    parts: tuple[FakeOutbox, FakeBroker, FakeLeases, Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelmora.usecases.events.relay.PERIOD_S", 3_600.0)
    outbox, broker, _, relay = parts
    outbox.rows = []
    running = asyncio.create_task(relay.run())
    async with asyncio.timeout(30):
        await outbox.asked.wait()
        outbox.rows = rows(1)
        relay.nudge()
        await broker.came.wait()
    running.cancel()


async def test_the_lease_may_be_given_back(parts: tuple[FakeOutbox, FakeBroker, FakeLeases, Relay]) -> None:
    _, _, leases, relay = parts
    await relay.release()
    assert leases.released == [("outbox", "me")]
