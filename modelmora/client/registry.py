"""The client's half of the registry: versions brought, looked at, compared, moved through their life, taken home."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from modelmora.client.control import ModelInfo, model_info
from modelmora.client.paging import pages
from modelmora.client.registered import (
    AuditInfo,
    AuditVerdict,
    Collected,
    FieldDifference,
    LineageInfo,
    Transfer,
    VersionInfo,
    audit_info,
    audit_verdict,
    collected,
    differences,
    lineage_info,
    version_info,
)
from modelmora.client.registering import Newcomer, Registering
from modelmora.client.registry_files import Carrier
from modelmora.client.registry_paths import model_path, version_part, version_path
from modelmora.client.session import Session
from modelmora.domain.models import ModelType
from modelmora.domain.registry.lifecycle import Move, VersionState
from modelmora.domain.registry.provenance import Metric
from modelmora.errors import CapabilityMissing, PreconditionFailed
from modelmora.imports import read_import

SWAP_TIMEOUT_S = 600.0
PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5)

OnProgress = Callable[[Transfer], None]


class Registry(Session):
    """What is registered. `row` is that of an entry as it was read: with it, PreconditionFailed where it was changed.

    A model is named by its name or id. What changes an entry and would not be the same the second time is not repeated
    when the connection breaks: whoever looks again sees what became of it.
    """

    async def register(
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        version: str,
        type: ModelType | None = None,
        provider: str | None = None,
        config: Mapping[str, Any] | None = None,
        running: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        metrics: Sequence[Metric] = (),
        description: str = "",
        tags: Sequence[str] = (),
        wait: bool = True,
        timeout: float = SWAP_TIMEOUT_S,
        on_progress: OnProgress | None = None,
    ) -> VersionInfo:
        """Brings a model that lies here: a folder, an .onnx file, MLflow's directory, or `bentoml:NAME:TAG`.

        Type, provider and configuration are told by its files where they are not given; `running` takes `group`,
        `device`, `precision`, `engine`, `batching`, `warmup`, `pin`, `idle_ttl_s` and `index`, `training` the fields of
        `TrainingMetadata`. Files that the server has are not sent again, so whoever was cut off begins where he was.
        The model's entry is made if there is none, with `description` and `tags`. The same files under the same version
        once more change nothing.

        With `wait` it is followed until it is validated, `timeout` seconds at most. Raises ValidationFailed (a model
        that is not known, a file that would execute code, one that did not pass), Conflict where the version is there
        with other files, DeadlineExceeded.
        """
        version_part(name, version)
        tell = on_progress or (lambda step: None)
        found = await asyncio.to_thread(read_import, path, provider=provider, type_=type)
        for one in found.left_out:
            tell(Transfer(stage="left_out", file=one))
        given = Newcomer.of(
            found, name=name, version=version, config=config, running=running, training=training, metrics=metrics,
            description=description, tags=tags,
        )  # fmt: skip
        registering = Registering(self._control, self._carrier, self._retrier, tell)
        return await registering.run(given, wait=wait, timeout=timeout)

    async def versions(self, name: str, *, state: VersionState | None = None) -> list[VersionInfo]:
        """All of a model, over all pages, the lowest first."""
        params = {"state": state} if state else {}
        pages = self._pages(f"{model_path(name)}/versions", params)
        return [version_info(entry) async for entry in pages]

    async def model_version(self, name: str, version: str) -> VersionInfo:
        """Raises ModelNotFound, VersionNotFound."""
        return version_info(await self._control.ask("GET", version_path(name, version)))

    async def lineage(self, name: str, version: str) -> LineageInfo:
        """What it was made of and what was made of it, as far as that reaches."""
        return lineage_info(await self._control.ask("GET", f"{version_path(name, version)}/lineage"))

    async def diff(self, name: str, before: str, after: str) -> list[FieldDifference]:
        """What differs between two versions, without what differs in any two."""
        path = f"{version_path(name, before)}/diff/{version_part(name, after)}"
        return differences(await self._control.ask("GET", path))

    async def make_current(
        self, name: str, version: str, *, row: int | None = None, timeout: float = SWAP_TIMEOUT_S
    ) -> ModelInfo:
        """The bare name stands for this version from now on: loaded and warm before it takes over from the other.

        Raises WrongState for one that is not approved.
        """
        version_part(name, version)
        path, body = f"{model_path(name)}/current", {"version": version}
        return model_info(await self._changed("PUT", path, row, body=body, timeout=timeout, again=row is None))

    async def move(
        self, name: str, version: str, move: Move, *, reason: str = "", row: int | None = None
    ) -> VersionInfo:
        """One step of its life; raises WrongState naming what is allowed."""
        path, body = f"{version_path(name, version)}/moves", {"move": move, "reason": reason}
        return version_info(await self._changed("POST", path, row, body=body, again=False))

    async def validate(
        self, name: str, version: str, *, timeout: float = SWAP_TIMEOUT_S
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Tries the version on a runner: steps, the last one is the report (`stage` is `report`)."""
        path, headers = f"{version_path(name, version)}/validate", {"x-modelmora-timeout-ms": str(int(timeout * 1000))}
        async with aclosing(self._control.connection.lines(path, timeout=timeout, headers=headers)) as lines:
            async for line in lines:
                yield line

    async def add_metrics(
        self, name: str, version: str, metrics: Sequence[Metric], *, row: int | None = None
    ) -> VersionInfo:
        """What was found out later; one of the same name and data set takes the other's place."""
        body = {"metrics": [{"name": one.name, "value": one.value, "dataset": one.dataset} for one in metrics]}
        path = version_path(name, version)
        return version_info(await self._changed("PATCH", path, row, body=body, again=row is None))

    async def remove_version(self, name: str, version: str, *, row: int | None = None) -> None:
        """Raises WrongState for one that is deployed, Conflict for the current one."""
        await self._changed("DELETE", version_path(name, version), row, again=False)

    async def remove_model(self, name: str, *, row: int | None = None) -> None:
        """Raises Conflict while it has versions."""
        await self._changed("DELETE", model_path(name), row, again=False)

    async def download(
        self, name: str, version: str, folder: str | os.PathLike[str], *, on_progress: OnProgress | None = None
    ) -> VersionInfo:
        """The files of a version into a folder, checked; those that are there whole already stay as they are.

        A file takes its place in one step. Raises ArtifactCorrupt where other bytes came, CapabilityMissing for a
        version without files of its own, InvalidInput for what cannot be written.
        """
        found = await self.model_version(name, version)
        if found.artifact is None:
            said = f"{found.key} is declared with {found.source}; its files are not in the object store"
            raise CapabilityMissing(said, field="version", found=found.source, expected="a registered version")
        tell = on_progress or (lambda step: None)
        await self._carrier.download(version_path(name, version), found.artifact.files, Path(folder), tell)
        return found

    async def audit(
        self,
        *,
        subject: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        newest_first: bool = False,
    ) -> AsyncGenerator[AuditInfo, None]:
        """Every change of what is registered, over all pages, in order."""
        given = {"subject": subject, "actor": actor, "action": action}
        params = {name: value for name, value in given.items() if value is not None}
        order = {"order": "-seq" if newest_first else "seq"}
        async with aclosing(self._pages("/api/v1/audit", params | order)) as entries:
            async for entry in entries:
                yield audit_info(entry)

    async def audit_verify(self, *, timeout: float = SWAP_TIMEOUT_S) -> AuditVerdict:
        """Whether the chain of the audit holds; every entry is read."""
        return audit_verdict(await self._control.ask("GET", "/api/v1/audit/verify", timeout=timeout))

    async def collect(self, *, older_than_s: float | None = None, timeout: float = SWAP_TIMEOUT_S) -> Collected:
        """Removes what no version refers to and what is older than that (an hour) from the object store."""
        body = {} if older_than_s is None else {"older_than_s": older_than_s}
        return collected(await self._control.ask("POST", "/api/v1/artifacts/gc", body=body, timeout=timeout))

    @property
    def _carrier(self) -> Carrier:
        return Carrier(self._control, self._retrier, self._timeout)

    async def _changed(self, method: str, path: str, row: int | None, **content: Any) -> Any:
        """Only as it was at `row`; without one, somebody else who changes it at the same moment is waited for."""
        headers = {} if row is None else {"if-match": f'"{row}"'}
        for pause_s in PAUSES_S if row is None else ():
            try:
                return await self._control.ask(method, path, headers=headers, **content)
            except PreconditionFailed:
                await self._retrier.sleep(pause_s)
        return await self._control.ask(method, path, headers=headers, **content)

    def _pages(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[Any, None]:
        return pages(self._control, path, params)
