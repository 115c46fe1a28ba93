"""Files on their way to and from a server's object store: streamed, digested as they go, four at a time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from modelmora.client import flow
from modelmora.client.control import Control
from modelmora.client.registered import Stage, Transfer
from modelmora.client.registry_disk import CHUNK, Digested, chunks, digested, in_thread, is_whole, place, target_of
from modelmora.client.retry import Retrier
from modelmora.domain.registry.artifact import ArtifactFile
from modelmora.errors import ArtifactCorrupt, Conflict, ModelMoraError, NotFound, Overloaded
from modelmora.imports.files import LocalFile

AT_ONCE = 4
SILENCE_S = 120.0
"""The longest time in which nothing of a file moves."""

T = TypeVar("T")
R = TypeVar("R")
Tell = Callable[[Transfer], None]


@dataclass(slots=True)
class Tally:
    """How much of a stage is done, over files that may begin anew; `moved_at` is when each last got further."""

    stage: Stage
    total: int
    tell: Tell
    moved_at: dict[str, float] = field(default_factory=dict)
    _done: dict[str, int] = field(default_factory=dict)
    _furthest: dict[str, int] = field(default_factory=dict)
    _sum: int = 0

    def to(self, name: str, done: int) -> None:
        self._sum += done - self._done.get(name, 0)
        self._done[name] = done
        if done > self._furthest.get(name, 0):
            self._furthest[name], self.moved_at[name] = done, time.monotonic()
        self.tell(Transfer(stage=self.stage, done_bytes=self._sum, total_bytes=self.total, file=name))


@dataclass(frozen=True, slots=True)
class Carrier:
    """Moves files between here and one server.

    What fails for a passing reason is tried again for `patience_s` since it last worked.
    """

    control: Control
    retrier: Retrier
    patience_s: float

    async def digested(self, files: Iterable[LocalFile], tell: Tell) -> list[Digested]:
        """All of them, in order; raises InvalidInput for one that cannot be read."""
        files = list(files)
        tally = Tally("hashing", sum(file.bytes for file in files), tell)

        async def work(file: LocalFile) -> Digested:
            return await digested(file, lambda done: tally.to(file.path, done))

        return [one async for one in _each(files, work)]

    async def upload(self, files: Iterable[Digested], tell: Tell) -> None:
        """What the server does not have yet; each content goes once, whatever it is called.

        Raises ValidationFailed for a file that was changed meanwhile, and what the server says.
        """
        by_content = {one.file.sha256: one for one in files}

        async def absent(one: Digested) -> Digested | None:
            return None if await self._is_there(one) else one

        missing = [one async for one in _each(by_content.values(), absent) if one is not None]
        tally = Tally("uploading", sum(one.file.bytes for one in missing), tell)

        async def send(one: Digested) -> None:
            await self._patiently(one.file, tally, lambda: self._put(one, tally))

        async for _ in _each(missing, send):
            pass

    async def download(self, version: str, files: Iterable[ArtifactFile], folder: Path, tell: Tell) -> int:
        """Into the folder, in which files that are whole already stay; how many came. `version` is the path of it.

        Raises ArtifactCorrupt where other bytes came than were registered, InvalidInput for what cannot be written.
        """
        files = list(files)
        tally = Tally("downloading", sum(file.bytes for file in files), tell)

        async def fetch(file: ArtifactFile) -> bool:
            target = await in_thread(target_of, folder, file.path)
            if await is_whole(target, file):
                tally.to(file.path, file.bytes)
                return False
            await self._patiently(file, tally, lambda: self._get(version, file, target, tally))
            return True

        return sum([came async for came in _each(files, fetch)])

    async def _is_there(self, one: Digested) -> bool:
        try:
            await self.control.ask("HEAD", f"/api/v1/artifacts/{one.file.sha256}")
        except ModelMoraError as error:
            if isinstance(error, NotFound) or (error.field == "url" and error.code == "capability_missing"):
                return False  # an answer to HEAD has no body that could tell more than its status
            raise
        return True

    async def _put(self, one: Digested, tally: Tally) -> None:
        headers = {"content-length": str(one.file.bytes), "content-type": "application/octet-stream"}
        path = f"/api/v1/artifacts/{one.file.sha256}"
        async with aclosing(chunks(one, lambda done: tally.to(one.file.path, done))) as content:
            try:
                await self.control.connection.send("PUT", path, timeout=SILENCE_S, headers=headers, content=content)
            except Conflict as conflict:  # it was removed, as nobody's, while it came
                raise Overloaded(conflict.detail, retry_after_s=conflict.retry_after_s) from conflict

    async def _get(self, version: str, file: ArtifactFile, target: Path, tally: Tally) -> None:
        """Written beside its place, and put there once it is whole."""
        path = f"{version}/files/{quote(file.path)}"
        with place(target) as (write, done):
            async with self.control.connection.stream("GET", path, timeout=SILENCE_S) as response:
                digest, count = hashlib.sha256(), 0
                async for chunk in response.aiter_bytes(CHUNK):
                    count += len(chunk)
                    if count > file.bytes:
                        break
                    digest.update(chunk)
                    await in_thread(write, chunk)
                    tally.to(file.path, count)
            if (count, digest.hexdigest()) != (file.bytes, file.sha256):
                said = f"{file.path} did not come as it was registered"
                raise ArtifactCorrupt(said, field="sha256", found=digest.hexdigest(), expected=file.sha256)
            await in_thread(done)

    async def _patiently(self, file: ArtifactFile, tally: Tally, work: Callable[[], Awaitable[None]]) -> None:
        """Tried again while that may help; whoever gets further each time has all the time it needs."""
        attempt, begun = 0, time.monotonic()
        while True:
            try:
                return await work()
            except ModelMoraError as error:
                moved_at = tally.moved_at.get(file.path, begun)
                await self.retrier.pause(attempt, error, deadline=moved_at + self.patience_s)
                attempt += 1


async def _each(items: Iterable[T], work: Callable[[T], Awaitable[R]]) -> AsyncGenerator[R, None]:
    """What work makes of each, in order."""
    async with aclosing(flow.spread([*items], work, concurrency=AT_ONCE)) as done:
        async for _, result in done:
            yield result
