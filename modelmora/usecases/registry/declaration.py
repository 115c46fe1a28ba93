"""What ModelRegistry.yaml declares becomes entries of the registry, at each start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import structlog

from modelmora.domain.models import ModelSpec
from modelmora.domain.registry.entries import Model, ModelVersion
from modelmora.domain.registry.pages import VersionQuery
from modelmora.errors import Conflict, ModelNotFound, NotFound, StateError
from modelmora.ports import RegisteredModels, RegisteredTogether, RegisteredVersions
from modelmora.usecases.registry.asking import everything
from modelmora.usecases.registry.declared import FILE, Decision, Name, Refused
from modelmora.usecases.registry.trace import Actor

log = structlog.get_logger(__name__)

TRIES = 10
"""Of one name: each time somebody else was quicker, what is there now is looked at anew."""


async def declare(
    specs: Sequence[ModelSpec],
    *,
    models: RegisteredModels,
    versions: RegisteredVersions,
    together: RegisteredTogether,
    new_id: Callable[[], str],
    clock: Callable[[], datetime],
) -> tuple[Refused, ...]:
    """Brings the registry to what is declared; what does not hold is logged and returned, and the rest goes on.

    All about one name is changed at once or not at all. Repeating it changes nothing and leaves no trace; any number
    of processes may do it at once. Raises DependencyUnavailable.
    """
    by = Actor(name=FILE, request_id=new_id())
    importing = _Import(models, versions, together, new_id=new_id, clock=clock, by=by)
    of_name: dict[str, list[ModelSpec]] = {}
    for spec in specs:
        of_name.setdefault(spec.name, []).append(spec)
    refused: list[Refused] = []
    for name, earlier in (await importing.declared_before(of_name)).items():
        refused += await importing.name(name, of_name.get(name, ()), earlier)
    for one in refused:
        log.error("declaration_refused", model=one.key, code=one.error.code, why=one.error.detail)
    return tuple(refused)


class _Import:
    """One reading of the file."""

    def __init__(
        self,
        models: RegisteredModels,
        versions: RegisteredVersions,
        together: RegisteredTogether,
        *,
        new_id: Callable[[], str],
        clock: Callable[[], datetime],
        by: Actor,
    ) -> None:
        self._models = models
        self._versions = versions
        self._together = together
        self._new_id = new_id
        self._clock = clock
        self._by = by

    async def declared_before(self, names: Mapping[str, object]) -> dict[str, set[str]]:
        """The numbers that were declared at the last start, by name; these names among them."""
        found: dict[str, set[str]] = {name: set() for name in names}
        async for version in everything(self._versions.find, VersionQuery(declared=True)):
            found.setdefault(version.model, set()).add(version.version)
        return found

    async def name(self, name: str, specs: Sequence[ModelSpec], earlier: set[str]) -> list[Refused]:
        """One name, as often as somebody else is quicker."""
        for _ in range(TRIES):
            decision = Decision(await self._read(name, specs, earlier), at=self._clock(), by=self._by)
            try:
                if decision.writes:
                    await self._together.write(decision.writes)
            except (StateError, NotFound):
                continue
            return decision.refused
        busy = Conflict(f"{name} keeps being changed by others; it is declared at the next start")
        return [Refused(key=name, error=busy)]

    async def _read(self, name: str, specs: Sequence[ModelSpec], earlier: set[str]) -> Name:
        model = await self._model(name)
        numbers = {*earlier, *(spec.version for spec in specs), *((model.current,) if model and model.current else ())}
        found = {number: await self._version(name, number) for number in sorted(numbers)} if model else {}
        versions = {number: one for number, one in found.items() if one is not None}
        absent = [spec.version for spec in specs if spec.version not in versions]
        removed = {number: await self._versions.removed(name, number) for number in absent}
        return Name(
            name=name,
            specs=specs,
            model=model,
            versions=versions,
            removed={number: source for number, source in removed.items() if source is not None},
            new_ids=[self._new_id() for _ in range(len(specs) + 1)],
        )

    async def _model(self, name: str) -> Model | None:
        """By its name: what has it for an id is another model."""
        try:
            found = await self._models.get(name)
        except ModelNotFound:
            return None
        return found if found.name == name else None

    async def _version(self, name: str, number: str) -> ModelVersion | None:
        try:
            return await self._versions.get(name, number)
        except NotFound:
            return None
