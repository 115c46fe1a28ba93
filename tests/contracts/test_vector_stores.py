"""Stores of vectors that stop, come back, refuse, or are had by somebody else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models
from structlog.testing import capture_logs

from adapters.vectors import qdrant
from adapters.vectors.opening import named
from adapters.vectors.owner import OwnerVectors, SharedVectors, socket_of
from adapters.vectors.qdrant import QdrantVectors
from adapters.vectors.shapes import created_with, payload_indexes
from modelmora.domain.pictures.search import Filter, Question
from modelmora.domain.pictures.spaces import IndexSettings
from modelmora.errors import Conflict, DependencyUnavailable, InternalError, ValidationFailed
from modelmora.ports import Vectors
from tests.contracts.points import PLAIN, found, point, unit
from tests.contracts.qdrant_server import QdrantServer
from tests.pictures_fakes import FakeVectors
from tests.support import reserve_port

SETTINGS = IndexSettings(m=8, ef_construct=64, quantization="int8", always_ram=False, on_disk=True, payload=("year",))

# --- a folder ----------------------------------------------------------------------------------------------------


async def test_a_folder_keeps_everything_over_a_restart(tmp_path: Path) -> None:
    first = await QdrantVectors.local(tmp_path / "v")
    await first.create("mm-a", dimension=3, settings=SETTINGS)
    await first.upsert("mm-a", [point("a", 3, 4, 0, camera="x"), point("b", 1, 0, 0)])
    await first.delete("mm-a", ["b"])
    await first.switch("mm-alias", "mm-a")
    kept = await first.vectors("mm-a", ["a"])
    await first.close()
    second = await QdrantVectors.local(tmp_path / "v")
    assert await found(second, "mm-alias", filter=Filter(metadata={"camera": "x"})) == ["a"]
    assert await second.vectors("mm-alias", ["a", "b"]) == kept
    assert (await second.names(), await second.standing()) == (("mm-a",), {"mm-alias": "mm-a"})
    assert (tmp_path / "v").stat().st_mode & 0o077 == 0
    await second.close()


def commits(file: Path) -> int:
    """How often the file was changed, as SQLite's header counts it."""
    return int.from_bytes(file.read_bytes()[24:28], "big")


async def test_what_is_written_at_once_waits_for_the_disk_once(tmp_path: Path) -> None:
    local = await QdrantVectors.local(tmp_path / "v")
    await local.create("mm-a", dimension=3, settings=PLAIN)
    (file,) = (tmp_path / "v").rglob("*.sqlite")
    before = commits(file)
    await local.upsert("mm-a", [point(str(n), 1, 0, 0, seq=1 + n % 3) for n in range(30)])
    assert commits(file) == before + 1
    await local.delete("mm-a", [str(n) for n in range(20)])
    assert commits(file) == before + 2
    await local.close()
    again = await QdrantVectors.local(tmp_path / "v")
    assert await again.count("mm-a") == 10
    await again.close()


async def test_what_a_full_disk_did_not_take_is_told_and_taken_later(tmp_path: Path) -> None:
    local = await QdrantVectors.local(tmp_path / "v")
    await local.create("mm-a", dimension=3, settings=PLAIN)
    many = [point(f"{n:02}", 1, 0, 0, text="x" * 2_000) for n in range(30)]
    limit_pages(local, "mm-a", 8)
    with pytest.raises(DependencyUnavailable, match=r"disk is full.*MODELMORA_VECTORS_URL"):
        await local.upsert("mm-a", many)
    limit_pages(local, "mm-a", 10_000)
    await local.upsert("mm-a", many)
    await local.close()
    again = await QdrantVectors.local(tmp_path / "v")
    assert await again.count("mm-a") == 30
    await again.close()


def limit_pages(local: QdrantVectors, name: str, most: int) -> None:
    """SQLite says of a file that may not grow what it says of a full disk."""
    client: Any = local._client
    client._client.collections[name].storage.storage.execute(f"PRAGMA max_page_count = {most}")


async def test_a_folder_that_another_has_open_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(DependencyUnavailable, match=r"/v are open in another process.*MODELMORA_VECTORS_URL")
    with owner_of(tmp_path / "v"), refused:
        await QdrantVectors.local(tmp_path / "v")
    again = await QdrantVectors.local(tmp_path / "v")
    await again.close()


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v").write_text("a file")
    with pytest.raises(DependencyUnavailable, match=r"File exists.*MODELMORA_VECTORS_URL"):
        await QdrantVectors.local(tmp_path / "v")


async def test_a_closed_store_says_that_it_is_away(tmp_path: Path) -> None:
    local = await QdrantVectors.local(tmp_path / "v")
    await local.close()
    with pytest.raises(DependencyUnavailable):
        await local.ping()
    asking = OwnerVectors(socket_of(tmp_path / "v"))
    await asking.close()
    with pytest.raises(DependencyUnavailable):
        await asking.ping()


async def test_the_log_warns_once_of_a_large_folder_and_again_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant, "MANY", 3)
    local = await QdrantVectors.local(tmp_path / "v")
    await local.create("mm-a", dimension=3, settings=PLAIN)
    with capture_logs() as told:
        for n in range(5):
            await local.upsert("mm-a", [point(str(n), 1, 0, 0)])
        await local.close()
        again = await QdrantVectors.local(tmp_path / "v")
        await again.close()
    assert [(log["event"], log["index"], log["points"]) for log in told] == [("local_vectors_large", "mm-a", 3)] * 2


# --- its owner ---------------------------------------------------------------------------------------------------


@contextmanager
def owner_of(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the folder and shares it; it is killed at the end."""
    command = [sys.executable, "-m", "tests.contracts.vectors_owner", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        try:
            yield process
        finally:
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait(20) == -signal.SIGKILL


async def answered(vectors: Vectors) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await vectors.ping()
                return
            except DependencyUnavailable:
                await asyncio.sleep(0.05)


async def test_what_an_owner_has_taken_is_there_after_it_was_killed(tmp_path: Path) -> None:
    asking = OwnerVectors(socket_of(tmp_path / "v"), timeout_s=5)
    with owner_of(tmp_path / "v"):
        await answered(asking)
        await asking.create("mm-a", dimension=3, settings=PLAIN)
        for n in range(40):
            await asking.upsert("mm-a", [point(str(n), 1, 0, 0)])
        await asking.switch("mm-alias", "mm-a")
    with pytest.raises(DependencyUnavailable, match="does not answer"):
        await asking.count("mm-alias")
    with owner_of(tmp_path / "v"):
        await answered(asking)
        assert await asking.count("mm-alias") == 40
    await asking.close()


async def test_an_owner_that_is_away_is_told_and_found_again(tmp_path: Path) -> None:
    local = await QdrantVectors.local(tmp_path / "v")
    socket = socket_of(tmp_path / "v")
    asking = OwnerVectors(socket, timeout_s=5)
    with pytest.raises(DependencyUnavailable, match=r"does not answer.*MODELMORA_VECTORS_URL"):
        await asking.ping()
    for _ in range(2):
        shared = SharedVectors(local, socket)
        await shared.start()
        assert socket.stat().st_mode & 0o077 == 0
        await answered(asking)
        await shared.stop()
        await shared.stop()
        assert not socket.exists()
    await asking.close()
    await local.close()


async def test_errors_cross_as_they_were_and_defects_without_their_details(tmp_path: Path) -> None:
    fake, socket = FakeVectors(), socket_of(tmp_path / "v")
    shared, asking = SharedVectors(fake, socket), OwnerVectors(socket)
    await shared.start()
    await asking.create("mm-a", dimension=3, settings=PLAIN)
    fake.away = ValidationFailed("wrong", field="vector", found="2", expected="3")
    with pytest.raises(ValidationFailed, match="wrong") as caught:
        await asking.count("mm-a")
    assert (caught.value.field, caught.value.found, caught.value.expected) == ("vector", "2", "3")
    fake.away = DependencyUnavailable("the disk is full", retry_after_s=7.0)
    with pytest.raises(DependencyUnavailable, match="disk") as away:
        await asking.count("mm-a")
    assert away.value.retry_after_s == 7.0
    fake.away, fake.refuses = None, {"a"}
    with capture_logs() as told, pytest.raises(InternalError) as hidden:
        await asking.upsert("mm-a", [point("a", 1, 0, 0)])
    assert "does not like" not in str(hidden.value)
    assert [log["event"] for log in told] == ["shared_vectors_failed"]
    await asking.close()
    await shared.stop()


def test_a_socket_is_never_longer_than_systems_allow(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["folder" * 5] * 6)
    assert len(os.fsencode(socket_of(deep))) <= 103
    assert socket_of(deep) != socket_of(deep / "other")


async def test_a_deep_folder_is_shared_from_a_folder_that_is_closed_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        socket = socket_of(tmp_path.joinpath(*["folder" * 5] * 6))
        shared, asking = SharedVectors(FakeVectors(), socket), OwnerVectors(socket)
        await shared.start()
        await answered(asking)
        assert socket.parent.stat().st_mode & 0o077 == 0
        await asking.close()
        await shared.stop()
        socket.parent.chmod(0o777)
        with pytest.raises(DependencyUnavailable, match="open to others"):
            await SharedVectors(FakeVectors(), socket).start()


# --- a server ----------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    with QdrantServer().serving() as serving:
        yield serving


async def test_an_index_is_made_on_a_server_as_it_was_asked_for(server: QdrantServer) -> None:
    vectors = await QdrantVectors.server(server.url, timeout_s=10)
    await vectors.create("mm-a", dimension=3, settings=SETTINGS)
    (made,) = server.bodies("PUT", "/mm-a")
    assert made["vectors"] == {"size": 3, "distance": "Cosine", "on_disk": True}
    assert made["hnsw_config"] == {"m": 8, "ef_construct": 64}
    assert made["quantization_config"] == {"scalar": {"type": "int8", "always_ram": False}}
    assert made["on_disk_payload"] is True
    indexed = {body["field_name"]: body["field_schema"] for body in server.bodies("PUT", "/index")}
    assert indexed == {
        "tags": "keyword",
        "provenance.seq": "integer",
        "created_at": "datetime",
        "values.year": "keyword",
        "metadata.year": "float",
    }
    await vectors.search("mm-a", Question(vector=unit(1, 0, 0), exact=True))
    assert server.bodies("POST", "/query")[-1]["params"] == {"exact": True}
    await vectors.close()


async def test_an_index_whose_maker_ended_midway_is_made_whole(server: QdrantServer) -> None:
    vectors = await QdrantVectors.server(server.url, timeout_s=10)
    server.hook = lambda _, path: (500, "out of order") if path.endswith("/index") else None
    with pytest.raises(DependencyUnavailable, match=r"500.*out of order"):
        await vectors.create("mm-a", dimension=3, settings=PLAIN)
    server.hook = lambda *_: None
    server.asked.clear()
    await vectors.create("mm-a", dimension=3, settings=PLAIN)
    assert [body["field_name"] for body in server.bodies("PUT", "/index")] == ["tags", "provenance.seq", "created_at"]
    await vectors.close()


async def test_of_two_that_make_an_index_at_once_neither_fails(server: QdrantServer) -> None:
    vectors = [await QdrantVectors.server(server.url, timeout_s=10) for _ in range(2)]

    def both_find_none(method: str, path: str) -> tuple[int, object] | None:
        first = method == "GET" and len([1 for asked in server.asked if asked[:2] == (method, path)]) <= 2
        return (404, "Not found: Collection `mm-a` doesn't exist!") if first else None

    server.hook = both_find_none
    await asyncio.gather(*(each.create("mm-a", dimension=3, settings=PLAIN) for each in vectors))
    with pytest.raises(Conflict, match="3 dimensions"):
        await vectors[1].create("mm-a", dimension=4, settings=PLAIN)
    for each in vectors:
        await each.close()


async def test_an_alias_that_another_process_switched_to_other_lengths_is_followed(server: QdrantServer) -> None:
    ours, theirs = [await QdrantVectors.server(server.url, timeout_s=10) for _ in range(2)]
    for name, dimension in (("mm-a", 3), ("mm-b", 2)):
        await ours.create(name, dimension=dimension, settings=PLAIN)
    await ours.upsert("mm-b", [point("b", 1, 0)])
    await ours.switch("mm-alias", "mm-a")
    assert await found(ours, "mm-alias") == []
    await theirs.switch("mm-alias", "mm-b")
    assert await found(ours, "mm-alias", vector=unit(1, 0)) == ["b"]
    await theirs.switch("mm-alias", "mm-a")
    with pytest.raises(ValidationFailed, match="3 numbers"):
        await ours.search("mm-alias", Question(vector=unit(1, 0)))
    await theirs.drop("mm-a")
    assert await found(ours, "mm-alias") == []
    for each in (ours, theirs):
        await each.close()


async def test_a_server_that_is_away_is_told_without_its_key_and_found_when_it_is_there() -> None:
    port = reserve_port()
    with capture_logs() as told:
        vectors = await QdrantVectors.server(f"http://:s3cret@127.0.0.1:{port}", timeout_s=0.5)
    assert [(log["event"], log["server"]) for log in told] == [("vectors_key_in_clear", f"http://127.0.0.1:{port}")]
    for asking in (vectors.ping(), found(vectors, "mm-a"), vectors.create("mm-a", dimension=3, settings=PLAIN)):
        with pytest.raises(DependencyUnavailable, match=rf"127\.0\.0\.1:{port}.*MODELMORA_VECTORS_URL") as caught:
            await asking
        assert "s3cret" not in str(caught.value)
    await vectors.close()


async def test_a_grpc_server_that_is_away_is_told() -> None:
    vectors = await QdrantVectors.server(f"grpc://127.0.0.1:{reserve_port()}", timeout_s=2)
    with pytest.raises(DependencyUnavailable, match=r"grpc://.*MODELMORA_VECTORS_URL"):
        await vectors.count("mm-a")
    await vectors.close()


async def test_a_key_that_is_refused_and_a_404_of_another_server_are_failures(server: QdrantServer) -> None:
    vectors = await QdrantVectors.server(server.url, timeout_s=10)
    for status, said in ((401, "Must provide an API key"), (404, "nginx"), (503, "starting")):
        server.hook = lambda *_, told=(status, said): told
        with pytest.raises(DependencyUnavailable, match=f"{status}.*{said}"):
            await found(vectors, "mm-a")
        with pytest.raises(DependencyUnavailable, match=f"{status}.*{said}"):
            await vectors.upsert("mm-a", [point("a", 1, 0, 0)])
    await vectors.close()


def test_servers_have_their_usual_ports_and_are_named_without_keys() -> None:
    assert named("https://:key@host") == "https://host:6333"
    assert named("grpc://u:key@host") == "grpc://host:6334"
    assert named("http://host:1") == "http://host:1"


def test_settings_that_nobody_made_are_left_to_the_store() -> None:
    assert set(created_with(models, 512, PLAIN, folder=True)) == {"vectors_config"}
    assert set(payload_indexes(models, PLAIN)) == {"tags", "provenance.seq", "created_at"}
    asked = models.CreateCollection(vectors=created_with(models, 2, PLAIN, folder=False)["vectors_config"])
    assert asked.model_dump(mode="json", exclude_none=True) == {"vectors": {"size": 2, "distance": "Cosine"}}
