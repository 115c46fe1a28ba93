"""Files in the object store: brought, read, and removed once nothing refers to them."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from modelmora.domain.registry.artifact import MOST_MANIFEST_BYTES, check_sha256, listed
from modelmora.errors import CapabilityMissing, Conflict, DependencyUnavailable, ValidationFailed
from modelmora.ports import Holds, Leases, Objects, StoredObject, Upload
from modelmora.usecases.registry.asking import together

OLD_S = 3600.0
"""What nothing refers to stays that long: it may be waiting for the rest of its version."""
LEFT_S = 24 * 3600.0
"""What an upload left stays that long: nobody can tell a slow one from one that was cut off."""
LONGEST_S = 10 * 365 * 24 * 3600.0
EXPIRES_S = 3600.0
"""How long somebody may put a file past us."""
LEASE, LEASE_S, BATCH = "gc", 180.0, 64
CONDEMNED_S, REMOVED_S = 300.0, 120.0
"""So long a batch may take to be removed, and so long nobody can refer to it: what the store was asked for at last may
still happen after the first."""
_UPLOAD = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """How many files were removed, and how many bytes; leftovers of uploads count without their bytes."""

    removed: int
    bytes: int


class RegistryFiles:
    """The files' part of the registry."""

    def __init__(self, objects: Objects, holds: Holds, leases: Leases, *, clock: Callable[[], datetime]) -> None:
        self._objects = objects
        self._holds = holds
        self._leases = leases
        self._clock = clock

    async def put(self, chunks: AsyncIterable[bytes], *, sha256: str | None = None) -> StoredObject:
        """See `Objects.put`; raises Conflict for one that was being removed as it came."""
        if sha256 is not None:
            check_sha256(sha256, field="sha256")
        return await self._kept(await self._objects.put(chunks, sha256=sha256))

    async def find(self, sha256: str) -> StoredObject | None:
        """Raises ValidationFailed for what is no digest."""
        check_sha256(sha256, field="sha256")
        return await self._objects.find(sha256)

    def get(self, sha256: str) -> AsyncGenerator[bytes, None]:
        """See `Objects.get`."""
        check_sha256(sha256, field="sha256")
        return self._objects.get(sha256)

    async def presign(self) -> Upload:
        """Raises CapabilityMissing where the store takes nothing but through us."""
        upload = await self._objects.presign(expires_s=EXPIRES_S)
        if upload is None:
            said = "the object store takes no uploads past ModelMora; PUT /api/v1/artifacts/{sha256} takes them"
            raise CapabilityMissing(said, field="MODELMORA_OBJECTS_URL", expected="s3://...")
        return upload

    async def adopt(self, name: str) -> StoredObject:
        """What somebody put by himself, from now on under its digest; raises ValidationFailed where nothing was."""
        if not _UPLOAD.fullmatch(name):
            said, expected = "not the name of an upload", "the name that POST /api/v1/artifacts/uploads gave"
            raise ValidationFailed(said, field="name", found=name[:80], expected=expected)
        return await self._kept(await self._objects.adopt(name))

    async def collect(self, *, older_than_s: float | None = None) -> Collected:
        """Removes what no version refers to, nobody is registering and is older than that; what uploads left as well.

        By default an hour, and a day for uploads. Raises Conflict while another collects.
        """
        if older_than_s is not None and not 0.0 <= older_than_s <= LONGEST_S:
            expected = f"seconds, 0 to {LONGEST_S:.0f}"
            raise ValidationFailed("no age", field="older_than_s", found=str(older_than_s), expected=expected)
        now, holder = self._clock(), secrets.token_hex(8)
        before = now - timedelta(seconds=OLD_S if older_than_s is None else older_than_s)
        await self._lease(holder)
        try:
            removed = [size async for size in self._removed(before, holder)]
            left = now - timedelta(seconds=LEFT_S if older_than_s is None else older_than_s)
            swept = await self._objects.sweep(older_than=left)
        finally:
            await asyncio.shield(self._leases.release(LEASE, holder))
        return Collected(removed=len(removed) + swept, bytes=sum(removed))

    async def _removed(self, before: datetime, holder: str) -> AsyncIterator[int]:
        """The size of each file that was removed, in batches; the lease is renewed with each."""
        async for batch in _batches(self._objects.all(), before):
            await self._lease(holder)
            listed_elsewhere = await self._listed_elsewhere()
            condemned = await self._holds.condemn(
                [one.sha256 for one in batch if one.sha256 not in listed_elsewhere], ttl_s=CONDEMNED_S, by=holder
            )
            sizes = await self._remove_all(condemned, before)
            await self._holds.spare(condemned, by=holder)  # not where that failed: it may yet be done
            for size in sizes:
                if size is not None:
                    yield size

    async def _remove_all(self, digests: Collection[str], before: datetime) -> list[int | None]:
        try:
            async with asyncio.timeout(REMOVED_S):
                return await together(lambda sha256: self._remove(sha256, before), digests)
        except TimeoutError as cause:
            raise DependencyUnavailable("the object store takes too long to remove what it is asked to") from cause

    async def _remove(self, sha256: str, before: datetime) -> int | None:
        """None for what was put there anew meanwhile, or was gone."""
        found = await self._objects.find(sha256)
        if found is None or found.changed_at >= before:
            return None
        return found.bytes if await self._objects.remove(sha256) else None

    async def _listed_elsewhere(self) -> set[str]:
        """The files of artifacts that only the store knows: of what was declared by its digest."""
        files: set[str] = set()
        for artifact in await self._holds.unlisted():
            if await self._objects.find(artifact) is not None:
                files |= await self._listed(artifact)
        return files

    async def _listed(self, artifact: str) -> set[str]:
        """Empty for what was declared as an artifact and is none."""
        try:
            return {sha256 for _, sha256 in listed(await self._read(artifact))}
        except ValidationFailed:
            return set()

    async def _read(self, sha256: str) -> bytes:
        content = bytearray()
        async for chunk in self._objects.get(sha256):
            content += chunk
            if len(content) > MOST_MANIFEST_BYTES:
                raise ValidationFailed(f"{sha256} is no list of files", field="source", found=sha256)
        return bytes(content)

    async def _kept(self, stored: StoredObject) -> StoredObject:
        """Raises Conflict where it was condemned before it came, for then it may be gone the next moment."""
        if await self._holds.condemned([stored.sha256]) or await self._objects.find(stored.sha256) is None:
            said = f"{stored.sha256} was being removed as it came; send it again"
            raise Conflict(said, field="sha256", found=stored.sha256, retry_after_s=1.0)
        return stored

    async def _lease(self, holder: str) -> None:
        if await self._leases.acquire(LEASE, holder, ttl_s=LEASE_S) is None:
            raise Conflict("somebody else is removing what nothing refers to; ask again later", retry_after_s=LEASE_S)


async def _batches(stored: AsyncGenerator[StoredObject, None], before: datetime) -> AsyncIterator[list[StoredObject]]:
    batch: list[StoredObject] = []
    async for one in stored:
        if one.changed_at < before:
            batch.append(one)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
