"""The promise of `Artifacts`: folders of the bundle and of the operator, and files from a hub that really answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.objects import FileObjects
from modelmora.domain.models import ModelSpec
from modelmora.errors import DependencyUnavailable, ModelLoadFailed, ModelLoading
from modelmora.ports import Artifacts, Fetch
from registry.artifacts import FamilyFiles, LocalArtifacts
from registry.weight_cache import WeightCache
from runners.open_clip import OpenClipProvider
from tests.contracts.hub_server import HubServer
from tests.stored import registered
from tests.support import reserve_port

MEGABYTE = 2**20
FILES = {
    "README.md": b"# not needed to run it",
    "open_clip_config.json": b"{}",
    "open_clip_model.safetensors": b"\x01" * (23 * MEGABYTE),
    "open_clip_pytorch_model.bin": b"\x02" * 1000,
    "pytorch_model.bin": b"\x03" * 1000,
    "tokenizer.json": b"{}",
    "vocab.json": b'{"a": 1}',
}
NEEDED = {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "vocab.json"}
UNUSED = len(FILES["README.md"]) + len(FILES["pytorch_model.bin"])
PICKLED = {name: content for name, content in FILES.items() if name != "open_clip_model.safetensors"}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    repositories = {
        "org/clip": FILES,
        "org/pickled": PICKLED,
        "org/other": {"config.json": b"{}"},
        "org/gated": FILES,
    }
    with HubServer(repositories, gated=frozenset({"org/gated"})).serving() as server:
        yield server


@pytest.fixture
def artifacts(hub: HubServer, tmp_path: Path) -> LocalArtifacts:
    return served_by(hub.url, tmp_path)


def files_of(provider: str) -> FamilyFiles:
    layout = OpenClipProvider().layout() if provider == "open_clip" else None
    return FamilyFiles(needed=provider != "noop", layout=layout)


def served_by(endpoint: str, folder: Path) -> LocalArtifacts:
    (folder / "bundled").mkdir(exist_ok=True)
    weights = WeightCache(folder / "weights", FileObjects(folder / "objects"))
    return LocalArtifacts(folder / "bundled", folder / "cache", files=files_of, weights=weights, endpoint=endpoint)


def model(source: str, provider: str = "open_clip") -> ModelSpec:
    return ModelSpec(name="clip", version="1.0.0", type="embedding", provider=provider, source=source)


async def fetched(artifacts: Artifacts, wanted: ModelSpec) -> list[Fetch]:
    return [step async for step in artifacts.fetch(wanted)]


async def test_a_bundled_model_is_a_folder_beside_the_registry(artifacts: LocalArtifacts, tmp_path: Path) -> None:
    folder = tmp_path / "bundled" / "shapes-clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_bytes(b"{}")
    wanted = model("bundled:shapes-clip")
    assert artifacts.locate(wanted) == folder
    assert await fetched(artifacts, wanted) == [
        Fetch(model="clip@1.0.0", done_bytes=2, total_bytes=2, licence=None, finished=True)
    ]


async def test_an_operators_folder_is_taken_where_it_is(artifacts: LocalArtifacts, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    assert artifacts.locate(model(f"file:{tmp_path}/weights")) == tmp_path / "weights"


async def test_a_folder_that_is_not_there_is_named_with_what_is_beside_it(
    artifacts: LocalArtifacts, tmp_path: Path
) -> None:
    (tmp_path / "bundled" / "shapes-clip").mkdir()
    for source in ("bundled:shape-clip", f"file:{tmp_path}/bundled/shape-clip"):
        with pytest.raises(ModelLoadFailed, match=r"no folder .*/bundled/shape-clip; beside it: shapes-clip"):
            artifacts.locate(model(source))
        with pytest.raises(ModelLoadFailed, match="no folder"):
            await fetched(artifacts, model(source))


async def test_a_family_without_files_needs_no_folder(artifacts: LocalArtifacts) -> None:
    wanted = model("bundled:noop", "noop")
    assert artifacts.locate(wanted) is None
    assert await fetched(artifacts, wanted) == [Fetch(model="clip@1.0.0", done_bytes=0, total_bytes=0, finished=True)]


async def test_registered_files_are_brought_here_when_they_are_used(artifacts: LocalArtifacts, tmp_path: Path) -> None:
    digest = await registered(FileObjects(tmp_path / "objects"), {"config.json": b"{}", "deep/weights": b"abc"})
    wanted = model(f"object:{digest}")
    async with artifacts.using(wanted) as folder:
        assert folder is not None
        assert artifacts.locate(wanted) == folder
        assert (folder / "deep" / "weights").read_bytes() == b"abc"
    assert (await fetched(artifacts, wanted))[-1].finished


async def test_registered_files_that_are_nowhere_are_named(artifacts: LocalArtifacts) -> None:
    with pytest.raises(DependencyUnavailable, match="0000"):
        await fetched(artifacts, model(f"object:{'0' * 64}"))


async def test_a_source_of_no_kind_is_refused(artifacts: LocalArtifacts) -> None:
    with pytest.raises(ModelLoadFailed, match="ftp is no source; use bundled:, hub:, file: or object:"):
        artifacts.locate(model("ftp:somewhere"))


async def test_a_model_of_the_hub_is_loading_until_it_has_been_fetched(
    artifacts: LocalArtifacts, hub: HubServer
) -> None:
    asked = len(hub.asked)
    with pytest.raises(ModelLoading, match="modelmora pull clip") as caught:
        artifacts.locate(model("hub:org/clip"))
    assert caught.value.retry_after_s
    assert len(hub.asked) == asked, "looking for files asks no network"


async def test_what_is_needed_is_fetched_and_nothing_else(artifacts: LocalArtifacts) -> None:
    wanted = model("hub:org/clip")
    await fetched(artifacts, wanted)
    folder = artifacts.locate(wanted)
    assert folder is not None
    assert {path.name for path in folder.iterdir()} == NEEDED
    assert {path.name: path.read_bytes() == FILES[path.name] for path in folder.iterdir()} == dict.fromkeys(
        NEEDED, True
    )


async def test_the_progress_adds_up(artifacts: LocalArtifacts) -> None:
    steps = await fetched(artifacts, model("hub:org/clip"))
    total = sum(len(FILES[name]) for name in NEEDED)
    done = [step.done_bytes for step in steps]
    assert {step.total_bytes for step in steps} == {total}
    assert {step.licence for step in steps} == {"mit"}
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, total)
    assert len({each for each in done if 0 < each < total}) >= 3, "the large file tells of itself on its way"
    assert [step.finished for step in steps] == [False] * (len(steps) - 1) + [True]


async def test_pickled_weights_are_taken_where_there_are_no_others(artifacts: LocalArtifacts) -> None:
    wanted = model("hub:org/pickled")
    await fetched(artifacts, wanted)
    folder = artifacts.locate(wanted)
    assert folder is not None
    assert (folder / "open_clip_pytorch_model.bin").read_bytes() == FILES["open_clip_pytorch_model.bin"]


async def test_what_was_fetched_is_found_again_without_a_network(hub: HubServer, tmp_path: Path) -> None:
    wanted = model("hub:org/pickled")
    await fetched(served_by(hub.url, tmp_path), wanted)
    alone = served_by(f"http://127.0.0.1:{reserve_port()}", tmp_path)
    assert alone.locate(wanted) is not None
    [step] = await fetched(alone, wanted)
    assert step.finished
    assert step.done_bytes == step.total_bytes == sum(map(len, PICKLED.values())) - UNUSED


async def test_half_a_download_is_no_model(hub: HubServer, tmp_path: Path) -> None:
    wanted = model("hub:org/clip")
    artifacts = served_by(hub.url, tmp_path)
    steps = artifacts.fetch(wanted)
    async for step in steps:
        if step.done_bytes > MEGABYTE:
            break
    await steps.aclose()
    with pytest.raises(ModelLoading):
        artifacts.locate(wanted)
    assert (await fetched(artifacts, wanted))[-1].finished
    assert artifacts.locate(wanted) is not None


async def test_a_revision_can_be_named(artifacts: LocalArtifacts) -> None:
    with pytest.raises(ModelLoadFailed, match="org/clip has no revision v9"):
        await fetched(artifacts, model("hub:org/clip@v9"))


async def test_an_unknown_repository_is_named(artifacts: LocalArtifacts) -> None:
    with pytest.raises(ModelLoadFailed, match="the hub has no repository org/nothing"):
        await fetched(artifacts, model("hub:org/nothing"))


async def test_a_gated_repository_says_how_to_get_in(artifacts: LocalArtifacts) -> None:
    with pytest.raises(ModelLoadFailed, match="HF_TOKEN"):
        await fetched(artifacts, model("hub:org/gated"))


async def test_a_repository_without_the_familys_files_says_what_it_lacks(artifacts: LocalArtifacts) -> None:
    with pytest.raises(ModelLoadFailed, match=r"org/other has no open_clip_config\.json, so open_clip cannot run it"):
        await fetched(artifacts, model("hub:org/other"))


async def test_a_family_that_is_not_fetched_says_so(artifacts: LocalArtifacts) -> None:
    with pytest.raises(ModelLoadFailed, match=r"models of provider .* do not come from the hub"):
        artifacts.locate(model("hub:org/clip", "onnx"))


async def test_a_hub_out_of_reach_says_how_to_do_without(tmp_path: Path) -> None:
    alone = served_by(f"http://127.0.0.1:{reserve_port()}", tmp_path)
    with pytest.raises(DependencyUnavailable, match="source: file:PATH"):
        await fetched(alone, model("hub:org/clip"))


async def test_a_hub_out_of_order_is_unavailable(tmp_path: Path) -> None:
    with HubServer({}, broken=True).serving() as server:
        artifacts = served_by(server.url, tmp_path)
        with pytest.raises(DependencyUnavailable, match="could not be fetched"):
            await fetched(artifacts, model("hub:org/clip"))
