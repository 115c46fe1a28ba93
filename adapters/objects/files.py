"""The port `Objects` over a folder: for a laptop, and for machines that share a volume."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from adapters.objects.coming import COMING, locked, settle, sync, translated
from adapters.objects.coming import create as _create
from adapters.objects.hashing import Hashing
from modelmora.errors import DependencyUnavailable, ValidationFailed
from modelmora.ports import StoredObject, Upload

CHUNK_BYTES = 2**20
KEPT = "sha256"


class FileObjects:
    """`sha256/ab/cd...` holds what is kept, `uploads/` what is still coming; one becomes the other in one step."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, chunks: AsyncIterable[bytes], *, sha256: str | None = None) -> StoredObject:
        """See the port."""
        hashing = Hashing(chunks)
        with translated(self._root, "objects"):
            file, coming = await asyncio.to_thread(_create, self._root / COMING)
        try:
            try:
                async for chunk in hashing:  # what it raises is the caller's own
                    with translated(self._root, "objects"):
                        await asyncio.to_thread(file.write, chunk)
                hashing.check_given(sha256)
                with translated(self._root, "objects"):
                    await asyncio.to_thread(sync, file)
                    return await asyncio.to_thread(self._keep, coming, hashing.sha256)
            finally:
                with translated(self._root, "objects"):
                    file.close()
        finally:
            with suppress(OSError):
                coming.unlink(missing_ok=True)

    async def get(self, sha256: str) -> AsyncGenerator[bytes, None]:
        """See the port."""
        with translated(self._root, "objects"):
            try:
                file = await asyncio.to_thread(self._place(sha256).open, "rb")
            except FileNotFoundError:
                raise missing(sha256) from None
        with file:
            hashing = Hashing(self._chunks(file))
            async for chunk in hashing:
                yield chunk
        hashing.check_kept(sha256)

    async def _chunks(self, file: BinaryIO) -> AsyncGenerator[bytes, None]:
        while True:
            with translated(self._root, "objects"):
                chunk = await asyncio.to_thread(file.read, CHUNK_BYTES)
            if not chunk:
                return
            yield chunk

    async def find(self, sha256: str) -> StoredObject | None:
        """See the port."""
        with translated(self._root, "objects"):
            return await asyncio.to_thread(_stored, self._place(sha256))

    async def remove(self, sha256: str) -> bool:
        """See the port."""

        def work() -> bool:
            try:
                self._place(sha256).unlink()
            except FileNotFoundError:
                return False
            return True

        with translated(self._root, "objects"):
            return await asyncio.to_thread(work)

    async def all(self) -> AsyncGenerator[StoredObject, None]:
        """See the port."""
        with translated(self._root, "objects"):
            for folder in await asyncio.to_thread(lambda: sorted((self._root / KEPT).glob("*"))):
                for one in await asyncio.to_thread(_stored_in, folder):
                    if one is not None:
                        yield one

    async def presign(self, *, expires_s: float) -> Upload | None:
        """None: a folder has no address that a browser could write to."""
        return None

    async def adopt(self, upload: str) -> StoredObject:
        """Nothing comes in that way."""
        raise nothing_came(upload)

    async def sweep(self, *, older_than: datetime) -> int:
        """See the port."""

        def work() -> int:
            left = [file for file in (self._root / COMING).glob("*") if _older(file, older_than)]
            return sum(map(_left, left))

        with translated(self._root, "objects"):
            return await asyncio.to_thread(work)

    def _place(self, sha256: str) -> Path:
        return self._root / KEPT / sha256[:2] / sha256

    def _keep(self, coming: Path, sha256: str) -> StoredObject:
        """In its place for good; what is there already stays, and is as new again."""
        status = coming.stat()
        settle(coming, self._place(sha256))
        return _told(sha256, status)


def missing(what: str) -> DependencyUnavailable:
    """What a registry refers to and the store does not have."""
    return DependencyUnavailable(f"the object store has no {what}; was it removed beside ModelMora?")


def nothing_came(upload: str) -> ValidationFailed:
    """To whoever asks to keep what nobody put there."""
    said = "nothing was put there, or it was kept already"
    return ValidationFailed(said, field="name", found=upload, expected="the name of an upload that is complete")


def _left(path: Path) -> bool:
    """Removes an upload that nobody writes any more; whether it was one."""
    try:
        with path.open("rb") as file:
            if not locked(file):
                return False
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return False
    return True


def _stored(path: Path) -> StoredObject | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return _told(path.name, status)


def _told(sha256: str, status: os.stat_result) -> StoredObject:
    changed_at = datetime.fromtimestamp(status.st_mtime, tz=UTC)
    return StoredObject(sha256=sha256, bytes=status.st_size, changed_at=changed_at)


def _stored_in(folder: Path) -> list[StoredObject | None]:
    return [_stored(file) for file in sorted(folder.iterdir())]


def _older(path: Path, than: datetime) -> bool:
    """An upload that ended this moment is not."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, tz=UTC) < than
    except FileNotFoundError:
        return False
