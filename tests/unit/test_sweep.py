"""What is seen to behind the back of requests: waits that are over, what got stuck, what expired; and by one only."""

from __future__ import annotations

from datetime import timedelta

import pytest

from modelmora.errors import DependencyUnavailable, OutOfMemory
from modelmora.telemetry import DEAD_LETTERS, WAYS
from modelmora.usecases.pictures.sweep import LEASE, PAGE, Sweep
from tests.event_line import KEY, TRIES, Line
from tests.pictures import coming, step
from tests.pictures_fakes import FakeLeases

STUCK_S = 300.0


class Setting:
    """A sweep over a line; `nudges` counts how often the relay was told."""

    def __init__(self) -> None:
        self.line, self.leases, self.nudges = Line(), FakeLeases(), 0
        self.waits: list[float] = []
        self.sweep = self.made("me")

    def made(self, holder: str) -> Sweep:
        database = self.line.database
        return Sweep(
            database.pictures,
            database.dead_letters,
            self.line.remove,
            self.leases,
            holder=holder,
            source="/sweep",
            stuck_s=STUCK_S,
            tries=TRIES,
            nudge=self.nudge,
            wait=self.wait,
        )

    def nudge(self) -> None:
        self.nudges += 1

    async def wait(self, seconds: float) -> None:
        """Ends the run when it has waited three times."""
        self.waits.append(seconds)
        if len(self.waits) == 3:
            raise KeyError("enough")

    async def carried(self) -> None:
        """All that waits in the outbox is with the broker."""
        outbox = self.line.database.outbox
        await outbox.carried([one.number for one in await outbox.due(limit=1_000)])


@pytest.fixture
def setting() -> Setting:
    return Setting()


async def test_a_picture_whose_wait_is_over_is_announced_and_taken_in(setting: Setting) -> None:
    line = setting.line
    line.world.embedder.fails = {b"a": OutOfMemory("not now")}
    await line.ingest(line.coming("a"))
    assert await setting.sweep.turn() == 0
    line.time.pass_(1)
    assert await setting.sweep.turn() == 1
    assert setting.nudges == 1
    assert [event.source for event in line.database.told()] == ["/sweep"]
    line.world.embedder.fails = {}
    (kept,) = await line.database.outbox.due(limit=5)
    await line.ingest([line.delivery(kept.key, kept.value, kept.headers)])
    assert line.indexed() == ["a"]


async def test_what_nobody_works_on_any_more_is_announced_until_its_tries_are_used_up(setting: Setting) -> None:
    line = setting.line
    await line.database.pictures.register([coming("a", spaces=(KEY,))])
    for _ in range(TRIES - 1):
        line.time.pass_(STUCK_S)
        assert await setting.sweep.turn() == 1
        await setting.carried()
        await line.database.pictures.register([coming("a", spaces=(KEY,))])  # who takes it gets stuck as well
    line.time.pass_(STUCK_S)
    assert await setting.sweep.turn() == 0
    assert line.database.states("a") == {KEY: "dead"}
    assert line.codes() == ["deadline_exceeded"]


async def test_pictures_whose_time_is_over_are_removed_everywhere(setting: Setting) -> None:
    line = setting.line
    over = line.time() + timedelta(seconds=10)
    names = [f"p{number}" for number in range(250)]
    ends = [line.announced(line.stored(name, expires_at=over)) for name in names]
    for start in range(0, len(ends), 8):
        await line.ingest(ends[start : start + 8])
    await line.ingest(line.coming("stays"))
    assert await setting.sweep.turn() == 0
    assert len(line.indexed()) == 251
    line.time.pass_(10)
    await setting.sweep.turn()
    assert line.indexed() == ["stays"]
    assert await line.database.pictures.count() == 1
    assert list(line.files.objects.values()) == [b"stays"]


async def test_one_at_a_time_sweeps(setting: Setting) -> None:
    line, other = setting.line, setting.made("other")
    await setting.sweep.turn()
    await line.database.pictures.register([coming("a", spaces=(KEY,))])
    line.time.pass_(STUCK_S)
    assert await other.turn() == 0
    assert line.database.types() == []
    await setting.leases.release(LEASE, "me")
    assert await other.turn() == 1


async def test_no_more_than_a_page_is_announced_at_once(setting: Setting) -> None:
    line = setting.line
    await line.database.pictures.register([coming(f"p{n}", spaces=(KEY,), claim=False) for n in range(PAGE + 50)])
    line.time.pass_(STUCK_S)
    assert [await setting.sweep.turn() for _ in range(3)] == [PAGE, 50, 0]


async def test_how_much_is_where_is_told(setting: Setting) -> None:
    line = setting.line
    await line.database.pictures.register([coming(name, spaces=(KEY,)) for name in "abc"])
    lost = step("c", "dead", space=KEY, code="internal")
    await line.database.pictures.finish([step("a", space=KEY), lost])
    await setting.sweep.turn()
    told = {state: WAYS.labels(state)._value.get() for state in ("indexed", "working", "dead", "retry_wait")}
    assert told == {"indexed": 1, "working": 1, "dead": 1, "retry_wait": 0}
    assert DEAD_LETTERS._value.get() == 1


@pytest.mark.parametrize("cause", [DependencyUnavailable("away"), RuntimeError("a defect")])
async def test_it_goes_on_whatever_happens(setting: Setting, cause: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = []

    async def turn() -> int:
        turns.append(1)
        raise cause

    monkeypatch.setattr(setting.sweep, "turn", turn)
    with pytest.raises(KeyError):
        await setting.sweep.run()
    assert len(turns) == len(setting.waits) == 3
