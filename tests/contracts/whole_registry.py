"""A registry over a real database and a real object store, with numbers for ids and a clock that ticks."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from adapters.database import Database
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import ModelSpec
from modelmora.domain.registry.artifact import ArtifactFile
from modelmora.domain.registry.entries import ModelVersion, Running
from modelmora.domain.registry.pages import AuditQuery, VersionQuery
from modelmora.domain.registry.provenance import TrainingMetadata
from modelmora.ports import Objects
from modelmora.usecases.registry import (
    Actor,
    Idempotency,
    Registration,
    RegistryAudit,
    RegistryFiles,
    RegistryModels,
    RegistryVersions,
)
from modelmora.usecases.registry.declared import Refused
from modelmora.usecases.registry.roster import Roster
from tests.fakes import FakeHost
from tests.registered import NOW
from wiring.registry import declare_in, now, registry_of

ANN = Actor(name="ann", request_id="r-1")


@dataclass
class Registry:
    """All parts but those that need a runner."""

    database: Database
    objects: Objects
    models: RegistryModels
    versions: RegistryVersions
    files: RegistryFiles
    audit: RegistryAudit
    once: Idempotency
    new_id: Callable[[], str]
    clock: Callable[[], datetime]

    @classmethod
    def over(cls, database: Database, objects: Objects, *, first_id: int = 0) -> Registry:
        ids, seconds = itertools.count(first_id), itertools.count()

        def new_id() -> str:
            return f"id-{next(ids):04d}"

        def clock() -> datetime:
            return NOW + timedelta(seconds=next(seconds))

        nothing = Catalogue((), ())
        roster = Roster(nothing, database.models, database.versions, database.audit)
        whole = registry_of(database, objects, roster, FakeHost(), new_id=new_id, clock=clock)
        return cls(
            database=database,
            objects=objects,
            models=whole.models,
            versions=whole.versions,
            files=RegistryFiles(objects, database.holds, database.leases, clock=now),  # the store's files have its time
            audit=whole.audit,
            once=whole.once,
            new_id=new_id,
            clock=clock,
        )

    async def declare(self, *specs: ModelSpec) -> tuple[Refused, ...]:
        return await declare_in(self.database, specs, new_id=self.new_id, clock=self.clock)

    async def bring(self, *contents: bytes) -> tuple[ArtifactFile, ...]:
        """Files in the store."""
        return tuple([await self.file(f"file-{number}", content) for number, content in enumerate(contents)])

    async def file(self, path: str, content: bytes) -> ArtifactFile:
        stored = await self.objects.put(chunked(content))
        return ArtifactFile(path=path, bytes=stored.bytes, sha256=stored.sha256)

    async def register(
        self, version: str = "1.0.0", *, parent: str | None = None, content: bytes = b"w", model: str = "birds"
    ) -> ModelVersion:
        given = Registration(
            version=version,
            files=await self.bring(content),
            running=Running(provider="classifier"),
            training=TrainingMetadata(parent=parent),
        )
        return await self.versions.register(model, given, by=ANN)

    async def approved(self, version: str = "1.0.0", *, content: bytes = b"w") -> ModelVersion:
        return await self.versions.validated(await self.register(version, content=content), by=ANN)

    async def told(self) -> list[tuple[str, str, str]]:
        """Who did what to what; the chain of it holds."""
        entries = (await self.audit.entries(AuditQuery())).items
        assert (await self.audit.verify()).intact
        return [(entry.change.actor, entry.change.action, entry.change.subject) for entry in entries]

    async def states(self, model: str = "birds") -> dict[str, str]:
        return {one.version: one.state for one in (await self.versions.find(VersionQuery(model=model))).items}

    async def kept(self) -> list[str]:
        return [one.sha256 async for one in self.objects.all()]


async def chunked(content: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@asynccontextmanager
async def opened(urls: Sequence[str], objects: Objects) -> AsyncIterator[list[Registry]]:
    """Registries as several processes have them: a connection each to the same database."""
    databases = [await Database.open(url) for url in urls]
    try:
        yield [Registry.over(one, objects, first_id=1_000 * number) for number, one in enumerate(databases)]
    finally:
        for one in databases:
            await one.close()
