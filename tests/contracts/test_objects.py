"""The promise of `Objects`, kept by folders and by a real store that speaks S3."""

from __future__ import annotations

import asyncio
import hashlib
import io
import secrets
import threading
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from adapters.objects import FileObjects, S3Objects
from modelmora.errors import ArtifactCorrupt, DependencyUnavailable, ValidationFailed
from modelmora.ports import Objects, StoredObject
from tests.contracts.object_store import ObjectStore, bucket
from tests.support import reserve_port

SOON = datetime.now(UTC) + timedelta(days=1)
EMPTY = hashlib.sha256(b"").hexdigest()


async def chunked(content: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def read(objects: Objects, sha256: str) -> bytes:
    return b"".join([chunk async for chunk in objects.get(sha256)])


async def everything(objects: Objects) -> list[str]:
    return [one.sha256 async for one in objects.all()]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 100_000, 20 * 2**20 + 7])
async def test_what_is_put_comes_back_by_its_digest(objects: Objects, size: int) -> None:
    content = secrets.token_bytes(size)
    stored = await objects.put(chunked(content))
    assert (stored.sha256, stored.bytes) == (digest(content), size)
    assert await objects.find(stored.sha256) == stored
    assert await read(objects, stored.sha256) == content


async def test_the_same_is_kept_once(objects: Objects) -> None:
    content = secrets.token_bytes(1_000)
    first, second = await asyncio.gather(objects.put(chunked(content)), objects.put(chunked(content)))
    assert first.sha256 == second.sha256
    assert await everything(objects) == [first.sha256]
    assert await objects.sweep(older_than=SOON) == 0


async def test_everything_is_listed_in_order(objects: Objects) -> None:
    stored = [await objects.put(chunked(bytes([number]))) for number in range(20)]
    assert await everything(objects) == sorted(one.sha256 for one in stored)


async def test_what_was_announced_has_to_come(objects: Objects) -> None:
    content = secrets.token_bytes(1_000)
    with pytest.raises(ValidationFailed) as refused:
        await objects.put(chunked(content), sha256="ab" * 32)
    assert (refused.value.field, refused.value.found) == ("sha256", digest(content))
    assert await everything(objects) == []
    assert await objects.sweep(older_than=SOON) == 0
    assert (await objects.put(chunked(content), sha256=digest(content))).bytes == 1_000


@pytest.mark.parametrize("after", [0, 1_000, 20 * 2**20])
async def test_an_upload_that_breaks_leaves_nothing(objects: Objects, after: int) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        async for chunk in chunked(secrets.token_bytes(after)):
            yield chunk
        raise ConnectionResetError("the caller is gone")

    with pytest.raises(ConnectionResetError, match="the caller is gone"):
        await objects.put(breaking())
    assert await everything(objects) == []
    assert await objects.sweep(older_than=SOON) == 0


async def test_a_caller_who_leaves_leaves_nothing(objects: Objects) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield secrets.token_bytes(20 * 2**20)
        waiting.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(objects.put(endless()))
    await asyncio.wait_for(waiting.wait(), 20)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await everything(objects) == []
    assert await objects.sweep(older_than=SOON) == 0


async def test_small_files_do_not_wait_for_large_ones(objects: Objects) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield secrets.token_bytes(2**20)
        await asyncio.Event().wait()

    slowly = [asyncio.create_task(objects.put(slow())) for _ in range(20)]
    await asyncio.sleep(0.2)
    stored = await asyncio.wait_for(objects.put(chunked(b"a list of files")), 20)
    assert stored.sha256 == digest(b"a list of files")
    for one in slowly:
        one.cancel()
    await asyncio.gather(*slowly, return_exceptions=True)


async def test_what_is_removed_is_gone(objects: Objects) -> None:
    stored = await objects.put(chunked(b"content"))
    assert await objects.remove(stored.sha256)
    assert not await objects.remove(stored.sha256)
    assert await objects.find(stored.sha256) is None
    with pytest.raises(DependencyUnavailable, match=f"has no {stored.sha256}"):
        await read(objects, stored.sha256)


async def test_many_copies_at_once_do_not_wait_for_each_other(objects: Objects, tmp_path: Path) -> None:
    """Each upload's chunks are read in threads themselves."""
    other = FileObjects(tmp_path / "other")
    stored = [await other.put(chunked(bytes([number]) * 300_000)) for number in range(20)]
    copies = await asyncio.wait_for(asyncio.gather(*(objects.put(other.get(one.sha256)) for one in stored)), 60)
    assert [one.sha256 for one in copies] == [one.sha256 for one in stored]


async def test_a_reader_may_leave_at_any_time(objects: Objects) -> None:
    stored = await objects.put(chunked(secrets.token_bytes(5 * 2**20)))
    for _ in range(30):  # more than there are connections
        async with aclosing(objects.get(stored.sha256)) as chunks:
            assert await anext(chunks)


async def test_memory_does_not_grow_with_the_size(objects: Objects) -> None:
    piece = secrets.token_bytes(2**20)

    async def large() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield piece

    tracemalloc.start()
    try:
        stored = await objects.put(large())
        async for _ in objects.get(stored.sha256):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stored.bytes == 200 * 2**20
    assert peak < 64 * 2**20


# --- what is damaged, away or full -------------------------------------------------------------------------------


async def test_uploads_that_break_off_leave_no_threads_behind(store: ObjectStore) -> None:
    objects = await bucket(store)

    async def broken() -> AsyncIterator[bytes]:
        yield secrets.token_bytes(20 * 2**20)
        raise RuntimeError("cut off")

    async def cut_off() -> int:
        with pytest.raises(RuntimeError, match="cut off"):
            await objects.put(broken())
        return threading.active_count()

    first = await cut_off()
    assert [await cut_off() for _ in range(3)] <= [first + 1] * 3


async def test_a_bit_that_flipped_in_the_folder_shows_at_the_end(tmp_path: Path) -> None:
    objects = FileObjects(tmp_path)
    stored = await objects.put(chunked(secrets.token_bytes(3 * 2**20)))
    [file] = (tmp_path / "sha256").glob("*/*")
    content = bytearray(file.read_bytes())
    content[1_234_567] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match=f"the store's copy of {stored.sha256} is damaged"):
        await read(objects, stored.sha256)


async def test_a_bit_that_flipped_in_the_store_shows_at_the_end(store: ObjectStore) -> None:
    objects = await bucket(store)
    stored = await objects.put(chunked(b"content"))
    key = f"sha256/{stored.sha256[:2]}/{stored.sha256}"
    objects._client.put_object(objects._bucket, key, io.BytesIO(b"contenu"), 7)
    with pytest.raises(ArtifactCorrupt):
        await read(objects, stored.sha256)


async def test_a_store_that_is_away_is_named(tmp_path: Path) -> None:
    where = f"127.0.0.1:{reserve_port()}"
    objects = S3Objects(where, "models", access_key="a", secret_key="b", secure=False)
    for asked in (objects.put(chunked(b"x")), objects.find(EMPTY), read(objects, EMPTY), objects.prepare()):
        with pytest.raises(DependencyUnavailable, match=rf"http://{where}/models .*MODELMORA_OBJECTS_URL"):
            await asked


async def test_keys_that_are_wrong_are_told(store: ObjectStore) -> None:
    objects = S3Objects(store.endpoint, "models", access_key="nobody", secret_key="x", secure=False)
    with pytest.raises(DependencyUnavailable, match=r"InvalidAccessKeyId|AccessDenied|does not exist"):
        await objects.put(chunked(b"x"))


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DependencyUnavailable, match=r"file/objects, cannot be used: Not a directory"):
        await FileObjects(tmp_path / "file" / "objects").put(chunked(b"x"))


async def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full refuses every write as a full disk does."""
    objects = FileObjects(tmp_path)
    made = objects._root / "uploads"
    made.mkdir(parents=True)
    (made / "full").symlink_to("/dev/full")
    full = made / "full"
    monkeypatch.setattr("adapters.objects.files._create", lambda folder: (full.open("wb", buffering=0), full))
    with pytest.raises(DependencyUnavailable, match="is full: make room"):
        await objects.put(chunked(b"x" * 100))
    assert await everything(objects) == []


async def test_an_upload_under_way_is_not_swept_from_a_folder(tmp_path: Path) -> None:
    """However long nothing came: whoever writes it holds it."""
    objects, waiting, go_on = FileObjects(tmp_path), asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"one"
        waiting.set()
        await go_on.wait()
        yield b"two"

    putting = asyncio.create_task(objects.put(slow()))
    await waiting.wait()
    assert await objects.sweep(older_than=SOON) == 0
    go_on.set()
    assert (await putting).bytes == 6
    assert await objects.sweep(older_than=SOON) == 0


async def test_what_an_upload_in_parts_left_is_swept(store: ObjectStore) -> None:
    """As a process leaves it that was killed: begun, with a part, and in no listing."""
    objects = await bucket(store)
    client, where = objects._client, objects._bucket
    upload = client._create_multipart_upload(where, "uploads/left", {})
    client._upload_part(where, "uploads/left", b"x" * 5 * 2**20, None, upload, 1)
    assert await objects.sweep(older_than=datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await objects.sweep(older_than=SOON) == 1
    assert client._list_multipart_uploads(where).uploads == []
    assert await objects.sweep(older_than=SOON) == 0


async def test_a_store_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CONNECT_S", 0.2), ("READ_S", 0.2), ("QUESTION_S", 0.2), ("RETRIES", 1)):
        monkeypatch.setattr(f"adapters.objects.s3.{name}", value)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(2**16):
                pass
        finally:
            writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        objects = S3Objects(where, "models", access_key="a", secret_key="b", secure=False)
        async with asyncio.timeout(30):
            for asked in (objects.find(EMPTY), objects.put(chunked(b"x")), objects.remove(EMPTY), everything(objects)):
                with pytest.raises(DependencyUnavailable, match="MODELMORA_OBJECTS_URL"):
                    await asked
        objects.close()


async def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    objects = FileObjects(tmp_path)
    stored = await objects.put(chunked(b"kept"))
    (tmp_path / "uploads" / "left").write_bytes(b"half of it")
    assert await objects.sweep(older_than=datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await objects.sweep(older_than=SOON) == 1
    assert await read(objects, stored.sha256) == b"kept"


# --- uploads past us ---------------------------------------------------------------------------------------------


async def test_somebody_puts_a_file_by_himself_and_it_is_kept_by_its_digest(store: ObjectStore) -> None:
    objects, content = await bucket(store), secrets.token_bytes(100_000)
    upload = await objects.presign(expires_s=60)
    assert upload is not None
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.put(upload.url, content=content)).status_code == 200
    assert await everything(objects) == []
    stored = await objects.adopt(upload.name)
    assert (stored.sha256, stored.bytes) == (digest(content), len(content))
    assert await read(objects, stored.sha256) == content
    assert await objects.sweep(older_than=SOON) == 0


async def test_what_is_written_there_afterwards_harms_nothing_that_is_kept(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, content = await bucket(store), b"the model"
    kept = await objects.put(chunked(content))
    upload = await objects.presign(expires_s=60)
    assert upload is not None
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.put(upload.url, content=content)
        real = objects.find

        addresses = [upload.url]

        async def replaced(sha256: str) -> StoredObject | None:
            """Digested, and not yet copied."""
            await client.put(addresses[-1], content=b"rubbish")
            return await real(sha256)

        monkeypatch.setattr(objects, "find", replaced)
        assert await objects.adopt(upload.name) == kept
        assert await read(objects, kept.sha256) == content

        fresh = await objects.presign(expires_s=60)
        assert fresh is not None
        addresses.append(fresh.url)
        await client.put(fresh.url, content=b"another model")
        with pytest.raises(DependencyUnavailable, match=r"PreconditionFailed|precondition"):
            await objects.adopt(fresh.name)
    assert await everything(objects) == [kept.sha256]


async def test_every_object_of_many_pages_is_listed(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.objects.s3.STRIDE", 3)
    objects = await bucket(store)
    stored = [await objects.put(chunked(bytes([number]))) for number in range(8)]
    assert await everything(objects) == sorted(one.sha256 for one in stored)


async def test_a_bucket_that_is_gone_is_a_store_that_is_away(store: ObjectStore) -> None:
    gone = S3Objects(
        store.endpoint, "never-made", access_key=store.access_key, secret_key=store.secret_key, secure=False
    )
    for asked in (everything(gone), gone.sweep(older_than=SOON)):
        with pytest.raises(DependencyUnavailable, match="NoSuchBucket"):
            await asked


async def test_an_upload_that_never_came_cannot_be_kept(store: ObjectStore) -> None:
    objects = await bucket(store)
    upload = await objects.presign(expires_s=60)
    assert upload is not None
    with pytest.raises(ValidationFailed, match="nothing was put there"):
        await objects.adopt(upload.name)


async def test_a_folder_takes_nothing_past_us(tmp_path: Path) -> None:
    assert await FileObjects(tmp_path).presign(expires_s=60) is None
