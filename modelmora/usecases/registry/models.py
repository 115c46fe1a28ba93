"""Models as entries of the registry: added, found, described, removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from modelmora.domain.models import ModelType
from modelmora.domain.registry.entries import Model
from modelmora.domain.registry.pages import ModelQuery, Page
from modelmora.domain.registry.texts import check_text
from modelmora.ports import RegisteredModels
from modelmora.usecases.registry.asking import added, whatever
from modelmora.usecases.registry.trace import Actor, change, refuse_other


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment:
    """What somebody wants to be otherwise; None stays as it is."""

    description: str | None = None
    tags: tuple[str, ...] | None = None
    owner: str | None = None


class RegistryModels:
    """The models' half of the registry."""

    def __init__(self, models: RegisteredModels, *, new_id: Callable[[], str], clock: Callable[[], datetime]) -> None:
        self._models = models
        self._new_id = new_id
        self._clock = clock

    async def add(
        self,
        name: str,
        type_: ModelType,
        *,
        by: Actor,
        description: str = "",
        tags: tuple[str, ...] = (),
        owner: str = "",
        id: str | None = None,
    ) -> Model:
        """With an `id`, who adds it again is told what there is. Raises ValidationFailed naming the field, Conflict
        where the name is taken."""
        now = self._clock()
        model = Model(
            id=id or self._new_id(), name=name, type=type_, description=description, tags=tags, owner=owner or by.name,
            created_at=now, changed_at=now,
        )  # fmt: skip
        adding = self._models.add(model, change=change(by, "model.register", None, model))
        return await added(adding, model, lambda: self._models.get(name))

    async def get(self, name_or_id: str) -> Model:
        """Raises ModelNotFound."""
        check_text(name_or_id, field="model")
        return await self._models.get(name_or_id)

    async def find(self, query: ModelQuery) -> Page[Model]:
        """Raises ValidationFailed for a cursor of another order."""
        return await self._models.find(query)

    @whatever
    async def amend(self, name_or_id: str, amendment: Amendment, *, by: Actor, row: int | None = None) -> Model:
        """Raises PreconditionFailed, ModelNotFound, ValidationFailed."""
        before = await self.get(name_or_id)
        refuse_other(before, row)
        wanted = {
            name: value
            for name in ("description", "tags", "owner")
            if (value := getattr(amendment, name)) is not None and value != getattr(before, name)
        }
        if not wanted:
            return before
        after = replace(before, **wanted, changed_at=self._clock(), row=before.row + 1)
        await self._models.change(after, change=change(by, "model.amend", before, after))
        return after

    @whatever
    async def remove(self, name_or_id: str, *, by: Actor, row: int | None = None) -> None:
        """Raises Conflict while it has versions, PreconditionFailed, ModelNotFound."""
        model = await self.get(name_or_id)
        refuse_other(model, row)
        await self._models.remove(model, change=change(by, "model.remove", model, None))
