"""Files on this machine's disk, as they go to a server's object store and come from it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

from modelmora.domain.registry.artifact import ArtifactFile
from modelmora.errors import InvalidInput, ValidationFailed
from modelmora.imports.files import LocalFile, unreadable

CHUNK = 2**20
Moved: TypeAlias = Callable[[int], None]
"""Told how many bytes of a file are done."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Digested:
    """A file here as it was when its digest was taken."""

    file: ArtifactFile
    at: Path
    mtime_ns: int


async def in_thread(work: Callable[..., T], *given: Any) -> T:
    """To its end, also where whoever waits is cancelled: no file is closed while it is read or written."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *given))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


async def digested(file: LocalFile, moved: Moved) -> Digested:
    """Read in threads; raises InvalidInput."""
    digest, count = hashlib.sha256(), 0
    try:
        with file.at.open("rb") as content:
            found = os.fstat(content.fileno())
            while chunk := await in_thread(_read, content, digest):
                count += len(chunk)
                moved(count)
    except OSError as cause:
        raise unreadable(cause, file.at) from cause
    described = ArtifactFile(path=file.path, bytes=count, sha256=digest.hexdigest())
    return Digested(file=described, at=file.at, mtime_ns=found.st_mtime_ns)


def _read(content: IO[bytes], digest: hashlib._Hash) -> bytes:
    chunk = content.read(CHUNK)
    digest.update(chunk)
    return chunk


async def chunks(one: Digested, moved: Moved) -> AsyncGenerator[bytes, None]:
    """The content that was digested; raises ValidationFailed where it is another by now."""
    sent = 0
    try:
        with one.at.open("rb") as content:
            found = os.fstat(content.fileno())
            if (found.st_size, found.st_mtime_ns) != (one.file.bytes, one.mtime_ns):
                raise _changed(one)
            moved(0)
            while sent < one.file.bytes:
                chunk = await in_thread(content.read, min(CHUNK, one.file.bytes - sent))
                if not chunk:
                    raise _changed(one)
                yield chunk
                sent += len(chunk)
                moved(sent)
    except OSError as cause:
        raise unreadable(cause, one.at) from cause


def _changed(one: Digested) -> ValidationFailed:
    said = f"{one.file.path} was changed while it was registered; begin again"
    return ValidationFailed(said, field="path", found=str(one.at), expected="files that stay as they are")


def target_of(folder: Path, path: str) -> Path:
    """Where a file goes, its folder made; raises ValidationFailed where a link there would lead out."""
    target, whole = folder / path, folder.resolve()
    if not target.parent.resolve().is_relative_to(whole):
        said = f"{path} would be written outside of {folder}, through a link there"
        raise ValidationFailed(said, field="folder", found=str(target.parent.resolve()), expected=str(whole))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise _unwritable(cause, target.parent) from cause
    return target


async def is_whole(target: Path, file: ArtifactFile) -> bool:
    """Whether it is there already, as it should be."""
    if await in_thread(_size, target) != file.bytes:
        return False
    there = LocalFile(path=file.path, at=target, bytes=file.bytes)
    return (await digested(there, lambda _: None)).file.sha256 == file.sha256


@contextmanager
def place(target: Path) -> Iterator[tuple[Callable[[bytes], None], Callable[[], None]]]:
    """What writes to a file beside `target`, and what puts that there; without the latter it goes.

    Raises InvalidInput.
    """
    name = target.parent / f".{target.name[:180]}.{uuid.uuid4().hex}.part"
    try:
        output = os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb", buffering=0)
    except OSError as cause:
        raise _unwritable(cause, target) from cause
    try:
        with output:
            yield (lambda chunk: _write(output, chunk, target)), (lambda: _put_in_place(output, name, target))
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _size(path: Path) -> int:
    """-1 where there is no file."""
    return path.stat().st_size if path.is_file() else -1


def _write(output: IO[bytes], chunk: bytes, target: Path) -> None:
    try:
        left = memoryview(chunk)
        while left:
            left = left[output.write(left) :]
    except OSError as cause:
        raise _unwritable(cause, target) from cause


def _put_in_place(output: IO[bytes], name: Path, target: Path) -> None:
    try:
        output.close()
        os.replace(name, target)
    except OSError as cause:
        raise _unwritable(cause, target) from cause


def _unwritable(cause: OSError, path: Path) -> InvalidInput:
    return InvalidInput(f"cannot write {path}: {cause.strerror or cause}", field="folder", found=str(path))
