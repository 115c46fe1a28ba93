"""Registering, moving and removing, over real databases and a real object store: all of it or nothing, with a trace."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from adapters.database import Database
from adapters.objects import FileObjects
from modelmora.domain.registry.artifact import ArtifactFile, listed
from modelmora.domain.registry.entries import ModelVersion, Running
from modelmora.domain.registry.lineage import Node
from modelmora.domain.registry.pages import AuditQuery, VersionQuery
from modelmora.domain.registry.provenance import TrainingMetadata
from modelmora.errors import Conflict, ModelNotFound, PreconditionFailed, ValidationFailed, WrongState
from modelmora.usecases.registry import Actor, Registration, RegistryModels, RegistryVersions
from modelmora.usecases.registry.models import Amendment
from tests.registered import NOW

ANN = Actor(name="ann", request_id="r-1")


@dataclass
class Registry:
    """Both halves over one database, with numbers for ids and a clock that ticks."""

    database: Database
    objects: FileObjects
    models: RegistryModels
    versions: RegistryVersions

    async def files(self, *contents: bytes) -> tuple[ArtifactFile, ...]:
        return tuple([await self.file(f"file-{number}", content) for number, content in enumerate(contents)])

    async def file(self, path: str, content: bytes) -> ArtifactFile:
        async def chunks() -> AsyncIterator[bytes]:
            yield content

        stored = await self.objects.put(chunks())
        return ArtifactFile(path=path, bytes=stored.bytes, sha256=stored.sha256)

    async def register(
        self, version: str = "1.0.0", *, parent: str | None = None, content: bytes = b"w"
    ) -> ModelVersion:
        given = Registration(
            version=version,
            files=await self.files(content),
            running=Running(provider="classifier"),
            training=TrainingMetadata(parent=parent),
        )
        return await self.versions.register("birds", given, by=ANN)

    async def approved(self, version: str = "1.0.0") -> ModelVersion:
        return await self.versions.validated(await self.register(version), by=ANN)

    async def told(self) -> list[tuple[str, str, str]]:
        entries = (await self.database.audit.entries(AuditQuery())).items
        assert await self.database.audit.broken() is None
        return [(entry.change.actor, entry.change.action, entry.change.subject) for entry in entries]

    async def states(self) -> dict[str, str]:
        return {one.version: one.state for one in (await self.versions.find(VersionQuery(model="birds"))).items}


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    database, objects = await Database.open(database_url), FileObjects(tmp_path / "objects")
    ids, ticks = itertools.count(), itertools.count()
    options = {"new_id": lambda: f"id-{next(ids):04d}", "clock": lambda: NOW + timedelta(seconds=next(ticks))}
    models = RegistryModels(database.models, **options)  # type: ignore[arg-type] # two functions
    versions = RegistryVersions(database.models, database.versions, database.lineage, objects, **options)  # type: ignore[arg-type] # as above
    await models.add("birds", "classification", by=ANN)
    yield Registry(database, objects, models, versions)
    await database.close()


async def test_a_version_is_registered_with_its_files(registry: Registry) -> None:
    version = await registry.register()
    assert (version.state, version.type, version.artifact.bytes) == ("registered", "classification", 1)
    assert version.artifact.uri == f"object:{version.artifact.sha256}"
    manifest = b"".join([chunk async for chunk in registry.objects.get(version.artifact.sha256)])
    assert listed(manifest) == tuple((file.path, file.sha256) for file in version.artifact.files)
    assert await registry.versions.get("birds", "1.0.0") == version
    assert await registry.told() == [("ann", "model.register", "birds"), ("ann", "version.register", "birds@1.0.0")]


async def test_files_that_are_not_there_are_all_named_and_nothing_is_registered(registry: Registry) -> None:
    [there] = await registry.files(b"weights")
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
    given = Registration(version="1.0.0", files=await registry.files(b"w"), running=Running(provider="classifier"))
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
