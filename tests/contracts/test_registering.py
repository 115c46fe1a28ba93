"""Registering, moving and removing, over real databases and a real object store: all of it or nothing, with a trace."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database import Database
from adapters.objects import FileObjects
from modelmora.domain.registry.artifact import listed
from modelmora.domain.registry.audit import AuditEntry, Change
from modelmora.domain.registry.entries import Model, ModelVersion, Running
from modelmora.domain.registry.lineage import Node
from modelmora.domain.registry.pages import VersionQuery
from modelmora.domain.registry.provenance import Metric
from modelmora.errors import (
    Conflict,
    DependencyUnavailable,
    ModelNotFound,
    PreconditionFailed,
    ValidationFailed,
    VersionNotFound,
    WrongState,
)
from modelmora.ports import StoredObject, Write
from modelmora.usecases.registry import Amendment, Registration
from tests.contracts.whole_registry import ANN, Registry
from tests.registered import artifact_of

TOP1 = Metric(name="top1", value=0.9, dataset="held-out")


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    database = await Database.open(database_url)
    registry = Registry.over(database, FileObjects(tmp_path / "objects"))
    await registry.models.add("birds", "classification", by=ANN)
    yield registry
    await database.close()


async def test_a_version_is_registered_with_its_files(registry: Registry) -> None:
    version = await registry.register()
    artifact = artifact_of(version)
    assert (version.state, version.type, artifact.bytes) == ("registered", "classification", 1)
    assert artifact.uri == version.source == f"object:{artifact.sha256}"
    manifest = b"".join([chunk async for chunk in registry.objects.get(artifact.sha256)])
    assert listed(manifest) == tuple((file.path, file.sha256) for file in artifact.files)
    assert await registry.versions.get("birds", "1.0.0") == version
    assert await registry.told() == [("ann", "model.register", "birds"), ("ann", "version.register", "birds@1.0.0")]


async def test_files_that_are_not_there_are_all_named_and_nothing_is_registered(registry: Registry) -> None:
    [there] = await registry.bring(b"weights")
    absent = replace(there, path="other", sha256=hashlib.sha256(b"other").hexdigest())
    longer = replace(there, path="longer", bytes=8)
    given = Registration(version="1.0.0", files=(there, absent, longer), running=Running(provider="classifier"))
    with pytest.raises(ValidationFailed) as refused:
        await registry.versions.register("birds", given, by=ANN)
    assert [(fault.detail, fault.found) for fault in refused.value.faults] == [
        ("longer is not in the object store", "7 bytes"),
        ("other is not in the object store", "nothing"),
    ]
    assert await registry.states() == {}
    assert len(await registry.told()) == 1


async def test_two_registrations_of_the_same_version_at_once_leave_one(registry: Registry) -> None:
    outcomes = await asyncio.gather(*(registry.register() for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in outcomes].count(ModelVersion) == 1
    assert [type(one) for one in outcomes].count(Conflict) == 4
    assert len(await registry.told()) == 2


async def test_a_version_of_no_model_is_refused(registry: Registry) -> None:
    given = Registration(version="1.0.0", files=await registry.bring(b"w"), running=Running(provider="classifier"))
    with pytest.raises(ModelNotFound):
        await registry.versions.register("fish", given, by=ANN)


async def test_nothing_is_made_of_what_is_made_of_it(registry: Registry) -> None:
    await registry.register("2.0.0", parent="birds@1.0.0")
    with pytest.raises(ValidationFailed, match=r"birds@1\.0\.0 cannot be made of birds@2\.0\.0"):
        await registry.register("1.0.0", parent="birds@2.0.0")
    await registry.register("1.0.0", parent="birds@0.1.0")
    lineage = await registry.versions.lineage(Node("version", "birds@2.0.0"))
    assert [node.name for node in lineage.ancestors(Node("version", "birds@2.0.0"))] == ["birds@1.0.0", "birds@0.1.0"]


async def test_what_passed_is_approved_by_the_policy(registry: Registry) -> None:
    version = await registry.register()
    approved = await registry.versions.validated(replace(version, labels=("wren", "rook")), by=ANN)
    assert (approved.state, approved.labels) == ("approved", ("wren", "rook"))
    assert await registry.versions.get("birds", "1.0.0") == approved
    told = [(actor, action) for actor, action, _ in await registry.told()]
    assert told[-2:] == [("ann", "version.validate"), ("policy", "version.approve")]


async def test_who_was_cut_off_before_the_policy_spoke_asks_again(registry: Registry) -> None:
    version = await registry.register()
    await registry.versions.move("birds", "1.0.0", "validate", by=ANN)
    assert (await registry.versions.validated(version, by=ANN)).state == "approved"


async def test_what_did_not_pass_says_why_until_it_is_tried_again(registry: Registry) -> None:
    await registry.register()
    why = "weights do not fit the architecture"
    failed = await registry.versions.move("birds", "1.0.0", "fail_validation", by=ANN, reason=why)
    assert (failed.state, failed.failure) == ("validation_failed", why)
    with pytest.raises(WrongState, match="allowed: retry, archive, quarantine"):
        await registry.versions.move("birds", "1.0.0", "deploy", by=ANN)
    assert (await registry.versions.move("birds", "1.0.0", "retry", by=ANN)).failure == ""


async def test_making_another_version_current_deploys_it_and_lets_the_old_one_go(registry: Registry) -> None:
    for version in ("1.0.0", "2.0.0"):
        await registry.approved(version)
    first = await registry.versions.make_current("birds", "1.0.0", by=ANN)
    assert (first.current, await registry.states()) == ("1.0.0", {"1.0.0": "deployed", "2.0.0": "approved"})

    second = await registry.versions.make_current("birds", "2.0.0", by=ANN, row=first.row)
    assert (second.current, await registry.states()) == ("2.0.0", {"1.0.0": "approved", "2.0.0": "deployed"})
    before = await registry.told()
    assert await registry.versions.make_current("birds", "2.0.0", by=ANN) == second
    assert await registry.told() == before  # asked twice, done once


async def test_a_version_that_was_not_approved_does_not_become_current(registry: Registry) -> None:
    await registry.register()
    with pytest.raises(WrongState, match="cannot deploy a version that is registered"):
        await registry.versions.make_current("birds", "1.0.0", by=ANN)
    assert (await registry.models.get("birds")).current is None


async def test_who_read_an_older_state_changes_nothing(registry: Registry) -> None:
    version = await registry.approved()
    await registry.models.amend("birds", Amendment(owner="bob"), by=ANN, row=1)
    for late in (
        registry.models.amend("birds", Amendment(owner="eve"), by=ANN, row=1),
        registry.models.remove("birds", by=ANN, row=1),
        registry.versions.make_current("birds", "1.0.0", by=ANN, row=1),
        registry.versions.move("birds", "1.0.0", "archive", by=ANN, row=version.row - 1),
        registry.versions.remove("birds", "1.0.0", by=ANN, row=version.row - 1),
    ):
        with pytest.raises(PreconditionFailed, match="was changed meanwhile"):
            await late
    assert (await registry.models.get("birds")).owner == "bob"
    assert await registry.states() == {"1.0.0": "approved"}


async def test_amendments_at_once_are_all_made_where_nobody_says_what_he_read(registry: Registry) -> None:
    await registry.register()
    wanted = [Amendment(owner="bob"), Amendment(description="of the garden"), Amendment(tags=("small",))]
    await asyncio.gather(*(registry.models.amend("birds", one, by=ANN) for one in wanted))
    model = await registry.models.get("birds")
    assert (model.owner, model.description, model.tags) == ("bob", "of the garden", ("small",))


async def test_results_and_steps_at_once_are_all_kept_where_nobody_says_what_he_read(registry: Registry) -> None:
    await registry.approved()
    metrics = [replace(TOP1, name=f"top{number}") for number in range(4)]
    amending = [registry.versions.amend("birds", "1.0.0", metrics=(one,), by=ANN) for one in metrics]
    await asyncio.gather(*amending, registry.versions.move("birds", "1.0.0", "quarantine", by=ANN))
    found = await registry.versions.get("birds", "1.0.0")
    assert found.state == "quarantined"
    assert sorted(one.name for one in found.baseline.metrics) == ["top0", "top1", "top2", "top3"]


async def test_what_was_found_of_a_version_is_not_said_of_one_that_took_its_place(registry: Registry) -> None:
    looked_at = await registry.register()
    there = replace(looked_at, id="another")
    await registry.versions.remove("birds", "1.0.0", by=ANN)
    await registry.database.versions.add(
        replace(there, declared=True), change=Change(actor="x", action="a", subject="birds@1.0.0", request_id="r")
    )
    with pytest.raises(WrongState, match="registered anew meanwhile"):
        await registry.versions.validated(looked_at, by=ANN)
    with pytest.raises(VersionNotFound):
        await registry.versions.failed(looked_at, "no", by=ANN)
    assert (await registry.versions.get("birds", "1.0.0")).state == "registered"


async def test_an_amendment_that_changes_nothing_leaves_no_trace(registry: Registry) -> None:
    model = await registry.models.get("birds")
    assert await registry.models.amend("birds", Amendment(owner="ann", tags=()), by=ANN) == model
    assert len(await registry.told()) == 1


async def test_what_is_deployed_or_current_is_not_removed(registry: Registry) -> None:
    for version in ("1.0.0", "2.0.0"):
        await registry.approved(version)
    await registry.versions.make_current("birds", "1.0.0", by=ANN)
    await registry.versions.move("birds", "2.0.0", "deploy", by=ANN)
    with pytest.raises(Conflict, match="make another version current first"):
        await registry.versions.remove("birds", "1.0.0", by=ANN)
    with pytest.raises(Conflict, match="make another version current first"):
        await registry.versions.move("birds", "1.0.0", "undeploy", by=ANN)
    with pytest.raises(WrongState, match="undeploy it first"):
        await registry.versions.remove("birds", "2.0.0", by=ANN)
    with pytest.raises(Conflict, match="has versions"):
        await registry.models.remove("birds", by=ANN)
    await registry.versions.move("birds", "2.0.0", "undeploy", by=ANN)
    await registry.versions.remove("birds", "2.0.0", by=ANN)
    assert await registry.states() == {"1.0.0": "deployed"}


async def test_the_difference_of_two_versions_is_in_what_they_are(registry: Registry) -> None:
    await registry.register("1.0.0", content=b"one")
    await registry.register("2.0.0", content=b"three", parent="birds@1.0.0")
    found = {one.path: (one.before, one.after) for one in await registry.versions.difference("birds", "1.0.0", "2.0.0")}
    assert found["artifact.files[0].bytes"] == (3, 5)
    assert found["training.parent"] == (None, "birds@1.0.0")
    assert not {"id", "version", "created_at", "row"} & set(found)


async def test_a_model_is_named_by_its_id_everywhere(registry: Registry) -> None:
    birds = await registry.models.get("birds")
    given = Registration(version="1.0.0", files=await registry.bring(b"w"), running=Running(provider="classifier"))
    version = await registry.versions.register(birds.id, given, by=ANN)
    assert version.model == "birds"
    assert await registry.versions.get(birds.id, "1.0.0") == version
    assert (await registry.versions.find(VersionQuery(model=birds.id))).items == (version,)
    assert (await registry.versions.validated(version, by=ANN)).state == "approved"
    amended = await registry.versions.amend(birds.id, "1.0.0", metrics=[TOP1], by=ANN)
    assert amended.baseline.metrics == (TOP1,)
    assert (await registry.versions.make_current(birds.id, "1.0.0", by=ANN)).current == "1.0.0"
    await registry.register("2.0.0", parent=f"{birds.id}@1.0.0", model=birds.id)
    assert (await registry.versions.get("birds", "2.0.0")).training.parent == "birds@1.0.0"
    assert await registry.versions.difference(birds.id, "1.0.0", "2.0.0")
    await registry.versions.move(birds.id, "2.0.0", "archive", by=ANN)
    await registry.versions.remove(birds.id, "2.0.0", by=ANN)
    assert (await registry.models.amend(birds.id, Amendment(owner="bob"), by=ANN)).owner == "bob"


async def test_versions_of_no_model_are_not_an_empty_list(registry: Registry) -> None:
    with pytest.raises(ModelNotFound, match="'fish'"):
        await registry.versions.find(VersionQuery(model="fish"))


@pytest.mark.parametrize("bad", ["a\0b", "a\ud83db"])
async def test_a_name_that_no_entry_can_have_is_refused_before_any_database_is_asked(
    registry: Registry, bad: str
) -> None:
    await registry.register()
    given = Registration(version="1.0.0", files=await registry.bring(b"w"), running=Running(provider="classifier"))
    for ask in (
        registry.models.get(bad),
        registry.models.add(bad, "classification", by=ANN),
        registry.models.remove(bad, by=ANN),
        registry.versions.register(bad, given, by=ANN),
        registry.versions.get(bad, "1.0.0"),
        registry.versions.get("birds", bad),
        registry.versions.make_current("birds", bad, by=ANN),
        registry.versions.move("birds", "1.0.0", "archive", by=ANN, reason=bad),
        registry.versions.remove(bad, "1.0.0", by=ANN),
        registry.versions.lineage(Node("version", bad)),
    ):
        with pytest.raises(ValidationFailed):
            await ask
    assert await registry.states() == {"1.0.0": "registered"}


async def test_why_it_did_not_pass_is_kept_whatever_was_said(registry: Registry) -> None:
    """The words are those of some library about some file."""
    await registry.register()
    why = "bad \0 \ud83d" + "x" * 20_000
    failed = await registry.versions.move("birds", "1.0.0", "fail_validation", by=ANN, reason=why)
    assert failed.failure.startswith("bad \ufffd \ufffdxxx")
    assert len(failed.failure) == 10_000
    assert await registry.versions.get("birds", "1.0.0") == failed


async def test_the_store_is_asked_for_many_files_at_once_but_not_for_all(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = await registry.bring(*(number.to_bytes(2, "big") for number in range(60)))
    asked, most, real = 0, 0, registry.objects.find

    async def find(sha256: str) -> StoredObject | None:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        await asyncio.sleep(0)
        try:
            return await real(sha256)
        finally:
            asked -= 1

    monkeypatch.setattr(registry.objects, "find", find)
    twice = [*files, *(replace(file, path=f"again/{file.path}") for file in files)]
    given = Registration(version="1.0.0", files=tuple(twice), running=Running(provider="classifier"))
    await registry.versions.register("birds", given, by=ANN)
    assert most == 16


async def test_results_found_out_later_are_added_and_of_the_same_the_new_one_counts(registry: Registry) -> None:
    version = await registry.approved()
    first = await registry.versions.amend("birds", "1.0.0", metrics=[TOP1], by=ANN, row=version.row)
    assert first.baseline.metrics == (TOP1,)
    better, other = replace(TOP1, value=0.95), replace(TOP1, dataset="winter")
    second = await registry.versions.amend("birds", "1.0.0", metrics=[better, other], by=ANN)
    assert second.baseline.metrics == (better, other)
    before = await registry.told()
    assert await registry.versions.amend("birds", "1.0.0", metrics=[other], by=ANN) == second
    assert await registry.told() == before
    assert before[-1] == ("ann", "version.amend", "birds@1.0.0")
    with pytest.raises(PreconditionFailed):
        await registry.versions.amend("birds", "1.0.0", metrics=[], by=ANN, row=1)


async def test_results_told_while_it_is_validated_are_not_lost(registry: Registry) -> None:
    version = await registry.register()
    await registry.versions.amend("birds", "1.0.0", metrics=[TOP1], by=ANN)
    measured = replace(version.baseline, p50_ms=4.0, metrics=(replace(TOP1, value=0.1),))
    approved = await registry.versions.validated(replace(version, baseline=measured, labels=("wren",)), by=ANN)
    assert (approved.baseline.metrics, approved.baseline.p50_ms, approved.labels) == ((TOP1,), 4.0, ("wren",))


async def test_of_two_who_validated_it_one_is_told_that_it_was_done(registry: Registry) -> None:
    version = await registry.register()
    outcomes = await asyncio.gather(
        *(registry.versions.validated(version, by=ANN) for _ in range(2)), return_exceptions=True
    )
    [late] = [one for one in outcomes if not isinstance(one, ModelVersion)]
    assert isinstance(late, PreconditionFailed | WrongState)
    assert [action for _, action, _ in await registry.told()][-2:] == ["version.validate", "version.approve"]


# --- one step or none --------------------------------------------------------------------------------------------


async def broken_after(registry: Registry, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database goes away in the middle of a change, after so many entries of the audit."""
    real, written = registry.database.audit.append, itertools.count()

    async def append(connection: AsyncConnection, change: Change) -> AuditEntry:
        if next(written) == entries:
            raise DependencyUnavailable("the database does not answer")
        return await real(connection, change)

    monkeypatch.setattr(registry.database.audit, "append", append)


@pytest.mark.parametrize("entries", [0, 1, 2])
async def test_a_change_of_the_current_version_that_is_cut_off_leaves_the_old_one(
    registry: Registry, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1.0.0", "2.0.0"):
        await registry.approved(version)
    before = await registry.versions.make_current("birds", "1.0.0", by=ANN)
    told = await registry.told()
    with monkeypatch.context() as patch:
        await broken_after(registry, entries, patch)
        with pytest.raises(DependencyUnavailable):
            await registry.versions.make_current("birds", "2.0.0", by=ANN)
    assert await registry.models.get("birds") == before
    assert await registry.states() == {"1.0.0": "deployed", "2.0.0": "approved"}
    assert await registry.told() == told
    await registry.versions.make_current("birds", "2.0.0", by=ANN)
    assert await registry.states() == {"1.0.0": "approved", "2.0.0": "deployed"}


@pytest.mark.parametrize("entries", [0, 1])
async def test_a_validation_that_is_cut_off_leaves_it_registered(
    registry: Registry, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await registry.register()
    with monkeypatch.context() as patch:
        await broken_after(registry, entries, patch)
        with pytest.raises(DependencyUnavailable):
            await registry.versions.validated(version, by=ANN)
    assert await registry.versions.get("birds", "1.0.0") == version
    assert (await registry.versions.validated(version, by=ANN)).state == "approved"


async def test_of_many_who_make_versions_current_at_once_one_holds_and_only_that_is_deployed(
    registry: Registry,
) -> None:
    numbers = [f"1.{number}.0" for number in range(4)]
    for number in numbers:
        await registry.approved(number)
    outcomes = await asyncio.gather(
        *(registry.versions.make_current("birds", number, by=ANN) for number in numbers * 2), return_exceptions=True
    )
    assert {type(one) for one in outcomes} <= {Model, Conflict}
    current = (await registry.models.get("birds")).current
    assert [number for number, state in (await registry.states()).items() if state == "deployed"] == [current]


async def test_something_else_about_the_model_changing_meanwhile_is_not_in_the_way(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registry.approved()
    real, first = registry.database.together.write, True

    async def write(writes: Sequence[Write]) -> None:
        nonlocal first
        if first:
            first = False
            await registry.models.amend("birds", Amendment(owner="bob"), by=ANN)
        await real(writes)

    monkeypatch.setattr(registry.database.together, "write", write)
    assert (await registry.versions.make_current("birds", "1.0.0", by=ANN)).owner == "bob"


async def test_unless_whoever_asks_said_as_what_he_read_it(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    await registry.approved()
    row, real = (await registry.models.get("birds")).row, registry.database.together.write

    async def write(writes: Sequence[Write]) -> None:
        await registry.models.amend("birds", Amendment(owner="bob"), by=ANN)
        await real(writes)

    monkeypatch.setattr(registry.database.together, "write", write)
    with pytest.raises(PreconditionFailed):
        await registry.versions.make_current("birds", "1.0.0", by=ANN, row=row)
    assert (await registry.models.get("birds")).current is None


async def test_choosing_what_the_file_had_chosen_makes_it_somebodys_choice(registry: Registry) -> None:
    version = await registry.approved()
    await registry.declare(replace(version.spec(), name="fish", source="hub:org/fish"))
    assert not (await registry.models.get("fish")).chosen
    chosen = await registry.versions.make_current("fish", "1.0.0", by=ANN)
    assert chosen.chosen
    assert await registry.versions.make_current("fish", "1.0.0", by=ANN) == chosen
