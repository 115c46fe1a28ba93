"""What is registered, and the trace of every change."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
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
        """Raises ModelNotFound. What is one model's name and another's id is the latter."""
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
        """Raises Conflict where the model has the version already or had it before, ModelNotFound, and
        ValidationFailed for a parent that is made of it."""
        ...

    async def get(self, model: str, version: str) -> ModelVersion:
        """Of the model of that name or id; raises ModelNotFound, VersionNotFound."""
        ...

    async def removed(self, model: str, version: str) -> str | None:
        """The source of a version that was removed, with which alone it may come back; None where none was."""
        ...

    async def find(self, query: VersionQuery) -> Page[ModelVersion]:
        """Raises ValidationFailed for a cursor of another order."""
        ...

    async def change(self, version: ModelVersion, *, change: Change) -> None:
        """As `RegisteredModels.change`; raises VersionNotFound for one that is gone."""
        ...

    async def remove(self, version: ModelVersion, *, change: Change) -> None:
        """As it was read; raises PreconditionFailed, VersionNotFound. What was made of it still says so, and its number
        is kept for its source."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One entry as it becomes (new where its `row` is 1), and what the audit is told of it."""

    entry: Model | ModelVersion
    change: Change


class RegisteredTogether(Protocol):
    """Several changes that hold together."""

    async def write(self, writes: Sequence[Write]) -> None:
        """In this order, with their entries of the audit: all of them or none. Raises what `add` and `change` raise."""
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

    async def subjects(self, *, after: int) -> Sequence[str]:
        """What was changed since the entry of that number, each once."""
        ...

    async def head(self) -> int:
        """The number of the last entry; 0 where there is none."""
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
        """Whether it was there. What was asked for may still be done some seconds after an error."""
        ...

    def all(self) -> AsyncGenerator[StoredObject, None]:
        """Everything that is kept, by digest."""
        ...

    async def presign(self, *, expires_s: float) -> Upload | None:
        """None where the store takes nothing but by `put`."""
        ...

    async def adopt(self, upload: str) -> StoredObject:
        """Keeps what was put there meanwhile, under its digest; raises ValidationFailed where nothing was."""
        ...

    async def sweep(self, *, older_than: datetime) -> int:
        """Removes what uploads left that were cut off or never adopted; how many."""
        ...


class Holds(Protocol):
    """Which objects must stay and which are going: whoever registers and whoever collects agree on it here.

    What is held or referred to is not condemned, and what is condemned cannot be held: of two who ask at once the
    second sees what the first got.
    """

    async def hold(self, holder: str, digests: Collection[str], *, ttl_s: float) -> None:
        """They stay until they are let go, or as long as that. Raises Conflict where one of them is condemned."""
        ...

    async def let_go(self, holder: str) -> None:
        """Of all it holds; idempotent."""
        ...

    async def condemn(self, digests: Collection[str], *, ttl_s: float, by: str = "") -> Collection[str]:
        """Those of them that no version refers to and nobody holds: they may be removed now, until they are spared by
        everybody who condemned them."""
        ...

    async def condemned(self, digests: Collection[str]) -> Collection[str]:
        """Those of them that are going."""
        ...

    async def spare(self, digests: Collection[str], *, by: str = "") -> None:
        """They are removed, or stay; idempotent."""
        ...

    async def unlisted(self) -> Collection[str]:
        """The artifacts of versions of which the registry knows no files: those that were declared by their digest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request was answered."""

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)


class IdempotencyKeys(Protocol):
    """Requests that carry a key, and how they were answered; kept for a day."""

    async def begin(self, key: str, *, holder: str, route: str, digest: str, ttl_s: float) -> Answer | None:
        """How the request was answered; None where `holder` is to answer it, and to say so again within `ttl_s`.

        Raises Conflict while another answers it, ValidationFailed where the key came with another route or digest.
        """
        ...

    async def renew(self, key: str, *, holder: str, ttl_s: float) -> None:
        """Whoever answers is still at it."""
        ...

    async def keep(self, key: str, *, holder: str, answer: Answer) -> None:
        """So it was answered."""
        ...

    async def forget(self, key: str, *, holder: str) -> None:
        """It was not answered; the key is free."""
        ...
