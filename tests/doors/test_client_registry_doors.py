"""The client's half of the registry through the real HTTP door, over a real database and object store."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelmora.client import (
    Client,
    Conflict,
    Metric,
    ModelNotFound,
    PreconditionFailed,
    Transfer,
    VersionNotFound,
    WrongState,
)
from modelmora.domain.registry.lineage import Node
from modelmora.errors import CapabilityMissing, ModelLoadFailed, ValidationFailed
from tests.doors.client_doors import connected
from tests.fakes import World

WEIGHTS = os.urandom(3_000_000)
REPORT = {
    "stage": "report",
    "inputs": [{"name": "features", "dtype": "float32", "shape": ["batch", 4]}],
    "outputs": [],
    "labels": ["cat", "dog"],
    "measured": {"p50_ms": 1.5, "p95_ms": 2.5, "memory_bytes": 4096, "device": "cpu"},
}


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    """Of a server whose runners find everything to be as `REPORT` says, beginning with what waits already."""
    world.host.findings = [{"stage": "loading", "done": 1, "total": 1}, REPORT]
    async with connected("http", world) as client:
        validating = asyncio.create_task(world.kept.validation.run())
        yield client
        validating.cancel()
        await asyncio.gather(validating, return_exceptions=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "parts").mkdir(parents=True)
    (tmp_path / "model" / "model.onnx").write_bytes(b"a graph")
    (tmp_path / "model" / "parts" / "b c+d.data").write_bytes(WEIGHTS)
    (tmp_path / "model" / "empty").touch()
    return tmp_path / "model"


async def test_a_folder_goes_there_is_validated_and_comes_back(client: Client, folder: Path, tmp_path: Path) -> None:
    steps: list[Transfer] = []
    found = await client.register(
        folder, name="iris", version="1.0.0", on_progress=steps.append,
        config={"sample": {"height": 32}}, running={"batching": {"max_batch": 4}, "warmup": False},
        training={"dataset": "iris", "dataset_sha256": "ab" * 32, "parameters": {"lr": 0.1}},
        metrics=[Metric(name="accuracy", value=0.97, dataset="iris-test")],
        description="flowers", tags=["small"],
    )  # fmt: skip
    assert found.state in ("approved", "deployed")
    assert (found.labels, found.baseline["p50_ms"], found.inputs[0]["name"]) == (("cat", "dog"), 1.5, "features")
    assert (found.running["config"], found.running["warmup"]) == ({"sample": {"height": 32}}, False)
    assert found.training["dataset_sha256"] == "ab" * 32
    assert found.validated_at is not None
    assert "uploading" in {step.stage for step in steps}

    steps.clear()
    again = await client.register(
        folder, name="iris", version="1.0.0", on_progress=steps.append, config={"sample": {"height": 32}}
    )
    assert again.artifact == found.artifact
    assert {step.stage for step in steps} == {"hashing"}

    await client.download("iris", "1.0.0", tmp_path / "out")
    assert (tmp_path / "out" / "parts" / "b c+d.data").read_bytes() == WEIGHTS
    assert (tmp_path / "out" / "empty").read_bytes() == b""
    model = await client.model("iris")
    assert (model.description, model.tags, model.type) == ("flowers", ("small",), "tensor")


async def test_the_second_version_sends_what_differs_and_is_made_current(
    client: Client, world: World, folder: Path
) -> None:
    await client.register(folder, name="iris", version="1.0.0")
    (folder / "model.onnx").write_bytes(b"another graph")
    sent: list[Transfer] = []
    second = await client.register(
        folder, name="iris", version="1.1.0+build.5", training={"parent": "iris@1.0.0"}, on_progress=sent.append
    )
    assert [step.total_bytes for step in sent if step.stage == "uploading"][-1] == len(b"another graph")
    assert [one.version for one in await client.versions("iris")] == ["1.0.0", "1.1.0+build.5"]

    model = await client.make_current("iris", second.version, timeout=5)
    assert model.current == second.version
    assert (await client.model_version("iris", "1.0.0")).state == "approved"
    with pytest.raises(Conflict):
        await client.remove_version("iris", second.version)
    with pytest.raises(PreconditionFailed):
        await client.remove_version("iris", "1.0.0", row=99)
    await client.remove_version("iris", "1.0.0", row=(await client.model_version("iris", "1.0.0")).row)
    with pytest.raises(VersionNotFound):
        await client.model_version("iris", "1.0.0")

    found = await client.lineage("iris", second.version)
    assert found.ancestors == (Node("version", "iris@1.0.0"),)
    assert found.edges == ((found.node, Node("version", "iris@1.0.0")),)


async def test_a_number_that_was_removed_is_not_given_again(client: Client, folder: Path) -> None:
    await client.register(folder, name="iris", version="1.0.0")
    await client.register(folder, name="iris", version="2.0.0")
    (folder / "model.onnx").write_bytes(b"other bytes")
    await client.remove_version("iris", "2.0.0")
    with pytest.raises(Conflict):
        await client.register(folder, name="iris", version="2.0.0")


async def test_what_does_not_pass_says_why_and_may_be_tried_again(client: Client, world: World, folder: Path) -> None:
    world.host.troubles["iris@1.0.0"] = ModelLoadFailed("model.onnx is no ONNX graph")
    with pytest.raises(ValidationFailed, match=r"did not pass: model\.onnx is no ONNX graph"):
        await client.register(folder, name="iris", version="1.0.0")
    world.host.troubles.clear()
    steps = [step async for step in client.validate("iris", "1.0.0", timeout=5)]
    assert [step["stage"] for step in steps] == ["loading", "report"]
    assert steps[-1]["version"]["failure"] == ""
    with pytest.raises(WrongState, match="allowed"):
        await client.move("iris", "1.0.0", "reopen")


async def test_two_who_bring_the_same_version_at_once_both_get_it(client: Client, folder: Path) -> None:
    found = await asyncio.gather(*(client.register(folder, name="iris", version="1.0.0") for _ in range(4)))
    assert len({one.id for one in found}) == 1
    registered = [entry async for entry in client.audit(subject="iris@1.0.0", action="version.register")]
    assert len(registered) == 1


async def test_two_versions_are_compared(client: Client, folder: Path) -> None:
    await client.register(folder, name="iris", version="1.0.0", training={"parameters": {"lr": 0.1}})
    await client.register(folder, name="iris", version="2.0.0", training={"parameters": {"lr": 0.2, "steps": 10}})
    found = {one.field: (one.kind, one.before, one.after) for one in await client.diff("iris", "1.0.0", "2.0.0")}
    assert found["training.parameters.lr"] == ("changed", 0.1, 0.2)
    assert found["training.parameters.steps"] == ("added", None, 10)


async def test_everything_is_in_the_audit_and_the_audit_holds(client: Client, folder: Path) -> None:
    await client.register(folder, name="iris", version="1.0.0")
    await client.add_metrics("iris", "1.0.0", [Metric(name="recall@1", value=0.5, dataset="coco")])
    done = [entry.action async for entry in client.audit(subject="iris@1.0.0")]
    assert done[0] == "version.register"
    assert {"version.validate", "version.approve"} <= {*done}
    [first] = [entry async for entry in client.audit(subject="iris", action="model.register")]
    assert (first.actor, first.before, first.after and first.after["type"]) == ("anonymous", None, "tensor")
    verdict = await client.audit_verify()
    assert (verdict.intact, verdict.broken_at) == (True, None)
    newest = [entry.seq async for entry in client.audit(newest_first=True)]
    assert newest == [*range(verdict.entries, 0, -1)]


async def test_what_nothing_refers_to_is_collected_and_what_is_registered_is_not(
    client: Client, world: World, folder: Path
) -> None:
    await client.register(folder, name="iris", version="1.0.0")
    orphan = await world.kept.stored(b"nobody's")
    found = await client.collect(older_than_s=0.0)
    assert (found.removed, found.bytes) == (1, len(b"nobody's"))
    assert await world.kept.objects.find(orphan.sha256) is None
    assert await world.kept.objects.find(hashlib.sha256(WEIGHTS).hexdigest()) is not None


async def test_declared_models_are_entries_without_files_of_their_own(client: Client, tmp_path: Path) -> None:
    [declared, *_] = await client.models()
    found = await client.model_version(declared.name, declared.version)
    assert (found.artifact, found.state) == (None, "deployed")
    with pytest.raises(CapabilityMissing, match="declared with"):
        await client.download(declared.name, declared.version, tmp_path)


async def test_what_is_not_there_is_told_as_such(client: Client, folder: Path) -> None:
    with pytest.raises(ModelNotFound):
        await client.versions("absent")
    await client.register(folder, name="iris", version="1.0.0")
    with pytest.raises(VersionNotFound):
        await client.diff("iris", "1.0.0", "9.9.9")
    with pytest.raises(ValidationFailed) as refused:
        await client.register(folder, name="iris", version="2.0.0", running={"precision": "fp7"})
    assert refused.value.field == "precision"
