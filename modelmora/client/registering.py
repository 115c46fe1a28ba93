"""One registration from here to a validated version, in steps that may each be cut off."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from modelmora.client.control import Control, as_json
from modelmora.client.registered import Transfer, VersionInfo, version_info
from modelmora.client.registry_disk import Digested
from modelmora.client.registry_files import Carrier
from modelmora.client.registry_paths import model_path, version_path
from modelmora.client.retry import Retrier
from modelmora.domain.registry.artifact import Artifact, ArtifactFile
from modelmora.domain.registry.provenance import Metric
from modelmora.errors import (
    Conflict,
    DeadlineExceeded,
    ModelNotFound,
    Overloaded,
    ValidationFailed,
    VersionNotFound,
)
from modelmora.imports import Import

LONGEST_PAUSE_S = 2.0
BRINGS = 5
"""So often files are brought that somebody else removes meanwhile."""
STATES_BEFORE = ("registered",)
RUNNING = ("group", "device", "precision", "engine", "batching", "warmup", "pin", "idle_ttl_s", "index")


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """A model that lies here, and the version that it is to be; `told` is what is said of it, but its files."""

    found: Import
    name: str
    version: str
    model: Mapping[str, Any]
    told: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        found: Import,
        *,
        name: str,
        version: str,
        config: Mapping[str, Any] | None,
        running: Mapping[str, Any] | None,
        training: Mapping[str, Any] | None,
        metrics: Sequence[Metric],
        description: str,
        tags: Sequence[str],
    ) -> Newcomer:
        """What is given stands over what its files tell; a configuration of None takes away what they tell of it."""
        merged = {**found.config, **(config or {})}
        told = {
            "version": version,
            "provider": found.provider,
            "config": {key: value for key, value in merged.items() if value is not None},
            "training": _with_origin(found.training, training or {}),
            "baseline": {"metrics": [asdict(one) for one in metrics]},
            **_running(running or {}),
        }
        model = {"name": name, "type": found.type, "description": description, "tags": list(tags)}
        return cls(found=found, name=name, version=version, model=_plain(model), told=_plain(told))

    @property
    def key(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def path(self) -> str:
        return version_path(self.name, self.version)


@dataclass(frozen=True, slots=True)
class Registering:
    """Carries a registration out on one server."""

    control: Control
    carrier: Carrier
    retrier: Retrier
    tell: Callable[[Transfer], None]

    async def run(self, given: Newcomer, *, wait: bool, timeout: float) -> VersionInfo:
        """Raises what `Registry.register` says."""
        await self._refuse_other_type(given)
        digested = await self.carrier.digested(given.found.files, self.tell)
        files = [one.file for one in digested]
        there = await self._there(given, files)
        if there is None:
            there = await self._brought(given, digested)
        return await self._followed(there, timeout) if wait else there

    async def _brought(self, given: Newcomer, digested: Sequence[Digested]) -> VersionInfo:
        """All tries have one key: whoever comes second finds what the first one made."""
        headers = {"idempotency-key": uuid.uuid4().hex}
        for _ in range(BRINGS - 1):
            try:
                return await self._sent(given, digested, headers)
            except (ValidationFailed, Conflict) as error:
                # What was there when it was looked for has been removed since, or is being so, as nobody's.
                if error.field not in ("files", "files.sha256"):
                    raise
                await self.retrier.sleep(error.retry_after_s or 0.0)
        return await self._sent(given, digested, headers)

    async def _sent(self, given: Newcomer, digested: Sequence[Digested], headers: Mapping[str, str]) -> VersionInfo:
        await self.carrier.upload(digested, self.tell)
        self.tell(Transfer(stage="registering", done_bytes=given.found.bytes, total_bytes=given.found.bytes))
        await self._make_model(given)
        return await self._make_version(given, [one.file for one in digested], headers)

    async def _refuse_other_type(self, given: Newcomer) -> None:
        """Raises ValidationFailed before anything is sent, where the model is of another type."""
        try:
            found = await self.control.model(given.name)
        except ModelNotFound:
            return
        if found.type != given.model["type"]:
            said = f"{given.name} is a model of the type {found.type}, and {given.found.why} tells another"
            raise ValidationFailed(said, field="type", found=str(given.model["type"]), expected=found.type)

    async def _there(self, given: Newcomer, files: Sequence[ArtifactFile]) -> VersionInfo | None:
        """The version where it is registered already, as it is given here; raises Conflict where otherwise."""
        try:
            found = version_info(await self.control.ask("GET", given.path))
        except (ModelNotFound, VersionNotFound):
            return None
        same = found.artifact is not None and found.artifact.sha256 == Artifact.of("", files).sha256
        other = [key for key in ("provider", "config") if found.running.get(key) != given.told[key]]
        if same and not other:
            return found
        what = f"another {other[0]}" if same else "other files"
        said = f"{given.key} is registered with {what}; a version never changes, take another number"
        raise Conflict(said, field="version", found=given.version)

    async def _make_model(self, given: Newcomer) -> None:
        headers = {"idempotency-key": uuid.uuid4().hex}
        try:
            await self.control.ask("POST", "/api/v1/models", body=given.model, headers=headers)
        except Conflict:
            await self._refuse_other_type(given)

    async def _make_version(
        self, given: Newcomer, files: Sequence[ArtifactFile], headers: Mapping[str, str]
    ) -> VersionInfo:
        """Raises Conflict where it was made with other files meanwhile, or was removed before."""
        body = {**given.told, "files": [asdict(file) for file in files]}
        path = f"{model_path(given.name)}/versions"

        async def once() -> VersionInfo:
            try:
                return version_info(await self.control.ask("POST", path, body=body, headers=headers))
            except Conflict as conflict:
                if (found := await self._there(given, files)) is not None:
                    return found
                if conflict.field != "idempotency-key":
                    raise
                raise Overloaded(conflict.detail) from conflict  # the try before this one is still at it

        return await self.retrier.value(once, deadline=time.monotonic() + self.carrier.patience_s)

    async def _followed(self, version: VersionInfo, timeout: float) -> VersionInfo:
        """Until it is validated or not; raises ValidationFailed where it did not pass, DeadlineExceeded."""
        deadline, pause = time.monotonic() + timeout, 0.05
        while version.state in STATES_BEFORE:
            size = version.artifact.bytes if version.artifact else 0
            self.tell(Transfer(stage="validating", done_bytes=size, total_bytes=size))
            if time.monotonic() + pause > deadline:
                said = f"{version.key} is registered and still being validated; look again with its name and version"
                raise DeadlineExceeded(said)
            await self.retrier.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE_S)
            version = version_info(await self.control.ask("GET", version_path(version.model, version.version)))
        if version.state == "validation_failed":
            said = f"{version.key} is registered and did not pass: {version.failure}"
            raise ValidationFailed(said, field="state", found=version.state, expected="validated")
        return version


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes out of JSON; raises ValidationFailed for what does not go into it."""
    told: dict[str, Any] = json.loads(as_json(value))
    return told


def _with_origin(told: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of its training; `parameters` also have what the place says that it was found in."""
    parameters = {**told.get("parameters", {}), **(given.get("parameters") or {})}
    return {**told, **given, **({"parameters": parameters} if parameters else {})}


def _running(given: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ValidationFailed for what does not say how a version is run."""
    for key in given:
        if key not in RUNNING:
            said = f"{key} does not say how a version is run"
            raise ValidationFailed(said, field=f"running.{key}", expected=", ".join(RUNNING))
    return dict(given)
