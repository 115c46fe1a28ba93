"""Wishes brought to the workers: each worker sees each generation of a wish once."""

from __future__ import annotations

import asyncio

import pytest

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import State
from modelmora.errors import DependencyUnavailable, ModelLoadFailed, ModelMoraError
from modelmora.ports import Wanted
from modelmora.usecases import reconcile
from modelmora.usecases.reconcile import Reconciler
from tests.fakes import CATALOGUE, OLD, VIT, World, holding, until, worker


def reconciler(world: World, *, settled_s: float = 0.0) -> Reconciler:
    return Reconciler(lambda: CATALOGUE, world.desires, world.host, settled_s=settled_s)


@pytest.mark.parametrize(
    ("wanted", "state", "change"),
    [
        ("loaded", "unloaded", "load"),
        ("loaded", "failed", "load"),
        ("loaded", "loading", None),
        ("loaded", "loaded", None),
        ("unloaded", "loaded", "unload"),
        ("unloaded", "loading", "unload"),
        ("unloaded", "unloaded", None),
    ],
)
async def test_what_a_worker_has_not_as_it_is_wanted_is_changed(
    wanted: Wanted, state: State, change: str | None
) -> None:
    world = World()
    world.host.views = [worker("w1", holding(VIT, state))]
    await world.desires.set("vit", VIT.version, wanted)

    await reconciler(world).once()

    assert world.host.changes == ([(change, VIT.key)] if change else [])


async def test_a_worker_sees_each_generation_once_so_that_what_it_evicts_stays_out() -> None:
    world = World()
    its = reconciler(world)
    world.host.views = [worker("w1")]
    for changes in (1, 2):
        await world.desires.set("vit", VIT.version, "loaded")
        for _ in range(2):
            world.host.views = [worker("w1")]  # it was evicted
            await its.once()
            assert len(world.host.changes) == changes


async def test_a_new_worker_gets_an_old_wish() -> None:
    world = World()
    its = reconciler(world)
    world.host.views = [worker("w1", holding(VIT))]
    await world.desires.set("vit", VIT.version, "loaded")
    await its.once()
    world.host.views.append(worker("w2"))
    await its.once()
    assert world.host.changes == [("load", VIT.key)]


async def test_an_unload_on_another_server_reaches_the_workers_here_once_nobody_asks_for_it() -> None:
    world = World()
    its = reconciler(world, settled_s=0.2)
    world.host.views = [worker("w1", holding(VIT, loads=1))]
    await world.desires.set("vit", VIT.version, "unloaded")

    await its.once()
    assert world.host.changes == []

    await asyncio.sleep(0.25)
    for _ in range(3):
        await its.once()
    assert world.host.changes == [("unload", VIT.key)]


async def test_what_was_being_loaded_as_it_was_to_go_goes_as_well() -> None:
    world = World()
    its = reconciler(world, settled_s=0.05)
    world.host.views = [worker("w1", holding(VIT, "loading"))]
    await world.desires.set("vit", VIT.version, "unloaded")
    await its.once()
    world.host.views = [worker("w1", holding(VIT, loads=1))]
    await asyncio.sleep(0.1)
    await its.once()
    assert world.host.changes == [("unload", VIT.key)]


async def test_what_a_worker_loads_by_itself_and_is_not_served_goes_from_memory() -> None:
    world = World()
    world.host.views = [worker("w1", holding(VIT), holding(OLD))]
    served = Catalogue(tuple(model for model in CATALOGUE.models if model != OLD), CATALOGUE.groups)
    here = Reconciler(lambda: served, world.desires, world.host, declared=CATALOGUE.models)
    await here.once()
    assert world.host.changes == [("unload", OLD.key)]


async def test_a_version_that_is_not_served_any_more_goes_from_memory() -> None:
    world, catalogue = World(), [CATALOGUE]
    world.host.views = [worker("w1", holding(VIT), holding(OLD))]
    here = Reconciler(lambda: catalogue[-1], world.desires, world.host)
    await here.once()
    catalogue.append(Catalogue(tuple(model for model in CATALOGUE.models if model != VIT), CATALOGUE.groups))

    await here.once()
    world.host.views = [worker("w1", holding(VIT, "unloaded"), holding(OLD))]
    await here.once()

    assert world.host.changes == [("unload", VIT.key)]


async def test_a_wish_is_carried_out_once() -> None:
    world = World()
    its = reconciler(world)
    await world.desires.set("vit", VIT.version, "loaded")

    for _ in range(3):
        await its.once()

    assert world.host.changes == [("load", VIT.key)]


async def test_a_model_that_is_asked_for_after_an_unload_stays_and_a_new_worker_unloads_it() -> None:
    world = World()
    its = reconciler(world)
    world.host.views = [worker("w1", holding(VIT, loads=1))]
    its._settled_s = 0.05
    await world.desires.set("vit", VIT.version, "unloaded")
    await its.once()
    world.host.views = [worker("w1", holding(VIT, loads=2))]
    await asyncio.sleep(0.1)
    await its.once()
    assert world.host.changes == []

    world.host.views.append(worker("w2", holding(VIT, loads=1)))
    for _ in range(3):
        await its.once()
    assert world.host.changes == [("unload", VIT.key)]


async def test_an_unload_that_fails_on_a_new_worker_is_tried_again() -> None:
    world = World()
    its = reconciler(world)
    world.host.views = [worker("w1", holding(VIT))]
    world.host.troubles[VIT.key] = DependencyUnavailable("away")
    await world.desires.set("vit", VIT.version, "unloaded")
    for _ in range(3):
        await its.once()
    assert world.host.changes == [("unload", VIT.key)] * 3


async def test_a_worker_that_is_not_ready_yet_waits_for_its_turn() -> None:
    world = World()
    world.host.views = [worker("w1", ready=False)]
    its = reconciler(world)
    await world.desires.set("vit", VIT.version, "loaded")

    await its.once()
    assert world.host.changes == []

    world.host.views = [worker("w1")]
    await its.once()
    assert world.host.changes == [("load", VIT.key)]


async def test_workers_of_another_group_are_no_reason_to_act() -> None:
    world = World()
    world.host.views = [worker("w1", holding(VIT)), worker("g1", group="gpu")]
    await world.desires.set("vit", VIT.version, "loaded")

    await reconciler(world).once()

    assert world.host.changes == []


async def test_a_wish_for_a_model_no_longer_declared_is_left_alone() -> None:
    world = World()
    await world.desires.set("gone", "1.0.0", "loaded")

    await reconciler(world).once()

    assert world.host.changes == []


@pytest.mark.parametrize("trouble", [ModelLoadFailed("no folder"), DependencyUnavailable("no runner")])
async def test_a_wish_that_fails_does_not_hold_up_the_others(trouble: ModelMoraError) -> None:
    world = World()
    world.host.troubles[OLD.key] = trouble
    await world.desires.set("vit", "1.0.0", "loaded")
    await world.desires.set("vit", VIT.version, "loaded")

    await reconciler(world).once()

    assert world.host.changes == [("load", OLD.key), ("load", VIT.key)]


@pytest.mark.parametrize(("trouble", "tries"), [(ModelLoadFailed("no folder"), 1), (DependencyUnavailable("away"), 3)])
async def test_only_what_may_pass_is_tried_again(trouble: ModelMoraError, tries: int) -> None:
    world = World()
    world.host.troubles[VIT.key] = trouble
    its = reconciler(world)
    await world.desires.set("vit", VIT.version, "loaded")

    for _ in range(3):
        await its.once()

    assert len(world.host.changes) == tries


async def test_it_goes_on_after_the_store_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "PERIOD_S", 0.001)
    world = World()
    await world.desires.set("vit", VIT.version, "loaded")
    world.desires.trouble = DependencyUnavailable("the database is away")
    running = asyncio.create_task(reconciler(world).run())
    await until(lambda: world.desires.asked >= 3)
    assert world.host.changes == []

    world.desires.trouble = None
    await until(lambda: bool(world.host.changes))

    running.cancel()
    assert world.host.changes == [("load", VIT.key)]
