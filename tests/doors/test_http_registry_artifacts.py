"""`/api/v1/artifacts`, and the files of versions: sent, found, fetched, removed; in the application itself."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from modelmora.ports import StoredObject, Upload
from tests.doors.conftest import MAX_BODY
from tests.doors.test_http_registry_models import at_fault
from tests.fakes import World

BASE = "/api/v1/artifacts"
FILES = "/api/v1/models/birds/versions/1.0.0/files"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def put(
    http: httpx.AsyncClient, content: bytes, *, of: bytes | None = None, encoding: str = "identity"
) -> httpx.Response:
    name = digest(content if of is None else of)
    return await http.put(f"{BASE}/{name}", content=content, headers={"content-encoding": encoding})


def left(world: World) -> list[str]:
    """Everything that lies in the folder of the object store."""
    return sorted(file.name for file in (world.kept.folder / "objects").rglob("*") if file.is_file())


@pytest.mark.parametrize("content", [b"weights", b"", bytes(10 * MAX_BODY)], ids=["some", "none", "beyond the limit"])
async def test_a_file_is_sent_once_and_found_from_then_on(
    content: bytes, world: World, http: httpx.AsyncClient
) -> None:
    before = await http.head(f"{BASE}/{digest(content)}")
    first, second = await put(http, content), await put(http, content)
    found = await http.head(f"{BASE}/{digest(content)}")

    assert (before.status_code, before.content) == (404, b"")
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json() == {"sha256": digest(content), "bytes": len(content)}
    assert (found.status_code, found.headers["content-length"]) == (200, str(len(content)))
    assert left(world) == [digest(content)]


async def test_a_file_comes_in_pieces_of_any_size(world: World, http: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for size in (1, 0, 300_000, 70_000, 5):
            yield bytes(size)

    whole = bytes(370_006)
    answer = await http.put(f"{BASE}/{digest(whole)}", content=pieces())

    assert (answer.status_code, answer.json()["bytes"]) == (201, len(whole))


async def test_other_bytes_than_announced_are_not_kept(world: World, http: httpx.AsyncClient) -> None:
    answer = await put(http, b"weighty", of=b"weights")

    assert at_fault(answer) == (422, "validation", "sha256")
    assert (answer.json()["errors"][0]["found"], left(world)) == (digest(b"weighty"), [])


@pytest.mark.parametrize("name", ["gc", "AB" * 32, "ab" * 31, "ab" * 32 + "%00", "..%2f..%2fetc"])
@pytest.mark.parametrize("method", ["PUT", "HEAD"])
async def test_what_is_no_digest_is_refused_unread(
    method: str, name: str, world: World, http: httpx.AsyncClient
) -> None:
    pulled: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        pulled.append(b"x")
        yield b"x"

    answer = await http.request(method, f"{BASE}/{name}", content=body() if method == "PUT" else None)

    assert answer.status_code in (404, 422)  # a slash is another route
    assert (pulled, left(world)) == ([], [])


async def test_a_file_is_sent_as_it_is(world: World, http: httpx.AsyncClient) -> None:
    answer = await put(http, b"weights", encoding="gzip")

    assert at_fault(answer) == (415, "unsupported_media", "content-encoding")
    assert left(world) == []


async def test_the_limit_of_other_bodies_still_holds(http: httpx.AsyncClient) -> None:
    for path in (f"{BASE}/gc", f"{BASE}/uploads/{'ab' * 16}", "/api/v1/models"):
        answer = await http.post(path, content=bytes(MAX_BODY + 1), headers={"content-type": "application/json"})

        assert answer.status_code in (413, 422), path  # the upload's name is looked at and the body is not read
        assert answer.json()["code"] in ("limit_exceeded", "validation")


async def test_a_store_that_is_away_says_so(world: World, http: httpx.AsyncClient) -> None:
    (world.kept.folder / "objects").write_text("a file where the folder should be")

    answer = await put(http, b"weights")

    assert (answer.status_code, answer.json()["code"]) == (503, "dependency_unavailable")
    assert "MODELMORA_OBJECTS_URL" in answer.json()["detail"]


async def test_a_file_of_a_version_is_fetched(world: World, http: httpx.AsyncClient) -> None:
    content = bytes(range(256)) * 10_000
    await world.kept.registered(content=content)

    answer = await http.get(f"{FILES}/model/weights.safetensors")

    assert answer.content == content
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["etag"] == f'"{digest(content)}"'
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_an_empty_file_is_fetched(world: World, http: httpx.AsyncClient) -> None:
    await world.kept.registered(content=b"")

    answer = await http.get(f"{FILES}/model/weights.safetensors")

    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize("path", ["weights.safetensors", "model", "model/", "model/../x", ".manifest", "model%00"])
async def test_a_path_that_is_none_of_its_files(path: str, world: World, http: httpx.AsyncClient) -> None:
    await world.kept.registered()

    answer = await http.get(f"{FILES}/{path}")

    assert answer.status_code == 404
    if answer.json()["code"] != "invalid_input":  # what the client's own URL arithmetic made another route of
        assert at_fault(answer) == (404, "version_not_found", "path")
        assert answer.json()["errors"][0]["expected"] == "model/weights.safetensors"


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("/api/v1/models/fish/versions/1.0.0/files/a", 404, "model_not_found"),
        ("/api/v1/models/birds/versions/9.0.0/files/a", 404, "version_not_found"),
        ("/api/v1/models/birds/versions/latest/files/a", 422, "validation"),
        ("/api/v1/models/birds%00/versions/1.0.0/files/a", 422, "validation"),
    ],
)
async def test_a_file_of_what_is_not_there(
    url: str, status: int, code: str, world: World, http: httpx.AsyncClient
) -> None:
    await world.kept.registered()

    answer = await http.get(url)

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_small_file_that_is_damaged_is_an_error(world: World, http: httpx.AsyncClient) -> None:
    await world.kept.registered(content=b"weights")
    place(world, b"weights").write_bytes(b"weighty")

    answer = await http.get(f"{FILES}/model/weights.safetensors")

    assert (answer.status_code, answer.json()["code"]) == (503, "artifact_corrupt")


async def test_a_file_that_is_gone_is_an_error(world: World, http: httpx.AsyncClient) -> None:
    await world.kept.registered(content=b"weights")
    place(world, b"weights").unlink()

    answer = await http.get(f"{FILES}/model/weights.safetensors")

    assert (answer.status_code, answer.json()["code"]) == (503, "dependency_unavailable")


def place(world: World, content: bytes) -> Any:
    name = digest(content)
    return world.kept.folder / "objects" / "sha256" / name[:2] / name


async def test_a_folder_takes_no_uploads_past_the_server(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{BASE}/uploads")

    assert (answer.status_code, answer.json()["code"]) == (422, "capability_missing")


@pytest.mark.parametrize("name", ["x", "ab" * 16, "..%2f..%2fetc", "%00"])
async def test_an_upload_that_is_none_is_not_adopted(name: str, http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{BASE}/uploads/{name}")

    assert answer.status_code in (404, 422)


async def test_what_was_put_past_the_server_is_adopted(
    world: World, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, name = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC), "ab" * 16

    async def presign(*, expires_s: float) -> Upload:
        return Upload(name=name, url="http://store.test/uploads/x?signed", expires_at=at)

    async def adopt(upload: str) -> StoredObject:
        return await world.kept.objects.put(once(upload.encode()))

    monkeypatch.setattr(world.kept.objects, "presign", presign)
    monkeypatch.setattr(world.kept.objects, "adopt", adopt)
    begun, adopted = await http.post(f"{BASE}/uploads"), await http.post(f"{BASE}/uploads/{name}")

    url, moment = "http://store.test/uploads/x?signed", "2026-05-04T03:02:01.000000Z"
    assert (begun.status_code, begun.json()) == (201, {"name": name, "url": url, "expires_at": moment})
    assert (adopted.status_code, adopted.json()) == (200, {"sha256": digest(name.encode()), "bytes": 32})


async def once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_what_nothing_refers_to_is_removed(world: World, http: httpx.AsyncClient) -> None:
    version = await world.kept.registered(content=b"weights")
    await put(http, b"orphan")

    young, old = await http.post(f"{BASE}/gc"), await http.post(f"{BASE}/gc", json={"older_than_s": 0})

    assert (young.json(), old.json()) == ({"removed": 0, "bytes": 0}, {"removed": 1, "bytes": 6})
    assert version.artifact is not None
    assert left(world) == sorted([digest(b"weights"), version.artifact.sha256])


@pytest.mark.parametrize("body", [{"older_than_s": -1}, {"older_than_s": "0"}, {"older_than_s": 1e300}, {"older": 0}])
async def test_a_sweep_that_is_none(body: Any, http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{BASE}/gc", json=body)

    assert at_fault(answer) == (422, "validation", next(iter(body)))


async def test_only_the_upload_itself_has_a_body_of_any_size(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{BASE}/{'ab' * 32}", content=bytes(MAX_BODY + 1))

    assert (answer.status_code, answer.json()["code"]) == (405, "invalid_input")
