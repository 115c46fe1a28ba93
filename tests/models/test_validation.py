"""`validate`: the files of a version fetched, read, loaded and run, on a real worker."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.description import Description
from modelmora.domain.models import GroupSpec, ModelSpec
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed, ModelMoraError, SchemaMismatch, ValidationFailed
from runners import families
from runners.devices import Share
from runners.examinations.validation import STAGES, validate
from runners.host import HostSettings, RunnerHost
from runners.open_clip import OpenClipProvider
from runners.provider import AnyProvider
from tests.folders import Folders

BUNDLED = Path(__file__).parents[2] / "registry" / "bundled" / "shapes-clip"
SHAPES = ModelSpec(name="shapes", version="2.0.0", type="embedding", provider="open_clip", source="object:" + "0" * 64)


class Another(OpenClipProvider):
    """Says that its vectors are longer than they are."""

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        described = super().describe(spec, folder)
        return replace(described, dimension=described.dimension + 1)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Callable[..., RunnerHost]]:
    hosts: list[RunnerHost] = []

    def make(folder: Path = BUNDLED, provider: AnyProvider | None = None) -> RunnerHost:
        settings = HostSettings(
            group="default", index=1, directory=tmp_path, share=Share(threads=1, budget_bytes=2**30)
        )
        catalogue = Catalogue((), (GroupSpec(),))
        find = families.provider if provider is None else lambda _: provider
        host = RunnerHost(settings, catalogue, find, Folders(lambda _: folder))
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        await host.stop()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The bundled model's files, to be spoilt."""
    return shutil.copytree(BUNDLED, tmp_path / "copied")


async def steps_of(host: RunnerHost, spec: ModelSpec = SHAPES) -> list[dict[str, Any]]:
    return [step async for step in validate(host, spec, deadline=time.monotonic() + 60)]


async def refusal(host: RunnerHost, spec: ModelSpec = SHAPES) -> ModelMoraError:
    with pytest.raises(ModelMoraError) as caught:
        await steps_of(host, spec)
    return caught.value


async def test_a_version_that_is_what_it_is_said_to_be_is_measured(worker: Callable[..., RunnerHost]) -> None:
    *steps, report = await steps_of(worker())
    assert [step["stage"] for step in steps] == list(STAGES)
    assert report["dimension"] == 128
    measured = report["measured"]
    assert 0 < measured["p50_ms"] <= measured["p95_ms"]
    assert measured["memory_bytes"] > sum(path.stat().st_size for path in BUNDLED.glob("*.safetensors"))
    assert (measured["device"], measured["engine"], measured["precision"]) == ("cpu", "torch", "fp32")


async def test_what_was_not_in_memory_before_is_not_afterwards(worker: Callable[..., RunnerHost]) -> None:
    host = worker()
    await steps_of(host)
    assert host.pool.peek(SHAPES) is None
    await host.pool.load(SHAPES)
    await steps_of(host)
    assert host.pool.peek(SHAPES) is not None


class Executes:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


async def test_a_pickle_that_would_run_something_is_named_and_never_read(
    worker: Callable[..., RunnerHost], copied: Path
) -> None:
    (copied / "extra.bin").write_bytes(pickle.dumps(Executes()))
    error = await refusal(worker(copied))
    assert isinstance(error, ValidationFailed)
    assert "extra.bin would import" in error.detail
    assert "system" in error.detail


async def test_weights_that_are_cut_off_are_no_model(worker: Callable[..., RunnerHost], copied: Path) -> None:
    weights = copied / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert isinstance(await refusal(worker(copied)), ArtifactCorrupt | ModelLoadFailed)


async def test_files_of_another_family_are_recognised(worker: Callable[..., RunnerHost], tmp_path: Path) -> None:
    folder = tmp_path / "dino"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov2", "hidden_size": 32}))
    error = await refusal(worker(folder))
    assert isinstance(error, ModelLoadFailed)
    assert "config.json" in error.detail
    assert "is of provider dinov2, and it was registered as open_clip" in error.detail
    assert error.expected == "dinov2"


async def test_answers_that_are_not_as_described_are_refused(worker: Callable[..., RunnerHost]) -> None:
    error = await refusal(worker(provider=Another()))
    assert isinstance(error, SchemaMismatch)
    assert "embed_image gives 128 numbers an item, and its description says 129" in error.detail
