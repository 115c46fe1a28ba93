"""What is registered, and the trace of every change."""

from __future__ import annotations

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
