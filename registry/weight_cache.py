"""The files of registered versions on this machine: fetched once, checked at each use, gone when room is needed."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from modelmora.domain.registry.artifact import MANIFEST, MOST_MANIFEST_BYTES, listed
from modelmora.errors import ArtifactCorrupt, DependencyUnavailable, ValidationFailed
from modelmora.ports import Objects

T = TypeVar("T")
log = structlog.get_logger(__name__)

UNDER_WAY, LOCKS = ".part-", ".locks"
LOOK_S = 0.05
TRIES = 3
"""To find it whole: what was fetched may be damaged at once, or be removed by another process before it is held."""


class WeightCache:
    """`<root>/<digest>/` holds an artifact's files and its manifest, and is whole when it is there at all.

    Any number of processes may share the root; its file system must know locks. `limit_bytes` 0: nothing ever goes.
    """

    def __init__(self, root: Path, objects: Objects, *, limit_bytes: int = 0) -> None:
        self._root = root
        self._objects = objects
        self._limit_bytes = limit_bytes

    @asynccontextmanager
    async def using(self, sha256: str) -> AsyncIterator[Path]:
        """The artifact's folder, every byte of it checked, which nobody removes until the block ends.

        What is not there is fetched, by one process while others wait; what is damaged is fetched once more, and told
        of in the log. Raises DependencyUnavailable (the store is away or does not have it; this disk is full),
        ArtifactCorrupt where what comes is not what was registered.
        """
        place, damaged = self.place(sha256), list[str]()
        for _ in range(TRIES):
            async with self._locked(sha256, fcntl.LOCK_SH):
                damaged = await self._looked_at(place)
                if not damaged:
                    await self.tidy(keep=sha256)
                    yield place
                    return
            async with self._locked(sha256, fcntl.LOCK_EX):
                with _translated(self._root):
                    await self._mend(sha256, place)
        said = f"{sha256} is damaged each time it was fetched: {', '.join(damaged[:5])}"
        raise ArtifactCorrupt(f"{said}; is the disk of {self._root} in order?")

    def place(self, sha256: str) -> Path:
        """Where the artifact's files are, or will be."""
        return self._root / sha256

    async def tidy(self, *, keep: str = "") -> list[str]:
        """Removes those that were not used for longest until the rest fits the limit; which. Those in use stay."""
        return await asyncio.to_thread(self._tidy, keep) if self._limit_bytes else []

    async def _looked_at(self, place: Path) -> list[str]:
        """What is damaged; where nothing is, it counts as used now."""
        with _translated(self._root):
            damaged = await asyncio.to_thread(_damaged, place, place.name)
            if not damaged:
                await asyncio.to_thread(os.utime, place)
            return damaged

    async def _mend(self, sha256: str, place: Path) -> None:
        """Fetches it, unless another process did so meanwhile."""
        damaged = await asyncio.to_thread(_damaged, place, sha256)
        if not damaged:
            return
        if await asyncio.to_thread(_remove, place):
            log.error("cache_damaged", artifact=sha256, files=damaged)
        await self._fetch(sha256, place)

    async def _fetch(self, sha256: str, place: Path) -> None:
        """Into a folder beside the place, which becomes it in one step."""
        for left in self._root.glob(f"{sha256}{UNDER_WAY}*"):  # of a process that was killed: nobody else fetches
            await asyncio.to_thread(_remove, left)
        into = Path(tempfile.mkdtemp(prefix=f"{sha256}{UNDER_WAY}", dir=self._root))
        try:
            manifest = await _twice(partial(self._read, sha256))
            files = _files(sha256, manifest)
            await self._make_room(sha256, {digest for _, digest in files})
            fetched, first = 0, dict[str, Path]()
            for path, digest in files:
                if digest in first:
                    await asyncio.to_thread(_link, first[digest], into / path)
                else:
                    fetched += await _twice(partial(self._download, digest, into / path))
                    first[digest] = into / path
            await asyncio.to_thread(_complete, into, manifest, place)
        finally:
            await asyncio.to_thread(_remove, into)
        log.info("artifact_fetched", artifact=sha256, bytes=fetched)

    async def _make_room(self, sha256: str, digests: Collection[str]) -> None:
        """For what is about to come. Raises DependencyUnavailable before anything does, where it cannot fit."""
        found = [await self._objects.find(digest) for digest in digests]
        size = sum(one.bytes for one in found if one is not None)  # what is not there is told of when it is fetched
        if self._limit_bytes:
            await asyncio.to_thread(self._tidy, sha256, size)
        free = shutil.disk_usage(self._root).free
        if size > free:
            said = f"has {free} bytes of room left and {sha256} has {size}: give it more, or a smaller limit"
            raise DependencyUnavailable(f"the cache of weights, {self._root}, {said}")

    async def _read(self, sha256: str) -> bytes:
        content = bytearray()
        async with aclosing(self._objects.get(sha256)) as chunks:
            async for chunk in chunks:
                content += chunk
                if len(content) > MOST_MANIFEST_BYTES:
                    raise ArtifactCorrupt(f"{sha256} is no list of files: it has more than {MOST_MANIFEST_BYTES} bytes")
        return bytes(content)

    async def _download(self, sha256: str, into: Path) -> int:
        """The bytes there were; the store digests them on their way."""
        into.parent.mkdir(parents=True, exist_ok=True)
        with into.open("wb") as file:
            async with aclosing(self._objects.get(sha256)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)
            return file.tell()

    def _tidy(self, keep: str, coming: int = 0) -> list[str]:
        with _translated(self._root):
            there = [path for path in self._root.iterdir() if path.name != LOCKS]
            for left in (path for path in there if UNDER_WAY in path.name):  # of processes that were killed
                self._removed(left, of=left.name.partition(UNDER_WAY)[0])
            whole = sorted((path for path in there if UNDER_WAY not in path.name), key=_used_at)
            sizes = {path: _size(path) for path in whole}
            over, gone = sum(sizes.values()) + coming - self._limit_bytes, list[str]()
            for path in whole:
                if over > 0 and path.name != keep and self._removed(path, of=path.name):
                    over -= sizes[path]
                    gone.append(path.name)
        if gone:
            log.info("cache_tidied", artifacts=gone)
        return gone

    def _removed(self, place: Path, *, of: str) -> bool:
        """Unless somebody uses or fetches the artifact."""
        with self._lock_file(of) as descriptor:
            if not _try_lock(descriptor, fcntl.LOCK_EX):
                return False
            _remove(place)
            return True

    @asynccontextmanager
    async def _locked(self, sha256: str, kind: int) -> AsyncIterator[None]:
        """Held by this task alone, or by those who only read; a process that dies gives it back."""
        with self._lock_file(sha256) as descriptor:
            while not _try_lock(descriptor, kind):  # noqa: ASYNC110 - another process holds it
                await asyncio.sleep(LOOK_S)
            yield

    @contextmanager
    def _lock_file(self, sha256: str) -> Iterator[int]:
        with _translated(self._root):
            folder = self._root / LOCKS
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / sha256).open("w")
        with file:
            yield file.fileno()


async def _twice(work: Callable[[], Awaitable[T]]) -> T:
    """What came damaged is asked for once more: a wire may be to blame. Raises ArtifactCorrupt the second time."""
    try:
        return await work()
    except ArtifactCorrupt as error:
        log.error("artifact_came_damaged", why=error.detail)
        return await work()


def _files(sha256: str, manifest: bytes) -> tuple[tuple[str, str], ...]:
    try:
        return listed(manifest)
    except ValidationFailed as cause:
        raise ArtifactCorrupt(f"{sha256} is no list of files: {cause.detail}") from cause


def _damaged(place: Path, sha256: str) -> list[str]:
    """The files that are not what the manifest says, of all that it names; the manifest itself where that is wrong."""
    try:
        manifest = (place / MANIFEST).read_bytes()
    except OSError:
        return [MANIFEST]
    if hashlib.sha256(manifest).hexdigest() != sha256:
        return [MANIFEST]
    return [path for path, digest in listed(manifest) if _digest(place / path) != digest]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _size(place: Path) -> int:
    """Nothing for what another process has removed meanwhile."""
    found: dict[int, int] = {}  # a file may have several paths
    for path in place.rglob("*"):
        with suppress(FileNotFoundError):
            told = path.stat()
            found[told.st_ino] = told.st_size if path.is_file() else 0
    return sum(found.values())


def _used_at(place: Path) -> float:
    try:
        return place.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _complete(made: Path, manifest: bytes, place: Path) -> None:
    (made / MANIFEST).write_bytes(manifest)
    made.chmod(0o755)
    made.replace(place)


def _link(first: Path, path: Path) -> None:
    """The same file under another path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.hardlink_to(first)


def _remove(place: Path) -> bool:
    """Whether it was there."""
    there = place.exists()
    shutil.rmtree(place, ignore_errors=True)
    return there


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _translated(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        said = "has no room left: give it more, or a smaller limit" if full else f"cannot be used: {cause.strerror}"
        raise DependencyUnavailable(f"the cache of weights, {root}, {said}") from cause
