"""The ports `ArchiveWriter` and `ArchiveReader` over an uncompressed tar file: pictures and weights hardly shrink."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import tarfile
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from modelmora.errors import Conflict, DependencyUnavailable, ValidationFailed
from modelmora.ports import Member

T = TypeVar("T")

CHUNK_BYTES = 2**20
END = bytes(2 * tarfile.BLOCKSIZE)


class TarWriter:
    """For this user alone; under its name only when it is whole. Leaving with an error leaves nothing behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    async def __aenter__(self) -> Self:
        """Raises Conflict where there is such a file, DependencyUnavailable where none can be made."""
        self._file = await self._do(self._create)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._do(self._discard if kind is not None else self._keep)

    async def add(self, name: str, chunks: AsyncIterable[bytes]) -> Member:
        """See the port. How long it is stands before it, and is known behind it."""
        file, sha256, size = self._open_file(), hashlib.sha256(), 0
        start = file.tell()
        try:
            await self._do(lambda: file.write(_head(name, 0)))
            async for chunk in chunks:
                sha256.update(chunk)
                size += len(chunk)
                await self._do(file.write, chunk)
            await self._do(lambda: self._finish(start, name, size))
        except BaseException:
            file.seek(start)
            file.truncate()
            raise
        return Member(size, sha256.hexdigest())

    def _create(self) -> BinaryIO:
        self._refuse_there()
        descriptor, self._coming = tempfile.mkstemp(dir=self._path.parent, prefix=f"{self._path.name}.", suffix=".part")
        return open(descriptor, "w+b")

    def _refuse_there(self) -> None:
        if self._path.exists():
            raise Conflict(f"{self._path} is there already; name another file", field="FILE", found=str(self._path))

    def _finish(self, start: int, name: str, size: int) -> None:
        file = self._open_file()
        file.write(bytes(-size % tarfile.BLOCKSIZE))
        file.seek(start)
        file.write(_head(name, size))
        file.seek(0, os.SEEK_END)

    def _keep(self) -> None:
        try:
            file = self._open_file()
            file.write(END)
            file.flush()
            os.fsync(file.fileno())
            self._refuse_there()
            Path(self._coming).rename(self._path)
        finally:
            self._discard()

    def _discard(self) -> None:
        self._open_file().close()
        Path(self._coming).unlink(missing_ok=True)

    def _open_file(self) -> BinaryIO:
        if self._file is None:
            raise RuntimeError("enter the archive first")
        return self._file

    async def _do(self, work: Callable[..., T], *given: bytes) -> T:
        with _translated(self._path):
            return await asyncio.to_thread(work, *given)


class TarReader:
    """Members by their names. Nothing is unpacked: what names say does not become a path."""

    def __init__(self, path: Path) -> None:
        """Raises ValidationFailed for what is no archive, DependencyUnavailable for what cannot be read."""
        self._path = path
        with _translated(path):
            try:
                with tarfile.open(path, "r:") as archive:
                    self._places = {one.name: (one.offset_data, one.size) for one in archive if one.isreg()}
            except FileNotFoundError:
                raise ValidationFailed(f"there is no {path}", field="FILE", found=str(path)) from None
            except tarfile.TarError as cause:
                raise ValidationFailed(f"{path} is no backup: {cause}", field="FILE", found=str(path)) from cause

    def names(self) -> Sequence[str]:
        """See the port."""
        return tuple(self._places)

    async def read(self, name: str) -> AsyncGenerator[bytes, None]:
        """See the port."""
        place = self._places.get(name)
        if place is None:
            raise ValidationFailed(f"{self._path} has no {name}", field="FILE", found=str(self._path))
        offset, left = place
        with _translated(self._path):
            file = await asyncio.to_thread(self._path.open, "rb")
        with file:
            file.seek(offset)
            while left:
                with _translated(self._path):
                    chunk = await asyncio.to_thread(file.read, min(left, CHUNK_BYTES))
                if not chunk:
                    raise ValidationFailed(f"{self._path} is cut off in {name}", field="FILE", found=str(self._path))
                left -= len(chunk)
                yield chunk


def _head(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.GNU_FORMAT)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as cause:
        raise ValidationFailed(f"there is no folder {path.parent}", field="FILE", found=str(path)) from cause
    except OSError as cause:
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        said = "the disk is full: make room, or name a file on another" if full else str(cause.strerror)
        raise DependencyUnavailable(f"{path}: {said}") from cause
