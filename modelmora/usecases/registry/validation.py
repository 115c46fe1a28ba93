"""Whether a registered version is what it is said to be, found out by a runner that loads and runs it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import structlog
from pydantic import TypeAdapter

from modelmora.domain.registry.entries import ModelVersion
from modelmora.domain.registry.pages import VersionQuery
from modelmora.domain.tensors import TensorSpec
from modelmora.errors import (
    ArtifactCorrupt,
    CapabilityMissing,
    DependencyUnavailable,
    InputError,
    InternalError,
    ModelLoadFailed,
    ModelMoraError,
    StateError,
    WrongState,
)
from modelmora.ports import LOST, Leases, ModelHost
from modelmora.usecases.registry.asking import everything
from modelmora.usecases.registry.models import RegistryModels
from modelmora.usecases.registry.roster import Roster
from modelmora.usecases.registry.trace import POLICY, Actor, told
from modelmora.usecases.registry.versions import RegistryVersions

log = structlog.get_logger(__name__)

LASTING = (InputError, ModelLoadFailed, ArtifactCorrupt, CapabilityMissing)
"""What is the version's own fault; anything else may be otherwise the next time."""

TROUBLES = 2
"""So often a version may end its runner, hang, or fail in a way that has no name, before that counts as its own."""

LEASE, LEASE_S, PERIOD_S = "validation", 30.0, 3.0
PATIENCE_S = 1800.0
_TENSORS = TypeAdapter(tuple[TensorSpec, ...])


class Validation:
    """Looks at versions one after another; what nobody waits for is looked at in the background."""

    def __init__(
        self,
        models: RegistryModels,
        versions: RegistryVersions,
        roster: Roster,
        host: ModelHost,
        leases: Leases,
        *,
        holder: str,
    ) -> None:
        self._models = models
        self._versions = versions
        self._roster = roster
        self._host = host
        self._leases = leases
        self._holder = holder
        self._wake = asyncio.Event()
        self._again_at: dict[str, float] = {}
        self._troubles: Counter[str] = Counter()

    def begin(self, version: ModelVersion) -> None:
        """It is looked at soon, by this process or another."""
        self._wake.set()

    async def validate(
        self, ref: str, version: str, *, by: Actor, deadline: float
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Steps; the last one is the report with the version as it is now, validated and approved, or not and why.

        One that did not pass is looked at anew. Raises WrongState for one that is past that, and what comes of the
        machine and not of the version (DependencyUnavailable, OutOfMemory, DeadlineExceeded): then it stays registered.
        """
        entry = await self._versions.get(ref, version)
        if entry.state == "validation_failed":
            entry = await self._versions.move(ref, version, "retry", by=by, row=entry.row)
        if entry.state not in ("registered", "validated"):
            said = f"{entry.key} is {entry.state}; only what is registered is validated"
            raise WrongState(said, field="state", found=entry.state, expected="registered or validation_failed")
        report: Mapping[str, Any] = {}
        try:
            async with aclosing(self._host.examine(entry.trial(), "validate", deadline=deadline)) as steps:  # type: ignore[type-var]
                async for step in steps:
                    report = step
                    if step["stage"] != "report":
                        yield step
            found = _found(entry, report)
        except ModelMoraError as error:
            if not self._is_own(entry, error):
                raise
            yield {"stage": "report", "version": told(await self._failed(entry, error, by=by))}
            return
        self._troubles.pop(entry.id, None)
        yield {"stage": "report", "version": told(await self._passed(found, by=by))}

    def _is_own(self, entry: ModelVersion, error: ModelMoraError) -> bool:
        """Whether it is the version's fault; what may be the machine's is, when it happens again."""
        if isinstance(error, LASTING) and error.retry_after_s is None:
            return True
        if not isinstance(error, InternalError) and error.field != LOST:
            return False
        self._troubles[entry.id] += 1
        return self._troubles[entry.id] >= TROUBLES

    async def _failed(self, entry: ModelVersion, error: ModelMoraError, *, by: Actor) -> ModelVersion:
        log.warning("version_not_valid", model=entry.model, version=entry.version, why=error.detail)
        try:
            return await self._versions.failed(entry, error.detail, by=by)
        except StateError:
            return await self._decided(entry)

    async def _passed(self, found: ModelVersion, *, by: Actor) -> ModelVersion:
        try:
            passed = await self._versions.validated(found, by=by)
        except StateError:
            passed = await self._decided(found)
        await self._name(passed, by=by)
        await self._roster.refresh()
        log.info("version_valid", model=found.model, version=found.version)
        return await self._versions.get(found.model, found.version)

    async def _decided(self, entry: ModelVersion) -> ModelVersion:
        """As somebody else found it meanwhile; raises WrongState where it is neither one nor the other."""
        found = await self._versions.get(entry.model, entry.version)
        if found.state not in ("approved", "deployed", "validation_failed"):
            raise WrongState(f"{found.key} was changed meanwhile", field="state", found=found.state)
        return found

    async def run(self) -> None:
        """For ever: whatever is registered and nobody has looked at, one process at a time."""
        while True:
            try:
                await self._sweep()
            except ModelMoraError as error:
                log.warning("validation_waits", code=error.code, why=error.detail)
            except Exception:  # one entry's fault must not end the looking at others
                log.exception("validation_waits")
            self._wake.clear()
            try:
                async with asyncio.timeout(PERIOD_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _sweep(self) -> None:
        if await self._leases.acquire(LEASE, self._holder, ttl_s=LEASE_S) is None:
            return
        keeping = asyncio.create_task(self._keep_lease())
        try:
            async for version in everything(self._versions.find, VersionQuery(state="registered")):
                if self._is_due(version):
                    await self._look_at(version)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await self._leases.release(LEASE, self._holder)

    def _is_due(self, version: ModelVersion) -> bool:
        """Not one that waits for its next try, or for a runner of its group."""
        ready = {view.group for view in self._host.workers() if view.ready}
        waits = time.monotonic() < self._again_at.get(version.key, 0.0)
        return version.artifact is not None and version.running.group in ready and not waits

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with suppress(DependencyUnavailable):
                await self._leases.acquire(LEASE, self._holder, ttl_s=LEASE_S)

    async def _look_at(self, version: ModelVersion) -> None:
        by = Actor(name=POLICY, request_id="")
        try:
            async for _ in self.validate(version.model, version.version, by=by, deadline=time.monotonic() + PATIENCE_S):
                pass
        except StateError:
            pass  # somebody else was quicker
        except ModelMoraError as error:
            self._again_at[version.key] = time.monotonic() + (error.retry_after_s or 30.0)
            log.warning("validation_put_off", model=version.model, version=version.version, why=error.detail)

    async def _name(self, version: ModelVersion, *, by: Actor) -> None:
        """The first version of a model that passes is what its name stands for."""
        model = await self._models.get(version.model)
        if model.current is None and version.servable:
            await self._versions.make_current(model.name, version.version, by=by, row=model.row)


def _found(version: ModelVersion, report: Mapping[str, Any]) -> ModelVersion:
    measured = report["measured"]
    return replace(
        version,
        inputs=_TENSORS.validate_python(report["inputs"]),
        outputs=_TENSORS.validate_python(report["outputs"]),
        labels=tuple(report["labels"]),
        baseline=replace(version.baseline, **measured),
    )
