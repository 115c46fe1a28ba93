"""What is registered reaches the catalogue, and its name another version, without anybody being failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec, ModelRef, ModelSpec
from modelmora.domain.pictures.spaces import IndexSettings
from modelmora.domain.registry.artifact import ArtifactFile
from modelmora.domain.registry.entries import Running
from modelmora.errors import (
    DependencyUnavailable,
    InternalError,
    ModelLoadFailed,
    ModelNotFound,
    OutOfMemory,
    PreconditionFailed,
    ValidationFailed,
    VersionNotFound,
    WrongState,
)
from modelmora.ports import LOST
from modelmora.usecases.registry import Registration
from modelmora.usecases.registry.roster import Roster
from tests.fakes import FakeDesires, FakeHost, until
from tests.registries import ANN, RealRegistry
from wiring.registry import registry_of

DECLARED = ModelSpec(
    name="birds", version="0.1.0", type="classification", provider="noop", source="bundled:noop", default=True
)
CATALOGUE = Catalogue((DECLARED,), (GroupSpec(),))
MEASURED = {
    "p50_ms": 1.5, "p95_ms": 2.5, "memory_bytes": 1000, "device": "cpu", "engine": "torch", "precision": "fp32",
}  # fmt: skip
REPORT = {
    "stage": "report",
    "dimension": 0,
    "labels": ["wren", "rook"],
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
    "outputs": [],
    "measured": MEASURED,
}


class World:
    """A registry over SQLite, workers as told, and the roster of this process and of another."""

    def __init__(self) -> None:
        self.host, self.desires = FakeHost(), FakeDesires()
        self.real = RealRegistry(CATALOGUE, self.host, self.desires)
        self.roster, self.registry = self.real.roster, self.real.registry
        database = self.real.database
        self.other = Roster(CATALOGUE, database.models, database.versions, database.audit)

    def another_has(self, group: str) -> None:
        """What is registered from now on is so by another bundle over the same database, with that group."""
        real = self.real
        there = Catalogue(CATALOGUE.models, (*CATALOGUE.groups, GroupSpec(name=group)))
        roster = Roster(there, real.database.models, real.database.versions, real.database.audit)
        real.versions = registry_of(real.database, real.objects, roster, self.host).versions

    def served(self, ref: str = "birds") -> str:
        return self.roster.now.get(ModelRef.parse(ref)).version

    async def swap(self, version: str, **more: Any) -> None:
        await self.registry.swap.make_current("birds", version, by=ANN, deadline=time.monotonic() + 5, **more)

    async def validate(self, version: str = "1.0.0") -> list[Any]:
        deadline = time.monotonic() + 5
        return [s async for s in self.registry.validation.validate("birds", version, by=ANN, deadline=deadline)]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.roster.refresh()
    yield made
    await made.real.close()


# --- the roster --------------------------------------------------------------------------------------------------


async def test_what_passed_is_served_beside_what_is_declared(world: World) -> None:
    await world.real.approved("1.0.0")
    await world.roster.refresh()
    spec = world.roster.now.get(ModelRef("birds", "1.0.0"))
    assert (spec.source[:7], spec.provider) == ("object:", "noop")
    assert world.served("birds@0.1.0") == "0.1.0"


async def test_a_declared_name_stands_for_what_is_declared_until_somebody_chooses(world: World) -> None:
    await world.real.approved("0.9.0")
    await world.roster.refresh()
    assert world.served() == "0.1.0"
    await world.swap("0.9.0")
    assert world.served() == "0.9.0"
    assert world.roster.now.default("classification").version == "0.9.0"


async def test_nothing_takes_the_place_of_a_current_version_that_is_not_served(world: World) -> None:
    await world.real.approved("1.0.0")
    await world.swap("1.0.0")
    await world.registry.versions.move("birds", "1.0.0", "quarantine", by=ANN)
    await world.roster.refresh()
    for ask in (world.served, lambda: world.roster.now.default("classification")):
        with pytest.raises(VersionNotFound, match=r"birds stands for 1\.0\.0, which is not served; .* one of 0\.1\.0"):
            ask()


async def test_the_default_of_a_type_survives_its_declared_row(world: World) -> None:
    await world.real.approved("1.0.0")
    await world.swap("1.0.0")
    await world.registry.versions.move("birds", "0.1.0", "archive", by=ANN)
    await world.roster.refresh()
    assert world.roster.now.default("classification").version == "1.0.0"


async def test_a_row_that_was_refused_is_not_served_in_the_place_of_what_was_registered(world: World) -> None:
    await world.real.approved("2.0.0")
    row = replace(DECLARED, version="2.0.0")
    declared = Catalogue((DECLARED, row), (GroupSpec(),))
    database = world.real.database
    roster = Roster(declared, database.models, database.versions, database.audit, refused=["birds@2.0.0"])
    await roster.refresh()
    assert roster.now.get(ModelRef("birds", "2.0.0")).source.startswith("object:")
    assert roster.now.get(ModelRef("birds")).version == "0.1.0"


async def test_a_declared_row_that_was_archived_and_removed_does_not_come_back_by_itself(world: World) -> None:
    await world.real.approved("1.0.0")
    await world.swap("1.0.0")
    await world.registry.versions.move("birds", "0.1.0", "quarantine", by=ANN)
    await world.registry.versions.remove("birds", "0.1.0", by=ANN)
    await world.roster.refresh()
    with pytest.raises(VersionNotFound):
        world.served("birds@0.1.0")


async def test_what_has_not_passed_is_not_served(world: World) -> None:
    await world.real.registered("1.0.0")
    await world.roster.refresh()
    with pytest.raises(VersionNotFound, match=r"birds has no version 1\.0\.0; it has 0\.1\.0"):
        world.served("birds@1.0.0")


async def test_another_process_sees_each_change_when_it_looks(world: World) -> None:
    await world.other.refresh()
    await world.real.approved("1.0.0")
    await world.swap("1.0.0")
    await world.other.refresh()
    assert world.other.now.get(ModelRef("birds")).version == "1.0.0"
    await world.registry.versions.move("birds", "0.1.0", "archive", by=ANN)
    await world.other.refresh()
    with pytest.raises(VersionNotFound):
        world.other.now.get(ModelRef("birds", "0.1.0"))


async def test_a_process_that_starts_later_sees_the_same(world: World) -> None:
    await world.real.approved("1.0.0")
    await world.real.approved("1.0.0", model="fish")
    await world.swap("1.0.0")
    await world.other.refresh()
    await world.roster.refresh()
    one, another = world.roster.now, world.other.now
    assert ({m.key for m in one.models}, one.current) == ({m.key for m in another.models}, another.current)


async def test_what_was_removed_is_gone(world: World) -> None:
    await world.real.approved("1.0.0", model="fish")
    await world.roster.refresh()
    await world.registry.versions.remove("fish", "1.0.0", by=ANN)
    await world.roster.refresh()
    with pytest.raises(ModelNotFound):
        world.roster.now.get(ModelRef("fish"))


async def test_a_version_of_a_group_that_is_not_here_is_not_served_here(world: World) -> None:
    world.another_has("gpus")
    await world.real.approved("1.0.0", running=Running(provider="noop", group="gpus"))
    await world.roster.refresh()
    with pytest.raises(VersionNotFound):
        world.served("birds@1.0.0")


async def test_an_embedding_model_that_is_registered_may_ask_for_an_index_of_its_own(world: World) -> None:
    await world.registry.models.add("fish", "embedding", by=ANN)
    stored = await world.real.stored(b"weights")
    file = ArtifactFile(path="weights.safetensors", bytes=stored.bytes, sha256=stored.sha256)
    settings = IndexSettings(m=32, quantization="int8", payload=("camera",))
    given = Registration(version="1.0.0", files=(file,), running=Running(provider="noop", index=settings))
    made = await world.registry.versions.register("fish", given, by=ANN)
    assert (await world.registry.versions.get("fish", "1.0.0")).trial().index == settings == made.running.index

    with pytest.raises(ValidationFailed, match="birds is of type classification, which makes no vectors"):
        await world.registry.versions.register("birds", given, by=ANN)


async def test_a_group_that_nobody_runs_is_refused_when_it_is_registered(world: World) -> None:
    await world.registry.models.add("fish", "classification", by=ANN)
    stored = await world.real.stored(b"weights")
    file = ArtifactFile(path="weights.safetensors", bytes=stored.bytes, sha256=stored.sha256)
    given = Registration(version="1.0.0", files=(file,), running=Running(provider="noop", group="gpus"))
    with pytest.raises(ValidationFailed, match="there is no group 'gpus': groups are fixed") as caught:
        await world.registry.versions.register("fish", given, by=ANN)
    assert (caught.value.field, caught.value.expected) == ("group", "default")


async def test_nothing_is_read_while_nothing_changes(world: World) -> None:
    before = world.roster.now
    await world.roster.refresh()
    assert world.roster.now is before


# --- the swap ----------------------------------------------------------------------------------------------------


async def test_the_new_one_is_warm_before_the_name_moves_and_the_old_one_goes_after(world: World) -> None:
    await world.real.approved("1.0.0")
    await world.swap("1.0.0")
    assert world.host.changes == [("warmup", "birds@1.0.0"), ("unload", "birds@0.1.0")]
    assert world.served() == "1.0.0"
    assert world.roster.now.default("classification").version == "1.0.0"


async def test_the_name_stands_for_the_old_one_until_the_new_one_is_warm(world: World) -> None:
    await world.real.approved("1.0.0")
    world.host.troubles["birds@1.0.0"] = OutOfMemory("no room")
    with pytest.raises(OutOfMemory):
        await world.swap("1.0.0")
    assert world.served() == "0.1.0"
    assert (await world.registry.models.get("birds")).chosen is False
    assert ("unload", "birds@0.1.0") not in world.host.changes


async def test_workers_that_come_later_load_what_the_default_stands_for_now(world: World) -> None:
    await world.real.approved("1.0.0")
    await world.swap("1.0.0")
    wanted = {(wish.name, wish.version): wish.wanted for wish in await world.desires.all()}
    assert wanted == {("birds", "1.0.0"): "loaded", ("birds", "0.1.0"): "unloaded"}


async def test_a_new_one_that_does_not_load_is_not_wished_for_any_more(world: World) -> None:
    await world.real.approved("1.0.0")
    world.host.troubles["birds@1.0.0"] = OutOfMemory("no room")
    with pytest.raises(OutOfMemory):
        await world.swap("1.0.0")
    assert [(wish.version, wish.wanted) for wish in await world.desires.all()] == [("1.0.0", "unloaded")]


async def test_who_is_killed_after_the_switch_has_said_before_that_the_old_one_goes(world: World) -> None:
    await world.real.approved("1.0.0")
    world.registry.swap._drain_s = 60
    swapping = asyncio.create_task(world.swap("1.0.0"))
    await until(lambda: world.served() == "1.0.0")
    await until(lambda: len(world.desires.rows) == 2)
    swapping.cancel()
    await asyncio.gather(swapping, return_exceptions=True)
    wanted = {wish.version: wish.wanted for wish in await world.desires.all()}
    assert wanted == {"1.0.0": "loaded", "0.1.0": "unloaded"}


async def test_an_old_one_that_does_not_go_does_not_undo_the_swap(world: World) -> None:
    await world.real.approved("1.0.0")
    world.host.troubles["birds@0.1.0"] = DependencyUnavailable("gone")
    await world.swap("1.0.0")
    assert world.served() == "1.0.0"


async def test_asked_twice_it_is_done_once(world: World) -> None:
    await world.real.approved("1.0.0")
    await world.swap("1.0.0")
    done = list(world.host.changes)
    await world.swap("1.0.0")
    assert world.host.changes == done


async def test_a_switch_of_another_process_a_moment_ago_is_seen(world: World) -> None:
    for version, content in (("1.0.0", b"one"), ("2.0.0", b"two")):
        await world.real.approved(version, content=content)
    await world.swap("1.0.0")
    await world.registry.versions.make_current("birds", "2.0.0", by=ANN)  # by another process
    await world.swap("1.0.0")
    assert world.served() == "1.0.0"
    assert (await world.registry.models.get("birds")).current == "1.0.0"


async def test_an_old_one_that_somebody_went_back_to_stays_in_memory(world: World) -> None:
    await world.real.approved("1.0.0")
    world.registry.swap._drain_s = 0.2
    swapping = asyncio.create_task(world.swap("1.0.0"))
    await until(lambda: world.served() == "1.0.0")
    await world.registry.versions.make_current("birds", "0.1.0", by=ANN)  # by another process
    await swapping
    assert ("unload", "birds@0.1.0") not in world.host.changes


async def test_what_is_not_approved_or_was_changed_meanwhile_is_refused_before_anything_is_loaded(world: World) -> None:
    await world.real.registered("1.0.0")
    with pytest.raises(WrongState, match="is registered and is not served"):
        await world.swap("1.0.0")
    await world.real.approved("2.0.0", content=b"other")
    with pytest.raises(PreconditionFailed):
        await world.swap("2.0.0", row=99)
    assert world.host.changes == []


# --- validation --------------------------------------------------------------------------------------------------


async def test_what_passes_is_approved_with_what_was_found_out(world: World) -> None:
    await world.real.registered("1.0.0")
    world.host.findings = [{"stage": "loading"}, REPORT]
    *steps, last = await world.validate()
    assert steps == [{"stage": "loading"}]
    assert last["version"]["state"] == "approved"
    entry = await world.registry.versions.get("birds", "1.0.0")
    assert (entry.labels, entry.inputs[0].name) == (("wren", "rook"), "x")
    assert (entry.baseline.p95_ms, entry.baseline.memory_bytes) == (2.5, 1000)
    assert world.served("birds@1.0.0") == "1.0.0"


async def test_the_first_that_passes_of_a_new_model_is_what_its_name_stands_for(world: World) -> None:
    await world.real.registered("1.0.0", model="fish")
    world.host.findings = [REPORT]
    deadline = time.monotonic() + 5
    _ = [s async for s in world.registry.validation.validate("fish", "1.0.0", by=ANN, deadline=deadline)]
    assert (await world.registry.models.get("fish")).current == "1.0.0"
    assert world.served("fish") == "1.0.0"


async def test_what_does_not_pass_says_why_and_may_be_looked_at_again(world: World) -> None:
    await world.real.registered("1.0.0")
    world.host.troubles["birds@1.0.0"] = ModelLoadFailed("weights do not fit")
    (last,) = await world.validate()
    assert (last["version"]["state"], last["version"]["failure"]) == ("validation_failed", "weights do not fit")
    world.host.troubles, world.host.findings = {}, [REPORT]
    (last,) = await world.validate()
    assert last["version"]["state"] == "approved"


@pytest.mark.parametrize("trouble", [DependencyUnavailable("the store is away"), OutOfMemory("full")])
async def test_what_is_the_machines_fault_is_not_the_versions(world: World, trouble: Exception) -> None:
    await world.real.registered("1.0.0")
    world.host.troubles["birds@1.0.0"] = trouble
    with pytest.raises(type(trouble)):
        await world.validate()
    assert (await world.registry.versions.get("birds", "1.0.0")).state == "registered"


@pytest.mark.parametrize(
    "trouble", [InternalError("RuntimeError in the runner"), DependencyUnavailable("", field=LOST)]
)
async def test_what_ends_its_runner_or_fails_without_a_name_twice_is_the_versions_own_fault(
    world: World, trouble: Exception
) -> None:
    await world.real.registered("1.0.0")
    world.host.troubles["birds@1.0.0"] = trouble
    with pytest.raises(type(trouble)):
        await world.validate()
    (last,) = await world.validate()
    assert last["version"]["state"] == "validation_failed"


async def test_a_report_that_no_entry_can_hold_is_a_verdict(world: World) -> None:
    await world.real.registered("1.0.0")
    world.host.findings = [{**REPORT, "labels": ["wren", "ro\0ok"]}]
    (last,) = await world.validate()
    assert last["version"]["state"] == "validation_failed"
    assert "labels" in last["version"]["failure"]


async def test_who_comes_second_is_told_what_the_first_found(world: World) -> None:
    await world.real.registered("1.0.0")
    world.host.findings = [{"stage": "loading"}, REPORT]
    deadline = time.monotonic() + 5
    steps = world.registry.validation.validate("birds", "1.0.0", by=ANN, deadline=deadline)
    assert (await anext(steps))["stage"] == "loading"
    await world.validate()
    assert [step["version"]["state"] async for step in steps] == ["approved"]


async def test_versions_without_a_runner_do_not_keep_others_waiting(world: World) -> None:
    world.host.findings = [REPORT]
    world.another_has("gpus")
    await world.real.registered("1.0.0", running=Running(provider="noop", group="gpus"))
    await world.real.registered("2.0.0", content=b"other")
    await world.registry.validation._sweep()
    states = [(await world.registry.versions.get("birds", one)).state for one in ("1.0.0", "2.0.0")]
    assert states == ["registered", "approved"]


async def test_a_load_that_may_be_tried_again_is_no_verdict(world: World) -> None:
    await world.real.registered("1.0.0")
    world.host.troubles["birds@1.0.0"] = ModelLoadFailed("out of memory while loading", retry_after_s=5.0)
    with pytest.raises(ModelLoadFailed):
        await world.validate()
    assert (await world.registry.versions.get("birds", "1.0.0")).state == "registered"


async def test_an_approved_one_is_not_validated_again(world: World) -> None:
    await world.real.approved("1.0.0")
    with pytest.raises(WrongState, match="is approved; only what is registered is validated"):
        await world.validate()


async def test_what_nobody_waits_for_is_looked_at_in_the_background(world: World) -> None:
    world.host.findings = [REPORT]
    working = asyncio.create_task(world.registry.validation.run())
    world.registry.validation.begin(await world.real.registered("1.0.0"))
    await until(lambda: "birds@1.0.0" in {spec.key for spec in world.roster.now.models})
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert (await world.registry.versions.get("birds", "1.0.0")).state == "approved"
