"""What ModelRegistry.yaml declares, as entries of real databases: the file is heeded, and what somebody chose stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.database import Database
from adapters.objects import FileObjects
from modelmora.domain.models import Batching, ModelSpec
from modelmora.domain.registry.pages import AuditQuery
from modelmora.errors import DependencyUnavailable, PreconditionFailed
from modelmora.usecases.registry import Amendment
from modelmora.usecases.registry.declared import FILE
from tests.contracts.whole_registry import ANN, Registry, opened

ONE = ModelSpec(
    name="birds",
    version="1.0.0",
    type="classification",
    provider="classifier",
    source="hub:org/birds",
    group="gpu",
    default=True,
    config={"preprocess": {"size": [224, 224], "mean": (0.5, 0.5)}, "classes": None},
    device="cuda:1",
    precision="auto",
    engine="openvino",
    batching=Batching(max_batch=8, max_wait_ms=5.0, queue=7),
    warmup=False,
    pin=True,
    idle_ttl_s=600.0,
)
TWO = replace(ONE, version="2.0.0", source="file:/srv/birds")
FISH = replace(ONE, name="fish", version="0.1.0", source="bundled:fish", default=False)


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    database = await Database.open(database_url)
    yield Registry.over(database, FileObjects(tmp_path / "objects"))
    await database.close()


async def current(registry: Registry, name: str = "birds") -> str | None:
    return (await registry.models.get(name)).current


async def test_what_is_declared_is_registered_and_the_last_of_a_name_is_deployed(registry: Registry) -> None:
    assert await registry.declare(ONE, FISH, TWO) == ()
    assert await registry.states() == {"1.0.0": "approved", "2.0.0": "deployed"}
    assert await registry.states("fish") == {"0.1.0": "deployed"}
    birds = await registry.models.get("birds")
    assert (birds.current, birds.chosen, birds.type, birds.owner) == ("2.0.0", False, "classification", FILE)
    assert {actor for actor, _, _ in await registry.told()} == {FILE}


async def test_a_declared_version_is_run_as_it_is_declared(registry: Registry) -> None:
    await registry.declare(ONE)
    version = await registry.versions.get("birds", "1.0.0")
    assert (version.artifact, version.declared, version.source) == (None, True, "hub:org/birds")
    listed = {"preprocess": {"size": [224, 224], "mean": [0.5, 0.5]}, "classes": None}
    assert version.spec() == replace(ONE, config=listed)


async def test_a_restart_changes_nothing_and_leaves_no_trace(registry: Registry) -> None:
    await registry.declare(ONE, TWO, FISH)
    before, head = await registry.told(), await registry.database.audit.head()
    version = await registry.versions.get("birds", "2.0.0")
    assert await registry.declare(ONE, TWO, FISH) == ()
    assert await registry.told() == before
    assert await registry.database.audit.head() == head
    assert await registry.versions.get("birds", "2.0.0") == version


async def test_several_who_start_at_once_declare_it_once(database_url: str, tmp_path: Path) -> None:
    specs = [replace(ONE, name=f"m-{number}") for number in range(5)]
    async with opened([database_url] * 4, FileObjects(tmp_path)) as registries:
        refused = await asyncio.gather(*(one.declare(*specs) for one in registries))
        assert refused == [()] * 4
        told = await registries[0].told()
        assert sorted(told) == sorted(
            entry
            for spec in specs
            for entry in (
                (FILE, "model.declare", spec.name),
                (FILE, "version.declare", spec.key),
                (FILE, "version.deploy", spec.key),
            )
        )


# --- what the file changes ---------------------------------------------------------------------------------------


async def test_what_the_file_changes_about_how_it_is_run_is_taken_over(registry: Registry) -> None:
    await registry.declare(ONE)
    before = await registry.versions.get("birds", "1.0.0")
    changed = replace(ONE, group="default", device="cpu", warmup=True, batching=Batching(), idle_ttl_s=None)
    await registry.declare(changed)
    after = await registry.versions.get("birds", "1.0.0")
    assert after.spec().group == "default"
    assert (after.state, after.id, after.row) == ("deployed", before.id, before.row + 1)
    assert (await registry.told())[-1] == (FILE, "version.declare", "birds@1.0.0")
    last = (await registry.audit.entries(AuditQuery(subject="birds@1.0.0"))).items[-1].change
    assert last.before is not None
    assert last.after is not None
    assert (last.before["running"]["group"], last.after["running"]["group"]) == ("gpu", "default")


async def test_other_files_under_the_same_number_are_taken_over_and_what_was_found_out_is_not(
    registry: Registry,
) -> None:
    await registry.declare(ONE)
    version = await registry.versions.get("birds", "1.0.0")
    seen = replace(version, labels=("wren",), row=version.row + 1)
    await registry.database.versions.change(seen, change=(await registry.audit.entries(AuditQuery())).items[0].change)
    await registry.declare(replace(ONE, source="hub:org/other-birds"))
    after = await registry.versions.get("birds", "1.0.0")
    assert (after.source, after.labels, after.state) == ("hub:org/other-birds", (), "deployed")


async def test_a_later_version_takes_the_name_and_the_earlier_is_let_go(registry: Registry) -> None:
    await registry.declare(ONE)
    await registry.declare(ONE, TWO)
    assert await current(registry) == "2.0.0"
    assert await registry.states() == {"1.0.0": "approved", "2.0.0": "deployed"}
    await registry.declare(TWO, ONE)  # the last one that stands in the file, not the highest
    assert await current(registry) == "1.0.0"
    assert await registry.states() == {"1.0.0": "deployed", "2.0.0": "approved"}


async def test_what_is_not_declared_any_more_is_archived(registry: Registry) -> None:
    await registry.declare(ONE, TWO, FISH)
    await registry.declare(ONE)
    assert await registry.states() == {"1.0.0": "deployed", "2.0.0": "archived"}
    assert await registry.states("fish") == {"0.1.0": "archived"}
    assert (await current(registry), await current(registry, "fish")) == ("1.0.0", None)
    head = await registry.database.audit.head()
    await registry.declare(ONE)
    assert await registry.database.audit.head() == head
    await registry.declare(ONE, TWO, FISH)  # and comes back
    assert await registry.states() == {"1.0.0": "approved", "2.0.0": "deployed"}
    assert (await current(registry), await current(registry, "fish")) == ("2.0.0", "0.1.0")


async def test_an_empty_file_archives_all_that_was_declared(registry: Registry) -> None:
    await registry.declare(ONE, FISH)
    await registry.declare()
    assert await registry.states() == {"1.0.0": "archived"}
    assert await current(registry, "fish") is None


# --- what somebody did -------------------------------------------------------------------------------------------


async def test_the_file_does_not_move_a_name_that_somebody_moved(registry: Registry) -> None:
    await registry.declare(ONE, TWO)
    chosen = await registry.versions.make_current("birds", "1.0.0", by=ANN)
    assert chosen.chosen
    await registry.declare(ONE, TWO, replace(TWO, version="3.0.0"))
    assert await current(registry) == "1.0.0"
    assert (await registry.states())["3.0.0"] == "approved"


async def test_what_somebody_chose_is_not_archived_while_the_name_stands_for_it(registry: Registry) -> None:
    await registry.declare(ONE, TWO)
    await registry.versions.make_current("birds", "1.0.0", by=ANN)
    await registry.declare(TWO)
    assert await registry.states() == {"1.0.0": "deployed", "2.0.0": "approved"}
    await registry.versions.make_current("birds", "2.0.0", by=ANN)
    await registry.declare(TWO)
    assert await registry.states() == {"1.0.0": "archived", "2.0.0": "deployed"}


async def test_what_somebody_archived_stays_archived_until_the_file_makes_something_else_of_it(
    registry: Registry,
) -> None:
    await registry.declare(ONE, TWO)
    await registry.versions.move("birds", "1.0.0", "archive", by=ANN)
    head = await registry.database.audit.head()
    await registry.declare(ONE, TWO)
    assert await registry.database.audit.head() == head
    await registry.declare(replace(ONE, group="default"), TWO)
    assert (await registry.states())["1.0.0"] == "archived"
    await registry.declare(replace(ONE, source="hub:org/better"), TWO)
    assert (await registry.states())["1.0.0"] == "approved"


async def test_what_is_quarantined_stays_so_whatever_the_file_says_and_the_name_goes_on_to_the_next(
    registry: Registry,
) -> None:
    await registry.declare(ONE, TWO)
    await registry.versions.move("birds", "2.0.0", "quarantine", by=ANN)
    await registry.declare(ONE, replace(TWO, source="hub:org/better"))
    assert await registry.states() == {"1.0.0": "deployed", "2.0.0": "quarantined"}
    assert await current(registry) == "1.0.0"
    await registry.declare(replace(TWO, source="hub:org/better"))
    assert await registry.states() == {"1.0.0": "archived", "2.0.0": "quarantined"}
    assert await current(registry) is None


async def test_what_somebody_wrote_about_a_declared_model_stays(registry: Registry) -> None:
    await registry.declare(ONE)
    await registry.models.amend("birds", Amendment(description="of the garden", owner="ann"), by=ANN)
    await registry.declare(ONE, TWO)
    birds = await registry.models.get("birds")
    assert (birds.description, birds.owner, birds.current) == ("of the garden", "ann", "2.0.0")


# --- what does not hold ------------------------------------------------------------------------------------------


async def test_what_somebody_registered_under_that_number_is_his_and_the_rest_goes_on(registry: Registry) -> None:
    await registry.models.add("birds", "classification", by=ANN)
    version = await registry.register("1.0.0")
    [refused] = await registry.declare(ONE, TWO, FISH)
    assert (refused.key, refused.error.code) == ("birds@1.0.0", "conflict")
    assert "registered by somebody" in refused.error.detail
    assert await registry.versions.get("birds", "1.0.0") == version
    assert (await current(registry), await current(registry, "fish")) == ("2.0.0", "0.1.0")


async def test_a_model_of_another_type_is_refused(registry: Registry) -> None:
    await registry.models.add("birds", "embedding", by=ANN)
    [one, two] = await registry.declare(ONE, FISH, TWO)
    assert (one.error.field, two.error.field) == ("type", "type")
    assert await registry.states() == {}
    assert await current(registry, "fish") == "0.1.0"


async def test_two_types_under_one_name_are_refused_but_for_the_first(registry: Registry) -> None:
    [refused] = await registry.declare(ONE, replace(TWO, type="tensor"))
    assert refused.key == "birds@2.0.0"
    assert await registry.states() == {"1.0.0": "deployed"}


async def test_a_removed_number_is_declared_again_only_with_what_it_had(registry: Registry) -> None:
    await registry.declare(ONE, TWO)
    await registry.versions.move("birds", "1.0.0", "archive", by=ANN)
    await registry.versions.remove("birds", "1.0.0", by=ANN)
    [refused] = await registry.declare(replace(ONE, source="hub:org/other"), TWO)
    assert "was removed and had another source" in refused.error.detail
    assert await registry.declare(ONE, TWO) == ()
    assert await registry.states() == {"1.0.0": "approved", "2.0.0": "deployed"}


async def test_what_was_purged_does_not_come_back(registry: Registry) -> None:
    await registry.declare(ONE, TWO)
    for move in ("archive", "purge"):
        await registry.versions.move("birds", "1.0.0", move, by=ANN)
    assert await registry.declare(ONE, TWO) == ()  # nothing about it is new
    [refused] = await registry.declare(replace(ONE, source="hub:org/other"), TWO)
    assert "was purged" in refused.error.detail


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (replace(ONE, config={"lr": float("nan")}), "config.lr"),
        (replace(ONE, config={"text": "a\0b"}), "config.text"),
        (replace(ONE, source="file:/srv/\ud83d"), "source"),
        (replace(ONE, version="1.0"), "version"),
    ],
)
async def test_a_row_that_no_entry_can_be_made_of_is_refused_and_the_rest_goes_on(
    registry: Registry, spec: ModelSpec, field: str
) -> None:
    [refused] = await registry.declare(spec, FISH)
    assert refused.error.field == field
    assert await current(registry, "fish") == "0.1.0"


async def test_whoever_keeps_changing_it_is_not_waited_for(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    async def changed(writes: object) -> None:
        raise PreconditionFailed("was changed meanwhile")

    monkeypatch.setattr(registry.database.together, "write", changed)
    [refused] = await registry.declare(ONE)
    assert "declared at the next start" in refused.error.detail


async def test_a_database_that_is_away_is_told(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(writes: object) -> None:
        raise DependencyUnavailable("the database does not answer")

    monkeypatch.setattr(registry.database.together, "write", away)
    with pytest.raises(DependencyUnavailable):
        await registry.declare(ONE)
