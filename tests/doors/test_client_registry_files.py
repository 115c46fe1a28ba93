"""The files of a version on their way home: checked, begun again, kept inside their folder."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelmora.client import ArtifactCorrupt, Client, Retry, Transfer
from modelmora.errors import (
    CapabilityMissing,
    DependencyUnavailable,
    InternalError,
    InvalidInput,
    ValidationFailed,
    VersionNotFound,
)
from tests.doors.client_registry_app import Cut, Registrar, registry_server
from tests.fakes import until
from tests.support import only_on_linux

FILES = {"model.onnx": b"a graph", "parts/a.data": b"w" * 2_500_000, "parts/b c+d.data": b"v"}


@pytest.fixture
def registrar() -> Registrar:
    registrar = Registrar()
    registrar.add_version("iris", "1.0.0", FILES)
    return registrar


@pytest.fixture
async def client(registrar: Registrar) -> AsyncIterator[Client]:
    with registry_server(registrar) as url:
        async with Client(url, retry=Retry(initial_s=0.001, max_s=0.01, retries=3), timeout=10) as client:
            yield client


def held(folder: Path) -> dict[str, bytes]:
    """Every file below, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetched(registrar: Registrar) -> list[str]:
    return [path.partition("/files/")[2] for path in registrar.sent("GET") if "/files/" in path]


async def test_all_files_come_home_whole(client: Client, tmp_path: Path) -> None:
    steps: list[Transfer] = []
    found = await client.download("iris", "1.0.0", tmp_path / "out", on_progress=steps.append)
    assert held(tmp_path / "out") == FILES
    assert found.key == "iris@1.0.0"
    assert {step.stage for step in steps} == {"downloading"}
    done = [step.done_bytes for step in steps]
    assert done == sorted(done)
    assert done[-1] == steps[-1].total_bytes == sum(map(len, FILES.values()))


async def test_files_that_are_whole_already_stay(client: Client, registrar: Registrar, tmp_path: Path) -> None:
    await client.download("iris", "1.0.0", tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"a grapf")  # as long as it was
    (tmp_path / "of somebody else").touch()
    registrar.requests.clear()
    await client.download("iris", "1.0.0", tmp_path)
    assert fetched(registrar) == ["model.onnx"]
    assert held(tmp_path) == FILES | {"of somebody else": b""}


async def test_a_download_that_breaks_begins_again(client: Client, registrar: Registrar, tmp_path: Path) -> None:
    registrar.swallowed = deque(["half", "half"])
    registrar.troubles["GET /api/v1/models/iris/versions/1.0.0/files/model.onnx"] = deque([Cut])
    await client.download("iris", "1.0.0", tmp_path)
    assert held(tmp_path) == FILES


async def test_one_that_stays_broken_leaves_nothing_half(client: Client, registrar: Registrar, tmp_path: Path) -> None:
    registrar.troubles["GET /api/v1/models/iris/versions/1.0.0/files/parts/a.data"] = deque([Cut] * 100)
    with pytest.raises(DependencyUnavailable):
        await client.download("iris", "1.0.0", tmp_path)
    assert held(tmp_path).items() <= FILES.items()
    assert "parts/a.data" not in held(tmp_path)


@pytest.mark.parametrize("other", [b"w" * 2_499_999 + b"x", b"w" * 2_500_001, b"w" * 1_000])
async def test_other_bytes_than_were_registered_are_not_kept(
    other: bytes, client: Client, registrar: Registrar, tmp_path: Path
) -> None:
    [sha256] = [sha256 for sha256, content in registrar.objects.items() if len(content) > 100]
    registrar.objects[sha256] = other
    with pytest.raises(ArtifactCorrupt, match=r"parts/a\.data did not come as it was registered"):
        await client.download("iris", "1.0.0", tmp_path)
    assert "parts/a.data" not in held(tmp_path)
    assert not [name for name in held(tmp_path) if name.endswith(".part")]


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a//b", "", ".", "a\\b", "a\nb"])
async def test_a_path_that_leaves_the_folder_is_refused(
    path: str, client: Client, registrar: Registrar, tmp_path: Path
) -> None:
    registrar.versions["iris@1.0.0"]["artifact"]["files"][0]["path"] = path
    with pytest.raises(InternalError, match="leaves the artifact"):
        await client.download("iris", "1.0.0", tmp_path / "out")
    assert held(tmp_path) == {}


async def test_a_list_of_files_that_is_not_what_was_registered_is_refused(
    client: Client, registrar: Registrar, tmp_path: Path
) -> None:
    registrar.versions["iris@1.0.0"]["artifact"]["files"].pop()
    with pytest.raises(InternalError, match="digest is not that of its files"):
        await client.download("iris", "1.0.0", tmp_path)


async def test_a_link_in_the_folder_does_not_lead_out(client: Client, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "parts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValidationFailed, match="through a link there"):
        await client.download("iris", "1.0.0", tmp_path / "out")
    assert held(tmp_path / "elsewhere") == {}


async def test_a_link_in_a_files_place_is_replaced_and_not_followed(client: Client, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").symlink_to(tmp_path / "precious")
    await client.download("iris", "1.0.0", tmp_path / "out")
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert held(tmp_path / "out") == FILES


async def test_what_cannot_be_written_is_told_with_its_place(client: Client, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file where the folder should be")
    with pytest.raises(InvalidInput, match=f"cannot write {tmp_path / 'out'}"):
        await client.download("iris", "1.0.0", tmp_path / "out")
    (tmp_path / "else" / "model.onnx").mkdir(parents=True)
    with pytest.raises(InvalidInput, match=r"model\.onnx: Is a directory"):
        await client.download("iris", "1.0.0", tmp_path / "else")


@only_on_linux("a device that is always full")
async def test_a_full_disk_is_told_as_such(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def full(path: object, flags: int, *rest: int) -> int:
        return opened("/dev/full", os.O_WRONLY) if str(path).endswith(".part") else opened(str(path), flags, *rest)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(InvalidInput, match="No space left on device"):
        await client.download("iris", "1.0.0", tmp_path)
    assert held(tmp_path) == {}


async def test_files_have_the_mode_of_any_new_file(client: Client, tmp_path: Path) -> None:
    await client.download("iris", "1.0.0", tmp_path)
    (tmp_path / "new").touch()
    assert stat.S_IMODE((tmp_path / "model.onnx").stat().st_mode) == stat.S_IMODE((tmp_path / "new").stat().st_mode)


async def test_whoever_leaves_in_the_middle_leaves_no_half_file(client: Client, tmp_path: Path) -> None:
    moving = asyncio.Event()
    before = asyncio.all_tasks()
    work = asyncio.create_task(client.download("iris", "1.0.0", tmp_path, on_progress=lambda _: moving.set()))
    await moving.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await until(lambda: asyncio.all_tasks() <= before)  # the server's own, in this process, come and go
    assert held(tmp_path).items() <= FILES.items()


async def test_a_declared_version_has_no_files_to_take_home(
    client: Client, registrar: Registrar, tmp_path: Path
) -> None:
    registrar.versions["iris@1.0.0"] |= {"artifact": None, "source": "hub:somebody/iris@abc"}
    with pytest.raises(CapabilityMissing, match="declared with hub:somebody/iris@abc"):
        await client.download("iris", "1.0.0", tmp_path)


async def test_a_version_that_is_not_there_is_not_found(client: Client, tmp_path: Path) -> None:
    with pytest.raises(VersionNotFound):
        await client.download("iris", "9.0.0", tmp_path / "out")
    assert not (tmp_path / "out").exists()
