"""The bytes of kept pictures: a folder, and a real S3."""

from __future__ import annotations

import io
import secrets
from pathlib import Path

import pytest
from minio import Minio

from adapters.images.files import FilePictures
from adapters.images.s3 import S3Pictures
from modelmora.errors import DependencyUnavailable, ImageNotFound, LimitExceeded, PermissionDenied, ValidationFailed
from modelmora.ports import PictureFiles
from tests.contracts.object_store import ObjectStore
from tests.pictures import digest
from tests.support import reserve_port


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


@pytest.mark.parametrize("name", ["", "nothing", "http://a/b", "s3://", "file://host/etc/passwd"])
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
