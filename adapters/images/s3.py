"""The port `PictureFiles` over a bucket of anything that speaks S3, and the buckets that others put pictures into."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from adapters.images.files import absent, no_object, picture_key, thumbnail_key, too_large
from modelmora.errors import DependencyUnavailable, ModelMoraError, PermissionDenied

T = TypeVar("T")

CONNECT_S, READ_S, RETRIES, THREADS = 3.0, 15.0, 1, 16
_TROUBLES = (MinioException, HTTPError, OSError, ValueError)
_GONE = frozenset({"NoSuchKey", "NoSuchBucket"})


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
        self._where = f"{'https' if secure else 'http'}://{endpoint}/{bucket}"
        connections = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            retries=urllib3.Retry(total=RETRIES, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
            maxsize=THREADS,
        )
        self._client = Minio(endpoint, access_key, secret_key, secure=secure, http_client=connections)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")

    async def prepare(self) -> None:
        """Makes the bucket where it is not there; raises DependencyUnavailable."""

        def work() -> None:
            if not self._client.bucket_exists(self._bucket):
                self._client.make_bucket(self._bucket)

        await self._do(work)

    async def put(self, sha256: str, data: bytes, *, content_type: str) -> str:
        """See the port."""
        key = picture_key(sha256)

        def work() -> None:
            if self._size(self._bucket, key) != len(data):
                self._client.put_object(self._bucket, key, io.BytesIO(data), len(data), content_type=content_type)

        await self._do(work)
        return f"s3://{self._bucket}/{key}"

    async def get(self, object_: str, *, max_bytes: int) -> bytes:
        """See the port."""
        bucket, slash, key = object_.removeprefix("s3://").partition("/")
        if not object_.startswith("s3://") or not slash or not key:
            raise no_object(object_, f"s3://{self._bucket}/...")
        if bucket not in self._readable:
            said = f"the bucket {bucket} may not be read from; MODELMORA_INGEST_BUCKETS names those that may"
            raise PermissionDenied(said, field="object", found=object_[:200])
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
        key = thumbnail_key(sha256)

        def work() -> bytes | None:
            return None if self._size(self._bucket, key) is None else self._bytes(self._bucket, key, None)

        return await self._do(work)

    async def ping(self) -> float:
        """See the port."""
        start = time.perf_counter()
        await self._do(lambda: self._client.bucket_exists(self._bucket))
        return (time.perf_counter() - start) * 1e3

    def close(self) -> None:
        """Lets go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, bucket: str, key: str, object_: str, max_bytes: int) -> bytes:
        size = self._size(bucket, key)
        if size is None:
            raise absent(object_)
        if size > max_bytes:
            raise too_large(object_, size, max_bytes)
        data = self._bytes(bucket, key, max_bytes + 1)
        if len(data) > max_bytes:  # it grew meanwhile
            raise too_large(object_, len(data), max_bytes)
        return data

    def _size(self, bucket: str, key: str) -> int | None:
        try:
            return self._client.stat_object(bucket, key).size or 0
        except S3Error as cause:
            if cause.code in _GONE:
                return None
            raise

    def _bytes(self, bucket: str, key: str, most: int | None) -> bytes:
        response = self._client.get_object(bucket, key)
        try:
            return response.read(most) if most is not None else response.read()
        finally:
            response.close()
            response.release_conn()

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ModelMoraError:
            raise
        except _TROUBLES as cause:
            raise self._translated(cause) from cause

    def _translated(self, cause: Exception) -> ModelMoraError:
        if isinstance(cause, S3Error) and cause.code in _GONE:
            return absent(f"{cause.bucket_name}/{cause.object_name}")
        why = f"{cause.code}: {cause.message}" if isinstance(cause, S3Error) else str(cause)
        said = f"the object store {self._where} does not do what it is asked: {why}; MODELMORA_OBJECTS_URL names it"
        return DependencyUnavailable(said, retry_after_s=1.0)
