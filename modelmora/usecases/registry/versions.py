"""Versions as entries of the registry: registered with their files, moved through their life, made current."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from modelmora.domain.registry.artifact import Artifact, ArtifactFile, manifest_of
from modelmora.domain.registry.difference import Difference, differences
from modelmora.domain.registry.entries import Model, ModelVersion, Running
from modelmora.domain.registry.lifecycle import Move
from modelmora.domain.registry.lineage import Lineage, Node
from modelmora.domain.registry.pages import Page, VersionQuery
from modelmora.domain.registry.provenance import Metric, PerformanceBaseline, TrainingMetadata
from modelmora.domain.registry.texts import check_length, check_text, readable
from modelmora.errors import (
    Conflict,
    DeadlineExceeded,
    Fault,
    ModelMoraError,
    ModelNotFound,
    PreconditionFailed,
    ValidationFailed,
    WrongState,
)
from modelmora.ports import (
    Holds,
    Lineages,
    Objects,
    RegisteredModels,
    RegisteredTogether,
    RegisteredVersions,
    StoredObject,
    Write,
)
from modelmora.usecases.registry.asking import TRIES, added, together, whatever
from modelmora.usecases.registry.trace import POLICY, Actor, change, refuse_other, told, written

log = structlog.get_logger(__name__)

HELD_S = 3600.0
"""So long the files of a registration stay, whatever becomes of it."""
LONGEST_REASON, LONGEST_FAILURE = 2_000, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A version as somebody brings it; its files are in the object store already."""

    version: str
    files: tuple[ArtifactFile, ...]
    running: Running
    training: TrainingMetadata = field(default_factory=TrainingMetadata)
    baseline: PerformanceBaseline = field(default_factory=PerformanceBaseline)


class RegistryVersions:
    """The versions' half of the registry. A model is named by its name or its id."""

    def __init__(
        self,
        models: RegisteredModels,
        versions: RegisteredVersions,
        *,
        together: RegisteredTogether,
        lineages: Lineages,
        objects: Objects,
        holds: Holds,
        new_id: Callable[[], str],
        clock: Callable[[], datetime],
        groups: Collection[str] = (),
    ) -> None:
        """`groups` are those that there are runners of; without any, every group's name is taken."""
        self._models = models
        self._versions = versions
        self._together = together
        self._lineages = lineages
        self._objects = objects
        self._holds = holds
        self._groups = groups
        self._new_id = new_id
        self._clock = clock

    async def register(
        self,
        model: str,
        given: Registration,
        *,
        by: Actor,
        id: str | None = None,
    ) -> ModelVersion:
        """All of it or nothing; with an `id`, who registers it again is told what there is.

        Raises ModelNotFound, Conflict where the model has the version, had it with other files, or its files are being
        removed, ValidationFailed (a field, a file that is not in the store or is another there, a parent that is made
        of it).
        """
        check_text(model, field="model")
        self._refuse_homeless(given.running)
        entry = await self._models.get(model)
        _refuse_unindexable(entry, given.running)
        artifact = Artifact.of("", given.files)
        now = self._clock()
        version = ModelVersion(
            id=id or self._new_id(),
            model=entry.name,
            version=given.version,
            type=entry.type,
            source=f"object:{artifact.sha256}",
            artifact=replace(artifact, uri=f"object:{artifact.sha256}"),
            running=given.running,
            training=await self._with_parents_name(given.training),
            baseline=given.baseline,
            created_at=now,
            changed_at=now,
        )
        async with self._held(version):
            await self._refuse_absent(artifact.files)
            await self._objects.put(_once(manifest_of(artifact.files)), sha256=artifact.sha256)
            adding = self._versions.add(version, change=change(by, "version.register", None, version))
            return await added(adding, version, lambda: self._versions.get(entry.name, version.version))

    async def get(self, model: str, version: str) -> ModelVersion:
        """Raises ModelNotFound, VersionNotFound."""
        check_text(model, field="model")
        check_text(version, field="version")
        return await self._versions.get(model, version)

    async def find(self, query: VersionQuery) -> Page[ModelVersion]:
        """Raises ModelNotFound, ValidationFailed for a cursor of another order."""
        if query.model is not None:
            query = replace(query, model=(await self._models.get(query.model)).name)
        return await self._versions.find(query)

    @whatever
    async def move(
        self, model: str, version: str, move: Move, *, by: Actor, reason: str = "", row: int | None = None
    ) -> ModelVersion:
        """One step of its life; raises WrongState naming what is allowed, PreconditionFailed, VersionNotFound, and
        Conflict where the current version is to be undeployed."""
        before = await self.get(model, version)
        refuse_other(before, row)
        if move == "fail_validation":
            return await self.failed(before, reason, by=by)
        if move == "undeploy":
            _refuse_current(await self._models.get(before.model), before)
        check_length(reason, field="reason", most=LONGEST_REASON)
        after = before.moved(move, at=self._clock())
        await self._versions.change(after, change=change(by, f"version.{move}", before, after, reason=reason))
        return after

    async def failed(self, found: ModelVersion, why: str, *, by: Actor) -> ModelVersion:
        """A version that did not pass, as it was read. Raises WrongState, PreconditionFailed, VersionNotFound."""
        after = found.moved("fail_validation", at=self._clock(), failure=readable(why, most=LONGEST_FAILURE))
        told = change(by, "version.fail_validation", found, after, reason=readable(why, most=LONGEST_REASON))
        await self._versions.change(after, change=told)
        return after

    async def validated(self, found: ModelVersion, *, by: Actor) -> ModelVersion:
        """A version that passed, with its inputs, outputs, labels and measures as they were found: where no policy asks
        for approval it is approved at once, both in one step.

        Raises WrongState, also for one that took the place of what was found; PreconditionFailed, VersionNotFound.
        """
        before = await self._versions.get(found.model, found.version)
        _refuse_another(before, found)
        metrics = found.baseline.with_metrics(before.baseline.metrics).metrics  # what was told meanwhile counts
        seen = replace(
            before,
            inputs=found.inputs,
            outputs=found.outputs,
            labels=found.labels,
            baseline=replace(found.baseline, metrics=metrics),
        )
        now = self._clock()
        writes, valid = [], before
        if before.state != "validated":  # else somebody moved it there by hand
            valid = seen.moved("validate", at=now)
            writes.append(written(by, "version.validate", before, valid))
        policy = Actor(name=POLICY, request_id=by.request_id)
        approved = valid.moved("approve", at=now)
        writes.append(written(policy, "version.approve", valid, approved, reason="no approval is asked for"))
        await self._together.write(writes)
        return approved

    async def make_current(self, model: str, version: str, *, by: Actor, row: int | None = None) -> Model:
        """The bare name stands for this version from now on, by somebody's choice; repeating it changes nothing.

        The new one is deployed, the name moves and the old one is let go in one step. Raises WrongState for a version
        that is not approved, PreconditionFailed, VersionNotFound.
        """
        for _ in range(TRIES):
            entry, chosen = await self._models.get(model), await self.get(model, version)
            refuse_other(entry, row)
            writes = [one async for one in self._to_current(entry, chosen, by=by)]
            try:
                if writes:
                    await self._together.write(writes)
            except PreconditionFailed:
                continue  # one of the three was changed meanwhile: `row` says whether that matters
            return next((one.entry for one in writes if isinstance(one.entry, Model)), entry)
        raise Conflict(f"{entry.name} keeps being changed by others; ask again", field="version", found=version)

    @whatever
    async def amend(
        self, model: str, version: str, *, metrics: Iterable[Metric], by: Actor, row: int | None = None
    ) -> ModelVersion:
        """Results found out later: of the same name on the same data set the new one counts.

        Raises PreconditionFailed, VersionNotFound, ValidationFailed.
        """
        before = await self.get(model, version)
        refuse_other(before, row)
        baseline = before.baseline.with_metrics(metrics)
        if baseline == before.baseline:
            return before
        after = replace(before, baseline=baseline, changed_at=self._clock(), row=before.row + 1)
        await self._versions.change(after, change=change(by, "version.amend", before, after))
        return after

    @whatever
    async def remove(self, model: str, version: str, *, by: Actor, row: int | None = None) -> None:
        """Its files stay until nothing refers to them. Raises Conflict for the current one, WrongState for one that is
        deployed, PreconditionFailed, VersionNotFound."""
        found = await self.get(model, version)
        refuse_other(found, row)
        _refuse_current(await self._models.get(found.model), found)
        if found.state == "deployed":
            said = f"{found.key} is deployed; undeploy it first"
            raise WrongState(said, field="state", found=found.state, expected="any other state")
        await self._versions.remove(found, change=change(by, "version.remove", found, None))

    async def lineage(self, node: Node) -> Lineage:
        """What it was made of and what was made of it, as far as that reaches."""
        check_text(node.name, field="name")
        return await self._lineages.around(node)

    async def difference(self, model: str, before: str, after: str) -> list[Difference]:
        """Of two versions, without what differs in any two; raises VersionNotFound."""
        one, another = await self.get(model, before), await self.get(model, after)
        return differences(_content(one), _content(another))

    async def _to_current(self, entry: Model, chosen: ModelVersion, *, by: Actor) -> AsyncIterator[Write]:
        """What has to be changed for that, in order."""
        now = self._clock()
        if chosen.state != "deployed":
            yield written(by, "version.deploy", chosen, chosen.moved("deploy", at=now))
        if entry.current == chosen.version and entry.chosen:
            return
        moved = replace(entry, current=chosen.version, chosen=True, changed_at=now, row=entry.row + 1)
        yield written(by, "model.make_current", entry, moved)
        if entry.current is not None and entry.current != chosen.version:
            old = await self._versions.get(entry.name, entry.current)
            if old.state == "deployed":
                yield written(by, "version.undeploy", old, old.moved("undeploy", at=now))

    @asynccontextmanager
    async def _held(self, version: ModelVersion) -> AsyncIterator[None]:
        """What it refers to is not removed before it is registered; raises Conflict where that has begun."""
        await self._holds.hold(version.id, version.objects, ttl_s=HELD_S)
        try:
            async with asyncio.timeout(HELD_S / 2):
                yield
        except TimeoutError as cause:
            raise DeadlineExceeded(f"the object store takes too long over the files of {version.key}") from cause
        finally:
            await asyncio.shield(self._let_go(version))

    async def _let_go(self, version: ModelVersion) -> None:
        """They are registered or not; what cannot be let go goes by itself."""
        try:
            await self._holds.let_go(version.id)
        except ModelMoraError as error:
            log.warning("files_still_held", model=version.model, version=version.version, code=error.code)

    def _refuse_homeless(self, running: Running) -> None:
        """Raises ValidationFailed for a group that nobody runs."""
        if self._groups and running.group not in self._groups:
            said = f"there is no group {running.group!r}: groups are fixed when the bundle is built"
            expected = ", ".join(sorted(self._groups))
            raise ValidationFailed(said, field="group", found=running.group, expected=expected)

    async def _refuse_absent(self, files: tuple[ArtifactFile, ...]) -> None:
        """Raises ValidationFailed with every file that the store does not have as it is described."""
        digests = list(dict.fromkeys(file.sha256 for file in files))
        stored = dict(zip(digests, await together(self._objects.find, digests), strict=True))
        faults = list(_absences(files, stored))
        if faults:
            raise ValidationFailed(f"{len(faults)} files are not in the object store", field="files", faults=faults)

    async def _with_parents_name(self, training: TrainingMetadata) -> TrainingMetadata:
        """A parent by its name, where somebody told its id."""
        if training.parent is None:
            return training
        name, _, version = training.parent.partition("@")
        try:
            return replace(training, parent=f"{(await self._models.get(name)).name}@{version}")
        except ModelNotFound:
            return training


def _absences(files: Iterable[ArtifactFile], stored: dict[str, StoredObject | None]) -> Iterator[Fault]:
    for index, file in enumerate(files):
        there = stored[file.sha256]
        if there is None or there.bytes != file.bytes:
            found = "nothing" if there is None else f"{there.bytes} bytes"
            said, expected = f"{file.path} is not in the object store", f"{file.bytes} bytes of {file.sha256}"
            yield Fault("validation", said, index, "files", found, expected)


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


_PASSING = ("id", "version", "created_at", "changed_at", "validated_at", "row")


def _content(version: ModelVersion) -> dict[str, object]:
    return {name: value for name, value in told(version).items() if name not in _PASSING}


def _refuse_another(there: ModelVersion, found: ModelVersion) -> None:
    """Raises WrongState where that one was removed, and another has its number now."""
    if there.id != found.id:
        raise WrongState(f"{found.key} was removed and registered anew meanwhile", field="id", found=there.id)


def _refuse_unindexable(entry: Model, running: Running) -> None:
    """Raises ValidationFailed for an index of what makes no vectors."""
    if running.index is not None and entry.type != "embedding":
        said = f"{entry.name} is of type {entry.type}, which makes no vectors"
        raise ValidationFailed(said, field="index", found=f"an index of a {entry.type} model", expected="null")


def _refuse_current(entry: Model, version: ModelVersion) -> None:
    """Raises Conflict for the version that the bare name stands for."""
    if entry.current == version.version:
        said = f"{version.key} is what {entry.name} stands for; make another version current first"
        raise Conflict(said, field="version", found=version.version)
