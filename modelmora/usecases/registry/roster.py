"""What is served: the declared models, and the versions that were registered, as they stand now."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import ModelRef, ModelSpec, ModelType
from modelmora.domain.registry.entries import Model, ModelVersion
from modelmora.domain.registry.pages import ModelQuery, VersionQuery
from modelmora.errors import ModelMoraError, ModelNotFound, NotFound
from modelmora.ports import AuditLog, RegisteredModels, RegisteredVersions
from modelmora.usecases.registry.asking import everything

log = structlog.get_logger(__name__)

PERIOD_S = 1.0
"""So late at most do other processes see a change."""
SETTLED_S = 2 * PERIOD_S
"""By then no process asks for what a name stood for before."""


class Roster:
    """One process's view of the registry, kept up by following the audit: `now` is replaced as a whole.

    What is declared in the file is served as the file says, unless its entry says that it is not to be served, or it
    was `refused`; where somebody chose a version, its name stands for that one, else for what the file says.
    """

    def __init__(
        self,
        declared: Catalogue,
        models: RegisteredModels,
        versions: RegisteredVersions,
        audit: AuditLog,
        *,
        refused: Collection[str] = (),
    ) -> None:
        self.now = declared
        self._rows = {spec.key: spec for spec in declared.models}
        self._refused = frozenset(refused)
        self._declared = declared
        self._models = models
        self._versions = versions
        self._audit = audit
        self._seen: int | None = None
        self._registered: dict[str, ModelSpec] = {}
        self._shut: set[str] = set()
        self._current: dict[str, str] = {}
        self._chosen: set[str] = set()
        self._refreshing = asyncio.Lock()

    def __call__(self) -> Catalogue:
        """The catalogue as it stands."""
        return self.now

    async def follow(self) -> None:
        """For ever; a store that is away is asked again, and what was known meanwhile holds."""
        while True:
            try:
                await self.refresh()
            except ModelMoraError as error:
                log.warning("registry_not_followed", code=error.code, why=error.detail)
            except Exception:  # whatever it is, what was known holds, and the next change may be readable
                log.exception("registry_not_followed")
            await asyncio.sleep(PERIOD_S)

    async def refresh(self) -> None:
        """Everything that was changed until now is in `now` afterwards. Raises DependencyUnavailable."""
        async with self._refreshing:
            head = await self._audit.head()
            if head == self._seen:
                return
            if self._seen is None or head < self._seen:  # the second: another database took its place
                await self._read_all()
            else:
                await self._read_changes(self._seen)
            self._seen = head
            self.now = await asyncio.to_thread(self._catalogue)  # of 50,000 it takes a while

    async def _read_all(self) -> None:
        self._registered, self._shut, self._current, self._chosen = {}, set(self._refused), {}, set()
        for state in ("approved", "deployed"):
            async for version in everything(self._versions.find, VersionQuery(state=state)):
                self._note(version)
        async for version in everything(self._versions.find, VersionQuery(declared=True)):
            self._note(version)
        async for model in everything(self._models.find, ModelQuery()):
            self._note_model(model)

    async def _read_changes(self, after: int) -> None:
        """Each entry that was changed is read as it is now; it may have been changed several times."""
        for subject in await self._audit.subjects(after=after):
            await self._read(subject)

    async def _read(self, subject: str) -> None:
        name, _, version = subject.partition("@")
        if not version:
            try:
                self._note_model(await self._models.get(name))
            except ModelNotFound:
                self._current.pop(name, None)
                self._chosen.discard(name)
            return
        try:
            self._note(await self._versions.get(name, version))
        except NotFound:  # a row of the file that was removed comes back with the next start, if it may
            self._registered.pop(subject, None)
            self._shut |= {subject} & self._rows.keys()

    def _note(self, version: ModelVersion) -> None:
        """A row of the file is served as the file says; anything else as its entry does."""
        key = version.key
        is_row = version.declared is True and key in self._rows
        self._shut -= {key}
        if key in self._rows and not (is_row and version.servable):
            self._shut.add(key)
        if version.servable and not is_row:
            self._registered[key] = version.spec()
        else:
            self._registered.pop(key, None)

    def _note_model(self, model: Model) -> None:
        (self._chosen.add if model.chosen else self._chosen.discard)(model.name)
        if model.current is not None:
            self._current[model.name] = model.current
        else:
            self._current.pop(model.name, None)

    def _catalogue(self) -> Catalogue:
        groups = {group.name for group in self._declared.groups}
        declared = [spec for spec in self._declared.models if spec.key not in self._shut]
        registered = [spec for spec in self._registered.values() if spec.group in groups]
        homeless = [key for key, spec in self._registered.items() if spec.group not in groups]
        if homeless:
            log.warning("groups_missing", models=homeless[:20], groups=sorted(groups))
        by_file = {spec.name: spec.version for spec in declared if spec.name not in self._chosen}
        current = {**self._current, **by_file}
        return Catalogue((*declared, *registered), self._declared.groups, current, self._defaults())

    def _defaults(self) -> dict[ModelType, ModelRef]:
        """The file says which model a type's default is; which version of it, somebody may have chosen."""
        return {
            spec.type: ModelRef(spec.name, None if spec.name in self._chosen else spec.version)
            for spec in self._declared.models
            if spec.default
        }
