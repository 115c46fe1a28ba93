"""Versions as entries of the registry: registered with their files, moved through their life, made current."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from modelmora.domain.registry.artifact import Artifact, ArtifactFile, manifest_of
from modelmora.domain.registry.difference import Difference, differences
from modelmora.domain.registry.entries import Model, ModelVersion, Running
from modelmora.domain.registry.lifecycle import Move
from modelmora.domain.registry.lineage import Lineage, Node
from modelmora.domain.registry.pages import Page, VersionQuery
from modelmora.domain.registry.provenance import PerformanceBaseline, TrainingMetadata
from modelmora.errors import Conflict, Fault, ValidationFailed, WrongState
from modelmora.ports import Lineages, Objects, RegisteredModels, RegisteredVersions
from modelmora.usecases.registry.trace import POLICY, Actor, change, refuse_other, told


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A version as somebody brings it; its files are in the object store already."""

    version: str
    files: tuple[ArtifactFile, ...]
    running: Running
    training: TrainingMetadata = field(default_factory=TrainingMetadata)
    baseline: PerformanceBaseline = field(default_factory=PerformanceBaseline)


class RegistryVersions:
    """The versions' half of the registry."""

    def __init__(
        self,
        models: RegisteredModels,
        versions: RegisteredVersions,
        lineages: Lineages,
        objects: Objects,
        *,
        new_id: Callable[[], str],
        clock: Callable[[], datetime],
    ) -> None:
        self._models = models
        self._versions = versions
        self._lineages = lineages
        self._objects = objects
        self._new_id = new_id
        self._clock = clock

    async def register(self, model: str, given: Registration, *, by: Actor) -> ModelVersion:
        """All of it or nothing.

        Raises ModelNotFound, Conflict where the model has the version, ValidationFailed (a field, a file that is not in
        the store or is another there, a parent that is made of it).
        """
        entry = await self._models.get(model)
        artifact = Artifact.of("", given.files)
        await self._refuse_absent(artifact.files)
        now = self._clock()
        version = ModelVersion(
            id=self._new_id(),
            model=entry.name,
            version=given.version,
            type=entry.type,
            artifact=replace(artifact, uri=f"object:{artifact.sha256}"),
            running=given.running,
            training=given.training,
            baseline=given.baseline,
            created_at=now,
            changed_at=now,
        )
        await self._refuse_circle(version)
        await self._objects.put(_once(manifest_of(artifact.files)), sha256=artifact.sha256)
        await self._versions.add(version, change=change(by, "version.register", None, version))
        return version

    async def get(self, model: str, version: str) -> ModelVersion:
        """Raises ModelNotFound, VersionNotFound."""
        return await self._versions.get(model, version)

    async def find(self, query: VersionQuery) -> Page[ModelVersion]:
        """Raises ValidationFailed for a cursor of another order."""
        return await self._versions.find(query)

    async def move(
        self, model: str, version: str, move: Move, *, by: Actor, reason: str = "", row: int | None = None
    ) -> ModelVersion:
        """One step of its life; raises WrongState naming what is allowed, PreconditionFailed, VersionNotFound, and
        Conflict where the current version is to be undeployed."""
        before = await self._versions.get(model, version)
        refuse_other(before, row)
        if move == "undeploy":
            _refuse_current(await self._models.get(model), before)
        return await self._moved(before, move, by=by, reason=reason)

    async def validated(self, version: ModelVersion, *, by: Actor) -> ModelVersion:
        """A version that passed, as it was found to be: where no policy asks for approval it is approved at once.

        Raises WrongState, PreconditionFailed, VersionNotFound.
        """
        before = await self._versions.get(version.model, version.version)
        after = before
        if before.state != "validated":  # else somebody was cut off between the two steps
            after = replace(version, state=before.state, row=before.row).moved("validate", at=self._clock())
            await self._versions.change(after, change=change(by, "version.validate", before, after))
        policy = Actor(name=POLICY, request_id=by.request_id)
        return await self._moved(after, "approve", by=policy, reason="no approval is asked for")

    async def make_current(self, model: str, version: str, *, by: Actor, row: int | None = None) -> Model:
        """The bare name stands for this version from now on; repeating it changes nothing.

        The new one is deployed before the name moves and the old one is let go after it, so that whoever is cut off in
        between leaves a name that stands for something, and may ask again. Raises WrongState for a version that is not
        approved, PreconditionFailed, VersionNotFound.
        """
        entry, chosen = await self._models.get(model), await self._versions.get(model, version)
        refuse_other(entry, row)
        if chosen.state != "deployed":
            await self._moved(chosen, "deploy", by=by)
        if entry.current == version:
            return entry
        moved = replace(entry, current=version, changed_at=self._clock(), row=entry.row + 1)
        await self._models.change(moved, change=change(by, "model.make_current", entry, moved))
        await self._let_go(entry, by=by)
        return moved

    async def remove(self, model: str, version: str, *, by: Actor, row: int | None = None) -> None:
        """Its files stay until nothing refers to them. Raises Conflict for the current one, WrongState for one that is
        deployed, PreconditionFailed, VersionNotFound."""
        entry, found = await self._models.get(model), await self._versions.get(model, version)
        refuse_other(found, row)
        _refuse_current(entry, found)
        if found.state == "deployed":
            said = f"{found.key} is deployed; undeploy it first"
            raise WrongState(said, field="state", found=found.state, expected="any other state")
        await self._versions.remove(found, change=change(by, "version.remove", found, None))

    async def lineage(self, node: Node) -> Lineage:
        """What it was made of and what was made of it, as far as that reaches."""
        return await self._lineages.around(node)

    async def difference(self, model: str, before: str, after: str) -> list[Difference]:
        """Of two versions, without what differs in any two; raises VersionNotFound."""
        one, another = await self._versions.get(model, before), await self._versions.get(model, after)
        return differences(_content(one), _content(another))

    async def _moved(self, before: ModelVersion, move: Move, *, by: Actor, reason: str = "") -> ModelVersion:
        failure = reason if move == "fail_validation" else ""
        after = before.moved(move, at=self._clock(), failure=failure)
        await self._versions.change(after, change=change(by, f"version.{move}", before, after, reason=reason))
        return after

    async def _let_go(self, entry: Model, *, by: Actor) -> None:
        if entry.current is not None:
            old, now = await self._versions.get(entry.name, entry.current), await self._models.get(entry.name)
            if old.state == "deployed" and now.current != entry.current:  # nobody went back to it meanwhile
                await self._moved(old, "undeploy", by=by)

    async def _refuse_absent(self, files: Iterable[ArtifactFile]) -> None:
        """Raises ValidationFailed with every file that the store does not have as it is described."""
        faults = [fault for index, file in enumerate(files) if (fault := await self._absence(index, file)) is not None]
        if faults:
            raise ValidationFailed(f"{len(faults)} files are not in the object store", field="files", faults=faults)

    async def _absence(self, index: int, file: ArtifactFile) -> Fault | None:
        stored = await self._objects.find(file.sha256)
        if stored is not None and stored.bytes == file.bytes:
            return None
        found = "nothing" if stored is None else f"{stored.bytes} bytes"
        said, expected = f"{file.path} is not in the object store", f"{file.bytes} bytes of {file.sha256}"
        return Fault("validation", said, index, "files", found, expected)

    async def _refuse_circle(self, version: ModelVersion) -> None:
        node = Node("version", version.key)
        (await self._lineages.around(node)).refuse_circle(node, version.training.made_of)


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


_PASSING = ("id", "version", "created_at", "changed_at", "validated_at", "row")


def _content(version: ModelVersion) -> dict[str, object]:
    return {name: value for name, value in told(version).items() if name not in _PASSING}


def _refuse_current(entry: Model, version: ModelVersion) -> None:
    """Raises Conflict for the version that the bare name stands for."""
    if entry.current == version.version:
        said = f"{version.key} is what {entry.name} stands for; make another version current first"
        raise Conflict(said, field="version", found=version.version)
