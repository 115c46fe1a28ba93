"""The port `PictureFiles` over a bucket of anything that speaks S3, and the buckets that others put pictures into."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from minio import Minio
from minio.error import S3Error
from urllib3 import BaseHTTPResponse

from adapters.images.names import absent, endless, no_object, picture_key, shown, thumbnail_key, too_large
from adapters.objects.s3_client import TROUBLES, connections, place_of, unavailable
from modelmora.errors import DependencyUnavailable, ModelMoraError, PermissionDenied

T = TypeVar("T")

CONNECT_S, READ_S, RETRIES, THREADS = 3.0, 15.0, 1, 16
LONGEST_KEY = 1_024
"""Bytes, as S3 has it."""


class S3Pictures:
    """The keys are those of `FilePictures`; pictures of the buckets in `also` are read where they lie."""

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        *,
        access_key: str,
        secret_key: str,
        secure: bool,
        also: Sequence[str] = (),
    ) -> None:
        """`endpoint` is a host and a port; nothing is asked yet."""
        self._bucket = bucket
        self._readable = frozenset({bucket, *also})
        self._where = place_of(endpoint, bucket, secure=secure)
        http = connections(connect_s=CONNECT_S, read_s=READ_S, retries=RETRIES, most=THREADS)
        self._client = Minio(endpoint, access_key, secret_key, secure=secure, http_client=http)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")

    async def prepare(self) -> None:
        """Makes the bucket where it is not there; raises DependencyUnavailable."""

        def work() -> None:
            if not self._client.bucket_exists(self._bucket):
                self._client.make_bucket(self._bucket)

        await self._do(work)

    async def put(self, sha256: str, data: bytes, *, content_type: str) -> str:
        """See the port. The store shows an object when it is whole."""
        key = picture_key(sha256)

        def work() -> None:
            if self._size(key) != len(data):
                self._client.put_object(self._bucket, key, io.BytesIO(data), len(data), content_type=content_type)

        await self._do(work)
        return self.place(sha256)

    def place(self, sha256: str) -> str:
        """See the port."""
        return f"s3://{self._bucket}/{picture_key(sha256)}"

    async def get(self, object_: str, *, max_bytes: int) -> bytes:
        """See the port."""
        bucket, key = self._place(object_)
        if bucket not in self._readable:
            said = f"the bucket {shown(bucket)} may not be read from; MODELMORA_INGEST_BUCKETS names those that may"
            raise PermissionDenied(said, field="object", found=shown(object_))
        return await self._do(lambda: self._read(bucket, key, object_, max_bytes))

    async def remove(self, sha256: str) -> None:
        """See the port."""

        def work() -> None:
            for key in (picture_key(sha256), thumbnail_key(sha256)):
                self._client.remove_object(self._bucket, key)

        await self._do(work)

    async def put_thumbnail(self, sha256: str, data: bytes) -> None:
        """See the port."""
        key = thumbnail_key(sha256)
        await self._do(
            lambda: self._client.put_object(self._bucket, key, io.BytesIO(data), len(data), content_type="image/webp")
        )

    async def thumbnail(self, sha256: str) -> bytes | None:
        """See the port."""
        return await self._do(lambda: self._thumbnail(thumbnail_key(sha256)))

    async def ping(self) -> float:
        """See the port."""
        start = time.perf_counter()
        await self._do(self._look_for_bucket)
        return (time.perf_counter() - start) * 1e3

    def close(self) -> None:
        """Lets go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _place(self, object_: str) -> tuple[str, str]:
        """Bucket and key; raises ValidationFailed for what no store takes: it would be asked for again and again."""
        bucket, _, key = object_.removeprefix("s3://").partition("/")
        size = len(key.encode(errors="replace"))
        never = "\0" in key or not {".", ".."}.isdisjoint(key.split("/")) or not _is_text(object_)
        if not object_.startswith("s3://") or not bucket or not 0 < size <= LONGEST_KEY or never:
            raise no_object(object_, f"s3://{self._bucket}/...")
        return bucket, key

    def _read(self, bucket: str, key: str, object_: str, max_bytes: int) -> bytes:
        with self._opened(bucket, key) as response:
            if response is None:
                raise absent(object_)
            size = int(response.headers.get("Content-Length", 0))
            if size > max_bytes:
                raise too_large(object_, size, max_bytes)
            data = response.read(max_bytes + 1)  # what breaks off raises: it is no picture that is cut short
        if len(data) > max_bytes:
            raise endless(object_, max_bytes)
        return data

    def _thumbnail(self, key: str) -> bytes | None:
        with self._opened(self._bucket, key) as response:
            return None if response is None else response.read()

    @contextmanager
    def _opened(self, bucket: str, key: str) -> Iterator[BaseHTTPResponse | None]:
        """An object that is about to be read; None where there is none. Its own bucket is always to be there."""
        try:
            response = self._client.get_object(bucket, key)
        except S3Error as cause:
            if cause.code == "NoSuchKey" or (cause.code == "NoSuchBucket" and bucket != self._bucket):
                yield None
                return
            raise
        try:
            yield response
        finally:
            response.close()
            response.release_conn()

    def _look_for_bucket(self) -> None:
        """Raises DependencyUnavailable."""
        if not self._client.bucket_exists(self._bucket):
            said = f"the object store has no bucket {self._where}; make it, or name another (MODELMORA_OBJECTS_URL)"
            raise DependencyUnavailable(said, retry_after_s=1.0)

    def _size(self, key: str) -> int | None:
        """None for what is not there."""
        try:
            return self._client.stat_object(self._bucket, key).size or 0
        except S3Error as cause:
            if cause.code == "NoSuchKey":
                return None
            raise

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ModelMoraError:
            raise
        except TROUBLES as cause:
            raise unavailable(self._where, cause) from cause


def _is_text(name: str) -> bool:
    """Half a surrogate pair, which JSON can name, is none."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
