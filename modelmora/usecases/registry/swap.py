"""Making another version current while its model is in use: load, warm, switch, drain, unload.

Here it is done in this order. Other servers over the same database hear of it by what is wished: the new version before
it is loaded here, so that they load it at the same time, and the old one's end with the switch, so that it goes
everywhere, whatever becomes of the process that switched.
"""

from __future__ import annotations

import asyncio
import time
from weakref import WeakValueDictionary

import structlog

from modelmora.domain.models import ModelRef, ModelSpec
from modelmora.domain.registry.entries import Model
from modelmora.errors import ModelMoraError, NotFound
from modelmora.ports import DesiredModels, ModelHost
from modelmora.usecases.registry.models import RegistryModels
from modelmora.usecases.registry.roster import SETTLED_S, Roster
from modelmora.usecases.registry.trace import Actor, refuse_other
from modelmora.usecases.registry.versions import RegistryVersions

log = structlog.get_logger(__name__)


class Swap:
    """One at a time for each model in a process; between processes the entry's count of changes decides."""

    def __init__(
        self,
        models: RegistryModels,
        versions: RegistryVersions,
        roster: Roster,
        host: ModelHost,
        desired: DesiredModels,
        *,
        drain_s: float = SETTLED_S,
    ) -> None:
        self._models = models
        self._versions = versions
        self._roster = roster
        self._host = host
        self._desired = desired
        self._drain_s = drain_s
        self._swapping: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def make_current(
        self, ref: str, version: str, *, by: Actor, row: int | None = None, deadline: float
    ) -> Model:
        """The model once its name stands for the version and the one before is out of memory.

        Until the switch, whatever goes wrong leaves callers where they were. Raises what loading raises, WrongState for
        a version that is not approved, PreconditionFailed, ModelNotFound, VersionNotFound.
        """
        name = (await self._models.get(ref)).name
        async with self._swapping.setdefault(name, asyncio.Lock()):
            await self._roster.refresh()  # another process may have switched it a moment ago
            model, chosen = await self._models.get(ref), await self._versions.get(ref, version)
            refuse_other(model, row)
            new, old = chosen.spec(), self._served(name)
            if old is not None and old.key == new.key and model.chosen and model.current == version:
                return model
            if old is not None and old.key != new.key:
                await self._bring(new, old, deadline=deadline)
            changed = await self._versions.make_current(ref, version, by=by, row=row)
            await self._roster.refresh()
            log.info("model_switched", model=name, version=version, before=old and old.version)
            if old is not None and old.key != new.key:
                await self._let_go(old, new, deadline=deadline)
            return changed

    def _served(self, name: str) -> ModelSpec | None:
        try:
            return self._roster.now.get(ModelRef(name))
        except NotFound:
            return None

    async def _stands_for(self, name: str, version: str) -> bool:
        await self._roster.refresh()
        served = self._served(name)
        return served is not None and served.version == version

    async def _bring(self, new: ModelSpec, old: ModelSpec, *, deadline: float) -> None:
        """Into memory everywhere where the old one is wished to be, and here."""
        wished = {(wish.name, wish.version): wish.wanted for wish in await self._desired.all()}
        before = wished.get((new.name, new.version))
        follows = before != "loaded" and (old.default or wished.get((old.name, old.version)) == "loaded")
        if follows:
            await self._desired.set(new.name, new.version, "loaded")
        try:
            await (self._host.warmup if new.warmup else self._host.load)(new, deadline=deadline)
        except BaseException:
            if follows:
                await asyncio.shield(self._desired.set(new.name, new.version, "unloaded"))
            raise

    async def _let_go(self, old: ModelSpec, new: ModelSpec, *, deadline: float) -> None:
        """Once nobody can be asking for it any more. It is switched already: what fails here is logged."""
        try:
            await self._desired.set(old.name, old.version, "unloaded")
            await asyncio.sleep(min(self._drain_s, max(0.0, deadline - time.monotonic())))
            if await self._stands_for(old.name, old.version):
                return  # somebody went back to it meanwhile
            await self._host.unload(old, deadline=deadline)
        except ModelMoraError as error:
            log.warning("old_version_stays", model=old.name, version=old.version, code=error.code, why=error.detail)
