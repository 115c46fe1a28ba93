"""How the service is, over fakes and a clock that goes when told."""

from __future__ import annotations

import asyncio

import pytest

from modelmora.domain.inference import Call, Embedded, Inference, Vector
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import DependencyUnavailable, InternalError, InvalidInput, Overloaded
from modelmora.usecases import probes
from modelmora.usecases.health import RESTART_GRACE_S
from modelmora.usecases.probes import Probes
from modelmora.usecases.recent_inferences import PASSES_S, ROW, RecentInferences
from tests.fakes import CLIP, VIT, Clock, World, holding, until, worker


async def up() -> None:
    """A store that answers."""


async def down() -> None:
    raise DependencyUnavailable("the database is away")


async def hang() -> None:
    await asyncio.Event().wait()


def world_of(*names: str, wanted: int = 1, ready: bool = True) -> World:
    world = World()
    world.host.groups = {"default": wanted}
    world.host.views = [worker(name, ready=ready) for name in names]
    return world


def test_ready_when_every_wanted_worker_is() -> None:
    readiness = world_of("w1", "w2", wanted=2).health().readiness()

    assert (readiness.ready, readiness.why, readiness.runners) == (True, None, {"default": (2, 2, 2)})


def test_not_ready_before_the_first_worker_is() -> None:
    readiness = world_of("w1", ready=False).health().readiness()

    assert (readiness.ready, readiness.why) == (False, "default: 0 of 1 ready")


def test_every_group_needs_a_worker() -> None:
    world = world_of("w1")
    world.host.groups = {"default": 1, "gpu": 1}

    assert world.health().readiness().why == "gpu: 0 of 1 ready"
    assert not world.health().readiness().ready


def test_a_worker_that_is_missing_for_a_while_leaves_the_service_ready() -> None:
    world = world_of("w1", "w2", wanted=2)
    its = world.health()
    its.readiness()
    del world.host.views[1]

    fresh = its.readiness()
    world.clock.now += RESTART_GRACE_S
    old = its.readiness()
    world.clock.now += 0.1
    too_old = its.readiness()

    assert (fresh.ready, fresh.why) == (True, "default: 1 of 2 ready")
    assert (old.ready, too_old.ready) == (True, False)


def test_a_worker_that_comes_back_ends_the_shortage() -> None:
    world = world_of("w1", wanted=2)
    its = world.health()
    world.clock.now += RESTART_GRACE_S + 1
    assert not its.readiness().ready

    world.host.views.append(worker("w2"))
    assert its.readiness().ready

    world.host.views.pop()
    assert its.readiness().ready


def test_whoever_asks_rarely_does_not_take_a_fresh_shortage_for_an_old_one() -> None:
    world = world_of("w1", "w2", wanted=2)
    its = world.health()
    its.readiness()
    world.clock.now += 10 * RESTART_GRACE_S
    del world.host.views[1]

    assert its.readiness().ready


def test_draining_is_not_ready_whatever_runs() -> None:
    its = world_of("w1").health()
    its.draining = True

    assert (its.readiness().ready, its.readiness().why) == (False, "shutting down")


async def test_all_well_is_ok() -> None:
    world = World(checks={"database": up})
    its = world.health()
    world.clock.now += 5

    report = await its.report()

    assert (report.status, report.uptime_s) == ("ok", 5)
    assert report.dependencies["database"].status == "ok"
    assert report.dependencies["database"].checked_at == 1_700_000_000.0


async def test_memory_is_summed_over_all_workers() -> None:
    world = World()
    world.host.views = [worker("w1", holding(CLIP)), worker("w2", holding(CLIP), holding(VIT))]

    assert (await world.health().report()).memory == {
        "held_bytes": 3 * 2**20,
        "budget_bytes": 16 * 2**20,
        "resident_bytes": 10 * 2**20,
    }


async def test_a_store_that_is_away_degrades() -> None:
    report = await World(checks={"database": down, "objects": up}).health().report()

    assert report.status == "degraded"
    assert (report.dependencies["database"].status, report.dependencies["database"].error) == (
        "down",
        "the database is away",
    )
    assert report.dependencies["objects"].status == "ok"


async def test_a_store_that_hangs_does_not_hang_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "CHECK_S", 0.01)

    async with asyncio.timeout(10):
        report = await World(checks={"database": hang, "objects": hang}).health().report()

    assert {d.error for d in report.dependencies.values()} == {"no answer within 0.01 s"}


async def test_a_failed_model_degrades_and_a_missing_worker_too() -> None:
    failed, short = World(), world_of("w1", wanted=2)
    failed.host.views = [worker("w1", holding(VIT, "failed", error="no folder"))]

    assert (await failed.health().report()).status == "degraded"
    assert (await short.health().report()).status == "degraded"


async def test_no_ready_worker_is_down() -> None:
    assert (await world_of().health().report()).status == "down"


async def test_a_default_model_that_cannot_be_loaded_is_not_ready() -> None:
    world = World()
    world.host.views = [worker("w1", holding(CLIP, "failed", error="no folder"))]
    readiness = world.health().readiness()
    assert (readiness.ready, readiness.why) == (False, f"{CLIP.key} is a default and cannot be loaded: no folder")
    world.host.views.append(worker("w2", holding(CLIP)))
    assert world.health().readiness().ready


def record(*outcomes: Outcome[Embedded]) -> Inference:
    call = Call(request_id="r", deadline=0.0)
    return Inference(call=call, model=CLIP, task="embed_text", items=len(outcomes), total_ms=1.0, outcomes=outcomes)


OK, BROKEN = Ok(Embedded(Vector(bytes(4)))), Failed(InternalError("a defect"))
BAD_INPUT, BUSY = Failed(InvalidInput("no picture")), Failed(Overloaded("too much"))


def test_inferences_that_all_fail_are_not_ready_until_it_passes() -> None:
    world = world_of("w1")
    world.recent = RecentInferences(clock=world.clock)
    its = world.health()
    for _ in range(ROW - 1):
        world.recent(record(BROKEN, BROKEN))
    assert its.readiness().ready
    world.recent(record(BROKEN))
    assert (its.readiness().ready, its.readiness().why) == (False, f"the last {ROW} inferences failed: internal")
    world.clock.now += PASSES_S + 0.1
    assert its.readiness().ready
    world.recent(record(BROKEN))
    assert not its.readiness().ready
    world.recent(record(OK))
    assert its.readiness().ready


@pytest.mark.parametrize("record_", [record(BAD_INPUT), record(BUSY), record(BROKEN, BAD_INPUT), record(BROKEN, OK)])
def test_what_is_not_the_servers_fault_alone_does_not_count(record_: Inference) -> None:
    recent = RecentInferences()
    for _ in range(3 * ROW):
        recent(record_)
    assert recent.trouble() is None


async def test_stores_are_looked_at_in_the_background_and_the_report_waits_for_none() -> None:
    asked, answering = 0, asyncio.Event()

    async def slow() -> None:
        nonlocal asked
        asked += 1
        await answering.wait()

    clock = Clock()
    its = Probes({"database": slow}, clock=clock)
    answering.set()
    await its.look()
    answering.clear()
    running = asyncio.create_task(its.run())
    await until(lambda: asked == 2)
    assert (await its.last())["database"].status == "ok"
    assert asked == 2
    running.cancel()
    answering.set()
    clock.now += probes.STALE_S + 0.1
    await its.last()
    assert asked == 3
