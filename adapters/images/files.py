"""The port `PictureFiles` over a folder."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from modelmora.errors import DependencyUnavailable, ImageNotFound, LimitExceeded, PermissionDenied, ValidationFailed

T = TypeVar("T")

PICTURES, THUMBNAILS = "pictures", "thumbnails"


def picture_key(sha256: str) -> str:
    return f"{PICTURES}/{sha256[:2]}/{sha256}"


def thumbnail_key(sha256: str) -> str:
    return f"{THUMBNAILS}/{sha256[:2]}/{sha256}.webp"


def too_large(object_: str, found: int, limit: int) -> LimitExceeded:
    said = f"{object_} has {found:,} bytes, more than {limit:,}"
    return LimitExceeded(said, field="object", found=f"{found} bytes", expected=f"at most {limit} bytes")


def absent(object_: str) -> ImageNotFound:
    return ImageNotFound(f"there is no {object_}", field="object", found=object_[:200])


def no_object(object_: str, expected: str) -> ValidationFailed:
    return ValidationFailed("not an object of this store", field="object", found=object_[:200], expected=expected)


class FilePictures:
    """`pictures/ab/abcd...` and `thumbnails/ab/abcd....webp` in a folder, for this user alone."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, sha256: str, data: bytes, *, content_type: str) -> str:
        """See the port."""
        place = self._root / picture_key(sha256)
        await self._do(lambda: self._write(place, data))
        return place.as_uri()

    async def get(self, object_: str, *, max_bytes: int) -> bytes:
        """See the port; nothing outside of the folder is read, whatever a link in it says."""
        parts = urlsplit(object_)
        if parts.scheme != "file" or parts.netloc or not parts.path:
            raise no_object(object_, f"file://{self._root}/...")
        return await self._do(lambda: self._read(Path(unquote(parts.path)), object_, max_bytes))

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

    def _read(self, path: Path, object_: str, max_bytes: int) -> bytes:
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(self._root.resolve()):
                said = f"{object_} lies outside of the folder of pictures"
                raise PermissionDenied(said, field="object", found=object_[:200])
            with real.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > max_bytes:
                    raise too_large(object_, size, max_bytes)
                return file.read(max_bytes)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise absent(object_) from None

    def _write(self, place: Path, data: bytes) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(place, data)

    async def _do(self, work: Callable[[], T]) -> T:
        """In a thread; what the system says becomes ours."""
        with _translated(self._root):
            return await asyncio.to_thread(work)


def _write(place: Path, data: bytes) -> None:
    """Whole or not at all; what is there already in that size is left."""
    with suppress(FileNotFoundError):
        if place.stat().st_size == len(data):
            return
    place.parent.mkdir(parents=True, exist_ok=True)
    coming = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    try:
        with coming.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        coming.replace(place)
    finally:
        coming.unlink(missing_ok=True)


@contextmanager
def _translated(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        said = "is full: make room, or name another folder" if full else f"cannot be used: {cause.strerror}"
        raise DependencyUnavailable(f"the folder for pictures, {root}, {said} (MODELMORA_OBJECTS_URL)") from cause
