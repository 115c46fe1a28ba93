"""The bytes of kept pictures: a folder, and a real S3."""

from __future__ import annotations

import asyncio
import io
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from minio import Minio

from adapters.images.files import FilePictures
from adapters.images.s3 import S3Pictures
from adapters.objects import FileObjects
from modelmora.errors import DependencyUnavailable, ImageNotFound, LimitExceeded, PermissionDenied, ValidationFailed
from modelmora.ports import PictureFiles
from tests.contracts.object_store import ObjectStore
from tests.pictures import digest
from tests.support import only_on_linux, reserve_port

ROOT = Path(__file__).parents[2]


def s3(store: ObjectStore, bucket: str, *also: str) -> S3Pictures:
    keys = {"access_key": store.access_key, "secret_key": store.secret_key}
    return S3Pictures(store.endpoint, bucket, **keys, secure=False, also=also)


@pytest.fixture(params=["files", "s3"])
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> PictureFiles:
    if request.param == "files":
        return FilePictures(tmp_path / "pictures of mine")
    made = s3(request.getfixturevalue("store"), f"test-{secrets.token_hex(8)}")
    await made.prepare()
    await made.prepare()
    return made


async def test_bytes_come_back_as_they_were_put(files: PictureFiles) -> None:
    data = bytes(range(256)) * 100
    name = await files.put(digest(data), data, content_type="image/png")
    assert await files.put(digest(data), data, content_type="image/png") == name
    assert await files.get(name, max_bytes=len(data)) == data
    assert await files.ping() >= 0


async def test_what_is_too_large_is_refused_with_its_size(files: PictureFiles) -> None:
    name = await files.put(digest("x"), b"x" * 101, content_type="image/png")
    with pytest.raises(LimitExceeded, match="101 bytes"):
        await files.get(name, max_bytes=100)


async def test_removing_takes_the_thumbnail_too_and_may_be_repeated(files: PictureFiles) -> None:
    name = await files.put(digest("x"), b"x", content_type="image/png")
    assert await files.thumbnail(digest("x")) is None
    await files.put_thumbnail(digest("x"), b"small")
    assert await files.thumbnail(digest("x")) == b"small"
    for _ in range(2):
        await files.remove(digest("x"))
    assert await files.thumbnail(digest("x")) is None
    with pytest.raises(ImageNotFound):
        await files.get(name, max_bytes=10)


@pytest.mark.parametrize(
    "name",
    [
        *("", "nothing", "http://a/b", "s3://", "s3://b", "s3:///k", "file://host/etc/passwd", "file://[x", "file://"),
        *("file:///a%00b", "s3://b/a\0b", "file:///\ud800", "s3://b/\ud800", "s3://b/../k", "s3://b/./k"),
        f"s3://b/{'k' * 1025}",
    ],
)
async def test_what_names_no_object_is_refused(files: PictureFiles, name: str) -> None:
    with pytest.raises(ValidationFailed):
        await files.get(name, max_bytes=10)


async def test_nothing_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    files, secret = FilePictures(root), tmp_path / "secret"
    secret.write_bytes(b"secret")
    name = await files.put(digest("x"), b"x", content_type="image/png")
    (root / "pictures" / "link").symlink_to(secret)
    for outside in (secret.as_uri(), f"{root.as_uri()}/pictures/../../secret", f"{root.as_uri()}/pictures/link"):
        with pytest.raises(PermissionDenied, match="outside"):
            await files.get(outside, max_bytes=100)
    assert await files.get(name, max_bytes=1) == b"x"
    assert root.stat().st_mode & 0o077 == 0


async def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DependencyUnavailable, match="MODELMORA_OBJECTS_URL"):
        await FilePictures(tmp_path / "file").put(digest("x"), b"x", content_type="image/png")


async def test_pictures_of_other_buckets_are_read_where_that_is_allowed(store: ObjectStore) -> None:
    mine, theirs, closed = (f"test-{secrets.token_hex(8)}" for _ in range(3))
    client = Minio(store.endpoint, store.access_key, store.secret_key, secure=False)
    for bucket in (theirs, closed):
        client.make_bucket(bucket)
        client.put_object(bucket, "2030/ü a.png", io.BytesIO(b"theirs"), 6)
    files = s3(store, mine, theirs)
    await files.prepare()
    assert await files.get(f"s3://{theirs}/2030/ü a.png", max_bytes=10) == b"theirs"
    with pytest.raises(PermissionDenied, match="MODELMORA_INGEST_BUCKETS"):
        await files.get(f"s3://{closed}/2030/ü a.png", max_bytes=10)
    with pytest.raises(ImageNotFound):
        await files.get(f"s3://{theirs}/nothing", max_bytes=10)


async def test_a_store_that_is_away_is_told(store: ObjectStore) -> None:
    away = S3Pictures(f"127.0.0.1:{reserve_port()}", "x", access_key="a", secret_key="b", secure=False)
    with pytest.raises(DependencyUnavailable, match="MODELMORA_OBJECTS_URL"):
        await away.get("s3://x/key", max_bytes=10)
    away.close()


async def test_a_bucket_that_is_gone_is_a_store_that_is_away_and_no_picture_s_fault(store: ObjectStore) -> None:
    """What was kept there may come back with it: nobody may give these pictures up as not there."""
    gone, sha256 = s3(store, "never-made", "nor-this"), digest("x")
    asked: list[Callable[[], Awaitable[object]]] = [
        lambda: gone.get(f"s3://never-made/pictures/{sha256}", max_bytes=9),
        lambda: gone.put(sha256, b"x", content_type="image/png"),
        lambda: gone.put_thumbnail(sha256, b"x"),
        lambda: gone.thumbnail(sha256),
        gone.ping,
    ]
    for ask in asked:
        with pytest.raises(DependencyUnavailable, match="MODELMORA_OBJECTS_URL"):
            await ask()
    with pytest.raises(ImageNotFound):
        await gone.get("s3://nor-this/key", max_bytes=9)


async def test_an_object_as_large_as_may_be_is_read_and_one_byte_less_is_room_for_none(files: PictureFiles) -> None:
    name = await files.put(digest("x"), b"x" * 70_000, content_type="image/png")
    assert len(await files.get(name, max_bytes=70_000)) == 70_000
    with pytest.raises(LimitExceeded, match="70,000 bytes"):
        await files.get(name, max_bytes=69_999)


async def test_many_at_once_put_the_same_and_it_is_there_whole(files: PictureFiles) -> None:
    data = os.urandom(300_000)
    names = await asyncio.gather(*(files.put(digest(data), data, content_type="image/png") for _ in range(8)))
    assert len(set(names)) == 1
    assert await files.get(names[0], max_bytes=len(data)) == data


async def test_a_long_name_that_is_nowhere_is_told_in_short(files: PictureFiles) -> None:
    """Names come from whoever announces pictures; a store that is away would be asked again and again."""
    name = await files.put(digest("x"), b"x", content_type="image/png")
    with pytest.raises(ImageNotFound) as told:
        await files.get(f"{name}{'x' * 400}", max_bytes=9)
    assert len(told.value.detail) < 260


def kept(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def contents(root: Path) -> list[bytes]:
    return [path.read_bytes() for path in root.rglob("*") if path.is_file()]


async def test_what_is_no_file_is_not_there_and_nothing_waits_for_it(tmp_path: Path) -> None:
    files = FilePictures(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("folder", "pipe", "circle", "pipe/below", "x" * 300):
        with pytest.raises(ImageNotFound):
            await asyncio.wait_for(files.get((tmp_path / name).as_uri(), max_bytes=9), 10)


@only_on_linux("only there a file says that it is empty and is not")
async def test_a_file_that_has_more_than_it_says_is_not_read_past_what_it_may_have() -> None:
    files = FilePictures(Path("/proc/self"))
    with pytest.raises(LimitExceeded, match="more than 5 bytes"):
        await files.get("file:///proc/self/status", max_bytes=5)


@only_on_linux("only there is a device that is always full")
async def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full refuses every write as a full disk does."""
    (tmp_path / "full").symlink_to("/dev/full")
    full = tmp_path / "full"
    monkeypatch.setattr("adapters.images.files.create", lambda folder: (full.open("wb", buffering=0), full))
    with pytest.raises(DependencyUnavailable, match=r"is full: make room.*MODELMORA_OBJECTS_URL"):
        await FilePictures(tmp_path / "root").put(digest("x"), b"x" * 100, content_type="image/png")
    assert kept(tmp_path) == []


async def test_what_fails_before_its_end_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, data = FilePictures(tmp_path), b"x" * 100

    def broken(file: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("adapters.images.files.sync", broken)
        with pytest.raises(DependencyUnavailable, match="Input/output error"):
            await files.put(digest(data), data, content_type="image/png")
    assert kept(tmp_path) == []
    name = await files.put(digest(data), data, content_type="image/png")
    assert await files.get(name, max_bytes=100) == data


async def test_a_file_that_was_cut_short_is_put_again(tmp_path: Path) -> None:
    files, data = FilePictures(tmp_path), b"x" * 100
    name = await files.put(digest(data), data, content_type="image/png")
    [place] = (tmp_path / "pictures").glob("*/*")
    place.write_bytes(b"half")
    assert await files.put(digest(data), data, content_type="image/png") == name
    assert await files.get(name, max_bytes=100) == data


async def test_whoever_leaves_leaves_nothing_half_written(tmp_path: Path) -> None:
    files, data = FilePictures(tmp_path), os.urandom(5_000_000)
    putting = asyncio.create_task(files.put(digest(data), data, content_type="image/png"))
    await asyncio.sleep(0)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await asyncio.get_running_loop().shutdown_default_executor()  # which waits for its threads
    assert kept(tmp_path) in ([], [digest(data)])
    assert all(content == data for content in contents(tmp_path))


async def test_what_a_killed_process_left_is_swept_with_uploads(tmp_path: Path) -> None:
    """The folder is that of registered files, whose collector sweeps it."""
    script = f"""
import os, signal
from pathlib import Path
import adapters.images.files as files
files.sync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
files.FilePictures(Path({str(tmp_path)!r}))._write(Path({str(tmp_path / "pictures" / "x")!r}), b"half")
"""
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", script, cwd=ROOT)
    assert await killed.wait() == -signal.SIGKILL
    assert len(kept(tmp_path)) == 1
    assert await FileObjects(tmp_path).sweep(older_than=datetime.now(UTC) + timedelta(minutes=1)) == 1
    assert kept(tmp_path) == []


@asynccontextmanager
async def store_that_says(*answer: bytes) -> AsyncIterator[S3Pictures]:
    """To whoever asks for an object; of nothing else it knows."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
            if b"location" in asked.partition(b"\r\n")[0]:
                region = b"<LocationConstraint>us-east-1</LocationConstraint>"
                writer.write(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(region) + region
                )
            else:
                writer.write(b"".join((b"HTTP/1.1 200 OK\r\nConnection: close\r\n", *answer)))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        files = S3Pictures(where, "mine", access_key="a", secret_key="b", secure=False)
        yield files
        files.close()


async def test_an_object_that_breaks_off_is_a_store_that_is_away_and_no_damaged_picture() -> None:
    async with store_that_says(b"Content-Length: 100\r\n\r\n", b"half") as files:
        with pytest.raises(DependencyUnavailable, match="IncompleteRead"):
            await files.get("s3://mine/key", max_bytes=1000)


async def test_an_object_that_does_not_say_its_size_is_not_read_past_what_it_may_have() -> None:
    async with store_that_says(b"Transfer-Encoding: chunked\r\n\r\n", b"20\r\n" + b"x" * 32 + b"\r\n") as files:
        with pytest.raises(LimitExceeded, match="more than 10 bytes"):
            await files.get("s3://mine/key", max_bytes=10)


async def test_a_large_object_is_not_read_at_all() -> None:
    """Two gigabytes are announced and none comes: whoever read them would wait."""
    async with store_that_says(b"Content-Length: 2147483648\r\n\r\n") as files:
        with pytest.raises(LimitExceeded, match="2,147,483,648 bytes"):
            await files.get("s3://mine/key", max_bytes=1000)


async def test_a_store_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CONNECT_S", 0.2), ("READ_S", 0.2)):
        monkeypatch.setattr(f"adapters.images.s3.{name}", value)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server, asyncio.timeout(20):
        where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        files = S3Pictures(where, "mine", access_key="a", secret_key="b", secure=False)
        for ask in (files.ping(), files.get("s3://mine/key", max_bytes=9), files.thumbnail(digest("x"))):
            with pytest.raises(DependencyUnavailable, match="MODELMORA_OBJECTS_URL"):
                await ask
        files.close()


async def test_keys_that_are_wrong_are_told_as_such(store: ObjectStore) -> None:
    files = S3Pictures(store.endpoint, "mine", access_key="nobody", secret_key="x", secure=False)
    with pytest.raises(DependencyUnavailable, match=r"InvalidAccessKeyId|AccessDenied|does not exist"):
        await files.get("s3://mine/key", max_bytes=9)
    files.close()


def test_who_has_no_such_store_does_not_import_its_client() -> None:
    script = "import sys, wiring, wiring.stores; print('minio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=ROOT)
    assert done.stdout.split()[-1] == b"False"
