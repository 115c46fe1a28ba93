"""Repositories of a hub whose files lie in folders, or that have no configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.objects import FileObjects
from modelmora.domain.layout import Layout
from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed, ModelLoading
from registry.artifacts import FamilyFiles, LocalArtifacts
from registry.weight_cache import WeightCache
from runners import families
from tests.contracts.hub_server import HubServer

ONNX = {
    "README.md": b"# not needed to run it",
    "config.json": b"{}",
    "onnx/model.onnx": b"\x08\x08",
    "onnx/model.onnx_data": bytes(1000),
    "onnx/model_fp16.onnx": bytes(500),
}
SAVED_MODEL = {
    "saved_model.pb": b"\x08\x01",
    "fingerprint.pb": b"\x08\x01",
    "variables/variables.index": bytes(10),
    "variables/variables.data-00000-of-00001": bytes(1000),
    "keras_metadata.pb": bytes(10),
}
REPOSITORIES = {
    "org/plain": {"model.onnx": b"\x08\x08"},
    "org/folder": ONNX,
    "org/saved": SAVED_MODEL,
    "org/weightless": {"config.json": b"{}"},
}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer(REPOSITORIES).serving() as server:
        yield server


@pytest.fixture
def artifacts(hub: HubServer, tmp_path: Path) -> LocalArtifacts:
    def files_of(provider: str) -> FamilyFiles:
        layout = Layout("config.json", ("model.bin",)) if provider == "strict" else families.provider(provider).layout()
        return FamilyFiles(layout=layout)

    weights = WeightCache(tmp_path / "weights", FileObjects(tmp_path / "objects"))
    return LocalArtifacts(tmp_path / "bundled", tmp_path / "cache", files=files_of, weights=weights, endpoint=hub.url)


def model(source: str, provider: str) -> ModelSpec:
    return ModelSpec(name="net", version="1.0.0", type="tensor", provider=provider, source=source)


@pytest.mark.parametrize(
    ("repository", "provider", "expected"),
    [
        ("org/plain", "onnx", {"model.onnx"}),
        ("org/folder", "onnx", {"config.json", "onnx/model.onnx", "onnx/model.onnx_data"}),
        ("org/saved", "tensorflow", set(SAVED_MODEL) - {"keras_metadata.pb"}),
    ],
)
async def test_what_the_family_needs_is_fetched_and_found_at_the_root(
    artifacts: LocalArtifacts, repository: str, provider: str, expected: set[str]
) -> None:
    wanted = model(f"hub:{repository}", provider)
    with pytest.raises(ModelLoading):
        artifacts.locate(wanted)

    steps = [step async for step in artifacts.fetch(wanted)]
    folder = artifacts.locate(wanted)

    assert folder is not None
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == expected
    assert steps[-1].finished


@pytest.mark.parametrize(
    ("provider", "missing"),
    [("onnx", "no model.onnx or onnx/model.onnx"), ("tensorflow", "no saved_model.pb"), ("strict", "no model.bin")],
)
async def test_a_repository_without_the_weights_says_which(
    artifacts: LocalArtifacts, provider: str, missing: str
) -> None:
    with pytest.raises(ModelLoadFailed, match=missing):
        [step async for step in artifacts.fetch(model("hub:org/weightless", provider))]
