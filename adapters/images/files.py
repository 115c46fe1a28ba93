"""The port `PictureFiles` over a folder."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from adapters.images.names import absent, endless, no_object, picture_key, shown, thumbnail_key, too_large
from adapters.objects.coming import COMING, create, settle, sync, translated
from modelmora.errors import PermissionDenied

T = TypeVar("T")

_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)
"""What the system says of a name where no file is, or can be."""


class FilePictures:
    """`pictures/ab/abcd...` and `thumbnails/ab/abcd....webp` in a folder, for this user alone."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    async def put(self, sha256: str, data: bytes, *, content_type: str) -> str:
        """See the port."""
        await self._do(lambda: self._write(self._root / picture_key(sha256), data))
        return self.place(sha256)

    def place(self, sha256: str) -> str:
        """See the port."""
        return (self._root / picture_key(sha256)).as_uri()

    async def get(self, object_: str, *, max_bytes: int) -> bytes:
        """See the port; nothing outside of the folder is read, whatever a link in it says."""
        path = self._path(object_)
        return await self._do(lambda: self._read(path, object_, max_bytes))

    async def remove(self, sha256: str) -> None:
        """See the port."""

        def work() -> None:
            for key in (picture_key(sha256), thumbnail_key(sha256)):
                (self._root / key).unlink(missing_ok=True)

        await self._do(work)

    async def put_thumbnail(self, sha256: str, data: bytes) -> None:
        """See the port."""
        await self._do(lambda: self._write(self._root / thumbnail_key(sha256), data))

    async def thumbnail(self, sha256: str) -> bytes | None:
        """See the port."""

        def work() -> bytes | None:
            with suppress(FileNotFoundError):
                return (self._root / thumbnail_key(sha256)).read_bytes()
            return None

        return await self._do(work)

    async def ping(self) -> float:
        """See the port."""
        start = time.perf_counter()
        await self._do(lambda: self._root.mkdir(mode=0o700, parents=True, exist_ok=True))
        return (time.perf_counter() - start) * 1e3

    def _path(self, object_: str) -> Path:
        """Raises ValidationFailed for what can be no file's name: who announces pictures may write anything."""
        try:
            parts = urlsplit(object_)
            path = unquote(parts.path)
            if parts.scheme == "file" and not parts.netloc and path and "\0" not in path:
                path.encode()
                return Path(path)
        except ValueError:
            pass
        raise no_object(object_, f"file://{self._root}/...")

    def _read(self, path: Path, object_: str, max_bytes: int) -> bytes:
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(self._root.resolve()):
                said = f"{shown(object_)} lies outside of the folder of pictures"
                raise PermissionDenied(said, field="object", found=shown(object_))
            # Neither a link that was put there in between is followed, nor is a pipe waited for.
            descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except RuntimeError:  # links in a circle
            raise absent(object_) from None
        except OSError as cause:
            if cause.errno in _NO_FILE:
                raise absent(object_) from None
            raise
        try:
            return _content(descriptor, object_, max_bytes)
        finally:
            os.close(descriptor)

    def _write(self, place: Path, data: bytes) -> None:
        """Whole or not at all; what is there already in that size is left."""
        with suppress(FileNotFoundError):
            if place.stat().st_size == len(data):
                return
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        file, coming = create(self._root / COMING)
        try:
            with file:
                file.write(data)
                sync(file)
                settle(coming, place)
        finally:
            coming.unlink(missing_ok=True)

    async def _do(self, work: Callable[[], T]) -> T:
        """In a thread; what the system says becomes ours."""
        with translated(self._root, "pictures"):
            return await asyncio.to_thread(work)


def _content(descriptor: int, object_: str, max_bytes: int) -> bytes:
    """Of an open file; never more than may be is in memory."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise absent(object_)
    if status.st_size > max_bytes:
        raise too_large(object_, status.st_size, max_bytes)
    with open(descriptor, "rb", closefd=False) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise endless(object_, max_bytes)
    return data
