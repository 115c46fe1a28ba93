"""What is registered, and the trace of every change."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from modelmora.domain.registry.audit import AuditEntry, Broken, Change
from modelmora.domain.registry.entries import Model, ModelVersion
from modelmora.domain.registry.lineage import Lineage, Node
from modelmora.domain.registry.pages import AuditQuery, ModelQuery, Page, VersionQuery


class RegisteredModels(Protocol):
    """Models by name. Each change keeps its entry of the audit in the same transaction: both or neither."""

    async def add(self, model: Model, *, change: Change) -> None:
        """Raises Conflict where the name is taken."""
        ...

    async def get(self, name_or_id: str) -> Model:
        """Raises ModelNotFound."""
        ...

    async def find(self, query: ModelQuery) -> Page[Model]:
        """Raises ValidationFailed for a cursor of another order."""
        ...

    async def change(self, model: Model, *, change: Change) -> None:
        """Its `row` is one above that it was read with; the name stays. Raises PreconditionFailed where it was changed
        meanwhile, ModelNotFound."""
        ...

    async def remove(self, model: Model, *, change: Change) -> None:
        """As it was read; raises Conflict while it has versions, PreconditionFailed, ModelNotFound."""
        ...


class RegisteredVersions(Protocol):
    """Versions of models; changes as in `RegisteredModels`."""

    async def add(self, version: ModelVersion, *, change: Change) -> None:
        """Raises Conflict where the model has the version already, ModelNotFound."""
        ...

    async def get(self, model: str, version: str) -> ModelVersion:
        """Raises ModelNotFound, VersionNotFound."""
        ...

    async def find(self, query: VersionQuery) -> Page[ModelVersion]:
        """Raises ValidationFailed for a cursor of another order."""
        ...

    async def change(self, version: ModelVersion, *, change: Change) -> None:
        """As `RegisteredModels.change`; raises VersionNotFound for one that is gone."""
        ...

    async def remove(self, version: ModelVersion, *, change: Change) -> None:
        """As it was read; raises PreconditionFailed, VersionNotFound. What was made of it still says so."""
        ...


class Lineages(Protocol):
    """Where versions come from."""

    async def around(self, node: Node) -> Lineage:
        """All ancestors and descendants of the node, with the edges among them; empty where there are none."""
        ...


class AuditLog(Protocol):
    """Every change of what is registered, in order; entries are never changed or removed."""

    async def entries(self, query: AuditQuery) -> Page[AuditEntry]:
        """Raises ValidationFailed for a cursor of another order."""
        ...

    async def broken(self) -> Broken | None:
        """Where the chain breaks first; None where it holds up to the last entry that was written."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """A file in the object store; `changed_at` is when it was last put there."""

    sha256: str
    bytes: int
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Where somebody may put a file by himself, with one PUT, until it expires."""

    name: str
    url: str
    expires_at: datetime


class Objects(Protocol):
    """Files of any size by their SHA-256, each kept once. Memory is bounded whatever their size.

    Everything raises DependencyUnavailable where the store is away, full, or does not have what is asked for.
    """

    async def put(self, chunks: AsyncIterable[bytes], *, sha256: str | None = None) -> StoredObject:
        """The digest is computed on the way. An upload that breaks, or whose caller leaves, leaves nothing behind.

        Raises ValidationFailed where other bytes came than those announced by `sha256`, and what the chunks raise.
        """
        ...

    def get(self, sha256: str) -> AsyncGenerator[bytes, None]:
        """The bytes, digested on their way; raises ArtifactCorrupt at their end where they are not those put."""
        ...

    async def find(self, sha256: str) -> StoredObject | None: ...

    async def remove(self, sha256: str) -> bool:
        """Whether it was there."""
        ...

    def all(self) -> AsyncGenerator[StoredObject, None]:
        """Everything that is kept, by digest."""
        ...

    async def presign(self, *, expires_s: float) -> Upload | None:
        """None where the store takes nothing but by `put`."""
        ...

    async def adopt(self, upload: str) -> StoredObject:
        """Keeps what was put there meanwhile, under its digest."""
        ...

    async def sweep(self, *, older_than: datetime) -> int:
        """Removes what uploads left that were cut off or never adopted; how many."""
        ...
