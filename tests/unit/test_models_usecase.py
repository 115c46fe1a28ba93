"""The model half of the control plane: how a model stands over its workers, and what changes it."""

from __future__ import annotations

import pytest

from modelmora.domain.models import State
from modelmora.errors import DependencyUnavailable, ModelLoadFailed, ModelLoading, ModelMoraError, ModelNotFound
from modelmora.ports import Fetch
from tests.fakes import CLIP, OLD, SAM, VIT, World, holding, worker


def test_all_models_are_listed_the_defaults_first_then_by_declaration() -> None:
    assert [s.spec for s in World().models().list()] == [CLIP, OLD, VIT, SAM]
    assert [s.spec for s in World().models().list("segmentation")] == [SAM]


def test_a_model_nobody_holds_is_unloaded() -> None:
    status = World().models().get("vit")

    assert (status.spec, status.state, status.bytes, status.workers, status.error) == (VIT, "unloaded", 0, (), None)


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        (["loading", "loaded"], "loaded"),
        (["failed", "loading"], "loading"),
        (["failed", "unloading"], "unloading"),
        (["unloaded", "failed"], "failed"),
    ],
)
def test_over_several_workers_the_best_state_shows(states: list[State], shown: State) -> None:
    world = World()
    world.host.views = [worker(f"w{i}", holding(VIT, state)) for i, state in enumerate(states)]

    assert world.models().get("vit").state == shown


def test_only_workers_that_have_it_loaded_are_named_and_the_largest_size_counts() -> None:
    world = World()
    world.host.views = [
        worker("w1", holding(VIT, bytes=5)),
        worker("w2", holding(VIT, "failed", error="no room")),
        worker("w3", holding(VIT, bytes=7)),
        worker("w4"),
    ]

    status = world.models().get("vit")

    assert (status.workers, status.bytes, status.error) == (("w1", "w3"), 7, "no room")


async def test_a_load_is_wished_first_and_then_done() -> None:
    world = World()

    report = await world.models().load("vit@1.0.0", deadline=7.0)

    assert (report.model, report.version, report.state) == ("vit", "1.0.0", "loaded")
    assert [(d.name, d.version, d.wanted) for d in world.desires.rows.values()] == [("vit", "1.0.0", "loaded")]
    assert (world.host.changes, world.host.deadlines) == ([("load", OLD.key)], [7.0])


async def test_an_unload_is_wished_even_when_the_runners_are_away() -> None:
    world = World()
    world.host.troubles[VIT.key] = DependencyUnavailable("no runner")

    with pytest.raises(DependencyUnavailable):
        await world.models().unload("vit", deadline=7.0)
    assert [d.wanted for d in world.desires.rows.values()] == ["unloaded"]


async def test_warming_up_wishes_nothing() -> None:
    world = World()

    assert (await world.models().warmup("vit", deadline=7.0)).state == "loaded"
    assert world.desires.rows == {}


@pytest.mark.parametrize("error", [ModelLoading("pull it"), ModelLoadFailed("no folder")])
async def test_a_model_without_files_is_neither_wished_nor_loaded(error: ModelMoraError) -> None:
    world = World()
    world.artifacts.missing = {VIT.key: error}

    for change in (world.models().load, world.models().warmup):
        with pytest.raises(type(error)):
            await change("vit", deadline=7.0)
    assert (world.desires.rows, world.host.changes) == ({}, [])


async def test_a_store_that_is_away_prevents_the_change() -> None:
    world = World()
    world.desires.trouble = DependencyUnavailable("the database is away")

    with pytest.raises(DependencyUnavailable):
        await world.models().load("vit", deadline=7.0)
    assert world.host.changes == []


async def test_files_are_fetched_step_by_step() -> None:
    world = World()
    world.artifacts.fetches = [Fetch(model=VIT.key, done_bytes=1, total_bytes=2)]

    assert [step async for step in world.models().fetch("vit")] == world.artifacts.fetches


async def test_an_unknown_model_is_refused_by_every_verb() -> None:
    models = World().models()

    for verb in (models.get, models.fetch):
        with pytest.raises(ModelNotFound):
            verb("nothing")
    for change in (models.load, models.unload, models.warmup):
        with pytest.raises(ModelNotFound):
            await change("nothing", deadline=7.0)
