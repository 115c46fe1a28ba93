"""The promise of `RegisteredVersions` and `Lineages`, kept by every database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from adapters.database import Database
from modelmora.domain.registry.artifact import Artifact
from modelmora.domain.registry.entries import ModelVersion, Running
from modelmora.domain.registry.lineage import Node
from modelmora.domain.registry.pages import AuditQuery, Paging, VersionQuery
from modelmora.domain.registry.provenance import Metric, PerformanceBaseline, TrainingMetadata
from modelmora.domain.tensors import TensorSpec
from modelmora.errors import Conflict, ModelNotFound, PreconditionFailed, ValidationFailed, VersionNotFound
from tests.registered import ARTIFACT, CONFIG, a_change, a_model, a_version, later


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    for number, name in enumerate(("birds", "fish")):
        await database.models.add(a_model(name, second=number), change=a_change())
    yield database
    await database.close()


async def add(database: Database, *versions: ModelVersion) -> None:
    for version in versions:
        await database.versions.add(version, change=a_change(subject=version.key))


async def keys(database: Database, query: VersionQuery) -> list[str]:
    """Of all pages."""
    found: list[str] = []
    while True:
        page = await database.versions.find(query)
        found += [version.key for version in page.items]
        if page.next_cursor is None:
            return found
        query = replace(query, page=replace(query.page, cursor=page.next_cursor))


async def test_a_version_is_found_as_it_was_registered(database: Database) -> None:
    version = a_version(
        inputs=(TensorSpec(name="image", dtype="uint8", shape=("batch", None, 3), low=0.0),),
        labels=("wren", "røok"),
        running=Running(provider="classifier", config={"preprocess": {"size": 224, "scale": 1e-05}}, precision="auto"),
        training=TrainingMetadata(dataset="d", parameters={"lr": 1e22, "steps": [1, 2]}, trained_at=later(-9)),
        baseline=PerformanceBaseline(metrics=(Metric(name="top1", value=0.1 + 0.2, dataset="d"),), p50_ms=4.0),
    )
    await add(database, version)
    assert await database.versions.get("birds", "1.0.0") == version


async def test_what_is_not_there_is_named(database: Database) -> None:
    with pytest.raises(VersionNotFound, match=r"birds has no version 1\.0\.0"):
        await database.versions.get("birds", "1.0.0")
    with pytest.raises(ModelNotFound, match="'frogs'"):
        await database.versions.get("frogs", "1.0.0")
    with pytest.raises(ModelNotFound, match="'frogs'"):
        await add(database, a_version(model="frogs"))


async def test_a_version_is_registered_once_however_many_try(database: Database) -> None:
    async def registered(number: int) -> bool:
        try:
            await add(database, a_version(id=str(number)))
        except Conflict:
            return False
        return True

    assert (await asyncio.gather(*map(registered, range(8)))).count(True) == 1
    about = await database.audit.entries(AuditQuery(subject="birds@1.0.0"))
    assert len(about.items) == 1


async def test_a_change_is_kept_and_of_two_the_second_is_refused(database: Database) -> None:
    version = a_version()
    await add(database, version)
    validated = version.moved("validate", at=later(1))
    await database.versions.change(validated, change=a_change("validate", version.key))
    assert await database.versions.get("birds", "1.0.0") == validated
    with pytest.raises(PreconditionFailed):
        await database.versions.change(version.moved("fail_validation", at=later(2)), change=a_change())
    assert await keys(database, VersionQuery(state="validated")) == ["birds@1.0.0"]
    assert await keys(database, VersionQuery(state="registered")) == []


async def test_a_removed_version_is_gone_and_comes_back_only_as_it_was(database: Database) -> None:
    version = a_version(training=TrainingMetadata(parent="birds@0.9.0"))
    await add(database, version)
    with pytest.raises(PreconditionFailed):
        await database.versions.remove(replace(version, row=2), change=a_change("delete"))
    await database.versions.remove(version, change=a_change("delete"))
    with pytest.raises(VersionNotFound):
        await database.versions.remove(version, change=a_change("delete"))
    with pytest.raises(VersionNotFound):
        await database.versions.change(replace(version, row=2), change=a_change())
    assert (await database.lineage.around(Node("version", "birds@1.0.0"))).made_of == {}
    other = Artifact.of("", [replace(CONFIG, sha256="ef" * 32)])
    assert await database.versions.removed("birds", "1.0.0") == version.source
    assert await database.versions.removed("birds", "2.0.0") is None
    for source, artifact in ((version.source, ARTIFACT), (f"object:{other.sha256}", other), ("hub:org/birds", None)):
        with pytest.raises(Conflict, match="was removed; take another number"):
            await add(database, replace(version, source=source, artifact=artifact))
    await add(database, replace(version, id="another", declared=True))  # as it was, by the file


async def test_a_number_stays_taken_though_its_model_is_gone(database: Database) -> None:
    version = a_version()
    await add(database, version)
    await database.versions.remove(version, change=a_change("delete"))
    await database.models.remove(a_model(), change=a_change("delete"))
    await database.models.add(replace(a_model(), id="another"), change=a_change())
    with pytest.raises(Conflict, match="was removed; take another number"):
        await add(database, replace(version, source="hub:org/birds", artifact=None))


async def test_a_model_is_named_by_its_name_or_its_id(database: Database) -> None:
    await add(database, a_version(), a_version(model="fish"))
    assert await database.versions.get("id-birds", "1.0.0") == a_version()
    assert await keys(database, VersionQuery(model="id-birds", order="version")) == ["birds@1.0.0"]
    with pytest.raises(VersionNotFound, match=r"birds has no version 2\.0\.0"):
        await database.versions.get("id-birds", "2.0.0")


async def test_a_name_that_is_another_models_id_does_not_take_its_place(database: Database) -> None:
    await database.models.add(a_model("id-birds"), change=a_change())
    await add(database, a_version(), a_version(model="id-birds"))
    assert (await database.models.get("id-birds")).name == "birds"
    assert (await database.models.get("id-id-birds")).name == "id-birds"
    assert (await database.versions.get("id-birds", "1.0.0")).model == "birds"
    assert await keys(database, VersionQuery(model="id-birds")) == ["birds@1.0.0"]


async def test_declared_versions_are_found_apart(database: Database) -> None:
    told: dict[str, Any] = {"artifact": None, "source": "hub:org/birds"}
    await add(
        database,
        a_version(),
        a_version("2.0.0", declared=True, second=1, **told),
        a_version("3.0.0", declared=False, **told),
    )
    assert await keys(database, VersionQuery(declared=True)) == ["birds@2.0.0"]
    assert await keys(database, VersionQuery(declared=False)) == ["birds@3.0.0"]
    assert await database.versions.get("birds", "2.0.0") == a_version("2.0.0", declared=True, second=1, **told)


async def test_of_two_that_would_be_made_of_each_other_one_is_refused(database: Database) -> None:
    """Whoever looked before the other was written is found out when he writes."""
    one = a_version("1.0.0", training=TrainingMetadata(parent="birds@2.0.0"))
    other = a_version("2.0.0", training=TrainingMetadata(parent="birds@1.0.0"))
    outcomes = await asyncio.gather(add(database, one), add(database, other), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [ValidationFailed]


@pytest.mark.parametrize("limit", [1, 3, 500])
@pytest.mark.parametrize("descending", [False, True])
async def test_versions_of_a_model_come_by_precedence(database: Database, descending: bool, limit: int) -> None:
    ordered = ["0.9.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0", "1.2.0", "1.10.0"]
    await add(database, *(a_version(version) for version in sorted(ordered)), a_version(model="fish"))
    query = VersionQuery(model="birds", order="version", page=Paging(limit=limit, descending=descending))
    expected = [f"birds@{version}" for version in ordered]
    assert await keys(database, query) == (expected[::-1] if descending else expected)


async def test_versions_of_several_models_have_no_precedence() -> None:
    with pytest.raises(ValidationFailed, match="no order"):
        VersionQuery(order="version")


async def test_filters_hold_together_over_all_models(database: Database) -> None:
    await add(
        database,
        a_version(second=2),
        a_version(model="fish", second=1),
        a_version("2.0.0", second=3, running=Running(provider="onnx")),
    )
    assert await keys(database, VersionQuery()) == ["fish@1.0.0", "birds@1.0.0", "birds@2.0.0"]
    assert await keys(database, VersionQuery(provider="onnx")) == ["birds@2.0.0"]
    assert await keys(database, VersionQuery(model="birds", provider="classifier")) == ["birds@1.0.0"]
    sha256 = ARTIFACT.sha256
    assert len(await keys(database, VersionQuery(artifact=sha256))) == 3
    assert await keys(database, VersionQuery(artifact="0" * 64)) == []


async def test_lineage_reaches_from_the_data_to_the_last_descendant(database: Database) -> None:
    def made(version: str, *, parent: str | None = None, dataset: str = "") -> ModelVersion:
        return a_version(version, training=TrainingMetadata(parent=parent, dataset=dataset))

    await add(
        database,
        made("1.0.0", dataset="d"),
        made("2.0.0", parent="birds@1.0.0"),
        made("3.0.0", parent="birds@2.0.0", dataset="e"),
        made("4.0.0", parent="birds@1.0.0"),
        made("5.0.0", parent="frogs@1.0.0"),  # of somebody who is not registered here
    )

    def node(version: str) -> Node:
        return Node("version", f"birds@{version}")

    lineage = await database.lineage.around(node("2.0.0"))
    assert lineage.ancestors(node("2.0.0")) == [node("1.0.0"), Node("dataset", "d")]
    assert lineage.descendants(node("2.0.0")) == [node("3.0.0")]
    of_data = await database.lineage.around(Node("dataset", "d"))
    assert of_data.descendants(Node("dataset", "d")) == [node("1.0.0"), node("2.0.0"), node("4.0.0"), node("3.0.0")]
    frogs = Node("version", "frogs@1.0.0")
    assert (await database.lineage.around(frogs)).descendants(frogs) == [node("5.0.0")]
