"""The port `Objects` over a bucket of anything that speaks S3."""

from __future__ import annotations

import asyncio
import io
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, TypeVar, cast

import urllib3
from minio import Minio
from minio.commonconfig import ComposeSource
from minio.error import S3Error

from adapters.objects.coming import COMING
from adapters.objects.files import CHUNK_BYTES, KEPT, missing, nothing_came
from adapters.objects.hashing import Hashing
from adapters.objects.s3_client import TROUBLES, connections, place_of, unavailable
from modelmora.errors import DependencyUnavailable
from modelmora.ports import StoredObject, Upload

T = TypeVar("T")

PART_BYTES = 8 * 2**20
"""So much of an upload is in memory, in each direction; 10,000 parts of it are 80 GB."""

STRIDE = 1_000
CONNECT_S, READ_S, QUESTION_S, RETRIES = 5.0, 60.0, 10.0, 2
"""How long a connection, a piece of a file and the answer to a question may take, and how often it is tried again."""
THREADS, UPLOADS = 16, 8
SMALL_BYTES = 64 * 2**10
"""What is no larger goes in one piece, without waiting for those that are."""


class S3Objects:
    """The keys are those of `FileObjects`; what comes becomes what is kept by a copy within the store."""

    def __init__(self, endpoint: str, bucket: str, *, access_key: str, secret_key: str, secure: bool) -> None:
        """`endpoint` is a host and a port; nothing is asked yet."""
        self._bucket = bucket
        self._where = place_of(endpoint, bucket, secure=secure)
        keys = (endpoint, access_key, secret_key)
        self._client = Minio(*keys, secure=secure, http_client=_connections(READ_S))
        self._asking = Minio(*keys, secure=secure, http_client=_connections(QUESTION_S))
        # Uploads apart: each holds a thread that waits for chunks, which other threads may have to make.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")
        self._uploads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="uploads")

    async def put(self, chunks: AsyncIterable[bytes], *, sha256: str | None = None) -> StoredObject:
        """See the port. So many large uploads at once as there are threads for them; more wait."""
        hashing = Hashing(chunks)
        coming = aiter(hashing)
        first = await _first(coming)
        if len(first) <= SMALL_BYTES:
            hashing.check_given(sha256)
            return await self._put_small(hashing.sha256, first)
        return await self._put_large(first, coming, hashing, sha256)

    async def _put_small(self, sha256: str, content: bytes) -> StoredObject:
        """In one request, which the store carries out whole or not at all."""
        await self._ask(lambda: self._client.put_object(self._bucket, _key(sha256), io.BytesIO(content), len(content)))
        return await self._kept(sha256)

    async def _put_large(
        self, first: bytes, rest: AsyncIterator[bytes], hashing: Hashing, sha256: str | None
    ) -> StoredObject:
        coming = f"{COMING}/{secrets.token_hex(16)}"
        source = _Source(first, rest, asyncio.get_running_loop())
        try:
            try:
                await self._ask(lambda: self._send(coming, source), left=source.leave, on=self._uploads)
            except DependencyUnavailable:
                if source.failed is not None:  # what the chunks raise is the caller's own
                    raise source.failed from None
                raise
            hashing.check_given(sha256)
            return await self._keep(coming, hashing.sha256, hashing.bytes)
        finally:
            source.leave()
            with suppress(DependencyUnavailable):
                await asyncio.shield(self._ask(lambda: self._asking.remove_object(self._bucket, coming)))

    async def get(self, sha256: str) -> AsyncGenerator[bytes, None]:
        """See the port."""
        hashing = Hashing(self._read(_key(sha256), sha256))
        async for chunk in hashing:
            yield chunk
        hashing.check_kept(sha256)

    async def find(self, sha256: str) -> StoredObject | None:
        """See the port."""
        found = await self._look(lambda: self._asking.stat_object(self._bucket, _key(sha256)))
        if found is None:
            return None
        return StoredObject(sha256=sha256, bytes=found.size or 0, changed_at=_moment(found.last_modified))

    async def remove(self, sha256: str) -> bool:
        """See the port."""
        there = await self.find(sha256) is not None
        await self._ask(lambda: self._asking.remove_object(self._bucket, _key(sha256)))
        return there

    async def all(self) -> AsyncGenerator[StoredObject, None]:
        """See the port; a page of the store's at a time."""
        async for one in self._listed(f"{KEPT}/"):
            yield StoredObject(
                sha256=one.object_name.rpartition("/")[2], bytes=one.size, changed_at=_moment(one.last_modified)
            )

    async def presign(self, *, expires_s: float) -> Upload | None:
        """See the port."""
        name, expires = secrets.token_hex(16), timedelta(seconds=expires_s)
        url = await self._ask(
            lambda: self._asking.presigned_put_object(self._bucket, f"{COMING}/{name}", expires=expires)
        )
        return Upload(name=name, url=url, expires_at=datetime.now(UTC) + expires)

    async def adopt(self, upload: str) -> StoredObject:
        """See the port. Whoever has the address may still write there: what was digested is kept, by its tag."""
        coming = f"{COMING}/{upload}"
        told = await self._look(lambda: self._asking.stat_object(self._bucket, coming))
        if told is None:
            raise nothing_came(upload)
        hashing = Hashing(self._read(coming, upload, etag=told.etag))
        async for _ in hashing:
            pass
        there = await self.find(hashing.sha256)
        try:  # as new again, where it was there
            kept = await self._keep(coming, hashing.sha256, hashing.bytes, etag=told.etag)
        except DependencyUnavailable:
            if there is None:
                raise
            kept = there
        await self._ask(lambda: self._asking.remove_object(self._bucket, coming))
        return kept

    async def sweep(self, *, older_than: datetime) -> int:
        """See the port."""
        swept = 0
        async for one in self._listed(f"{COMING}/"):
            if _moment(one.last_modified) < older_than:
                await self._ask(partial(self._asking.remove_object, self._bucket, one.object_name))
                swept += 1
        return swept + await self._ask(partial(self._give_up, older_than))

    async def prepare(self) -> None:
        """Makes the bucket where it is not there; raises DependencyUnavailable."""
        if not await self._ask(lambda: self._asking.bucket_exists(self._bucket)):
            await self._ask(lambda: self._asking.make_bucket(self._bucket))

    def close(self) -> None:
        """Lets go of the threads."""
        for threads in (self._threads, self._uploads):
            threads.shutdown(wait=False, cancel_futures=True)

    def _send(self, key: str, source: _Source) -> None:
        """Part by part; blocks. A part that fails ends the whole upload, which the client takes back."""
        # One part at a time: of several the client leaves the threads behind when the source breaks off.
        self._client.put_object(
            self._bucket, key, cast(BinaryIO, source), -1, part_size=PART_BYTES, num_parallel_uploads=1
        )

    def _give_up(self, older_than: datetime) -> int:
        """Uploads in parts that nobody will end; blocks. The client has these two calls for itself alone."""
        given_up, marker = 0, None
        while True:
            page = self._asking._list_multipart_uploads(self._bucket, key_marker=marker)
            for one in page.uploads:
                if _moment(one.initiated_time) < older_than:
                    self._asking._abort_multipart_upload(self._bucket, one.object_name, one.upload_id or "")
                    given_up += 1
            if not page.is_truncated or page.next_key_marker in (None, marker):
                return given_up
            marker = page.next_key_marker

    async def _keep(self, coming: str, sha256: str, size: int, *, etag: str | None = None) -> StoredObject:
        """Copied within the store; `compose_object` does so for what is larger than a copy may be as well."""
        if not size:  # of which nothing can be composed
            return await self._put_small(sha256, b"")
        sources = [ComposeSource(self._bucket, coming, match_etag=etag)]
        await self._ask(lambda: self._client.compose_object(self._bucket, _key(sha256), sources))
        return await self._kept(sha256)

    async def _kept(self, sha256: str) -> StoredObject:
        found = await self.find(sha256)
        if found is None:
            raise missing(sha256)
        return found

    async def _read(self, key: str, what: str, *, etag: str | None = None) -> AsyncGenerator[bytes, None]:
        only: dict[str, Any] = {"request_headers": {"If-Match": etag}} if etag else {}
        response = await self._look(lambda: self._client.get_object(self._bucket, key, **only))
        if response is None:
            raise missing(what)
        try:
            while chunk := await self._ask(lambda: response.read(CHUNK_BYTES)):
                yield chunk
        finally:
            await self._in_thread(response.close)  # which waits for a read that is under way

    async def _listed(self, prefix: str) -> AsyncGenerator[Any, None]:
        """In order; the client asks for more as it is read."""
        found = self._asking.list_objects(self._bucket, prefix=prefix, recursive=True)
        while some := await self._ask(lambda: list(islice(found, STRIDE))):
            for one in some:
                yield one

    async def _look(self, work: Callable[[], T]) -> T | None:
        """None for what the store does not have."""
        try:
            return await self._in_thread(work)
        except S3Error as cause:
            if cause.code == "NoSuchKey":
                return None
            raise unavailable(self._where, cause) from cause
        except TROUBLES as cause:
            raise unavailable(self._where, cause) from cause

    async def _ask(
        self, work: Callable[[], T], *, left: Callable[[], None] | None = None, on: ThreadPoolExecutor | None = None
    ) -> T:
        """In a thread; `left` is told when nobody waits any more, and then it ends soon, which is waited for.

        Raises DependencyUnavailable.
        """
        try:
            if left is None:
                return await self._in_thread(work, on)
            working = asyncio.ensure_future(self._in_thread(work, on))
            try:
                return await asyncio.shield(working)
            except asyncio.CancelledError:
                left()
                await asyncio.wait([working])
                working.cancelled() or working.exception()
                raise
        except TROUBLES as cause:
            raise unavailable(self._where, cause) from cause

    async def _in_thread(self, work: Callable[[], T], on: ThreadPoolExecutor | None = None) -> T:
        return await asyncio.get_running_loop().run_in_executor(on or self._threads, work)


class _Source(io.RawIOBase):
    """What the client's thread reads: bytes that come on the event loop. Who reads waits for them there."""

    def __init__(self, first: bytes, chunks: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._chunks = chunks
        self._loop = loop
        self._held = bytearray(first)
        self._waiting: Future[bytes] | None = None
        self._left = False
        self.failed: Exception | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while 0 <= len(self._held) < size and (chunk := self._next()):
            self._held += chunk
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    def leave(self) -> None:
        """Whoever reads gets an error from now on, and what was begun is given up. Thread-safe."""
        self._left = True
        if self._waiting is not None:
            self._waiting.cancel()

    def _next(self) -> bytes:
        if self._left:
            raise OSError("the upload was given up")
        self._waiting = asyncio.run_coroutine_threadsafe(self._following(), self._loop)
        if self._left:  # in between: whoever left did not see what is waited for now
            self._waiting.cancel()
        try:
            return self._waiting.result()
        except CancelledError:
            raise OSError("the upload was given up") from None
        except Exception as cause:
            self.failed = cause
            raise OSError("the caller's chunks ended in an error") from cause

    async def _following(self) -> bytes:
        return await anext(self._chunks, b"")


async def _first(chunks: AsyncIterator[bytes]) -> bytes:
    """More than is small, or all that there is."""
    taken = bytearray()
    while len(taken) <= SMALL_BYTES and (chunk := await anext(chunks, b"")):
        taken += chunk
    return bytes(taken)


def _connections(read_s: float) -> urllib3.PoolManager:
    return connections(connect_s=CONNECT_S, read_s=read_s, retries=RETRIES, most=THREADS + UPLOADS)


def _key(sha256: str) -> str:
    return f"{KEPT}/{sha256[:2]}/{sha256}"


def _moment(told: datetime | None) -> datetime:
    return datetime.now(UTC) if told is None else told.astimezone(UTC)
