"""The registry's half of the sync facade."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from modelmora.client.control import ModelInfo
from modelmora.client.registered import (
    AuditInfo,
    AuditVerdict,
    Collected,
    FieldDifference,
    LineageInfo,
    VersionInfo,
)
from modelmora.client.registry import SWAP_TIMEOUT_S, OnProgress
from modelmora.domain.models import ModelType
from modelmora.domain.registry.lifecycle import Move, VersionState
from modelmora.domain.registry.provenance import Metric

if TYPE_CHECKING:
    from modelmora.client.client import Client

T = TypeVar("T")


class RegisterOptions(TypedDict, total=False):
    """The keyword arguments of `register` beside the name and version."""

    type: ModelType | None
    provider: str | None
    config: Mapping[str, Any] | None
    running: Mapping[str, Any] | None
    training: Mapping[str, Any] | None
    metrics: Sequence[Metric]
    description: str
    tags: Sequence[str]
    wait: bool
    timeout: float
    on_progress: OnProgress | None


class AuditOptions(TypedDict, total=False):
    """The keyword arguments of `audit`."""

    subject: str | None
    actor: str | None
    action: str | None
    newest_first: bool


class SyncRegistry:
    """Each method waits for the async one of the same name; `on_progress` is called in another thread."""

    _client: Client

    def register(
        self, path: str | os.PathLike[str], *, name: str, version: str, **options: Unpack[RegisterOptions]
    ) -> VersionInfo:
        return self._run(self._client.register(path, name=name, version=version, **options))

    def versions(self, name: str, *, state: VersionState | None = None) -> list[VersionInfo]:
        return self._run(self._client.versions(name, state=state))

    def model_version(self, name: str, version: str) -> VersionInfo:
        return self._run(self._client.model_version(name, version))

    def lineage(self, name: str, version: str) -> LineageInfo:
        return self._run(self._client.lineage(name, version))

    def diff(self, name: str, before: str, after: str) -> list[FieldDifference]:
        return self._run(self._client.diff(name, before, after))

    def make_current(
        self, name: str, version: str, *, row: int | None = None, timeout: float = SWAP_TIMEOUT_S
    ) -> ModelInfo:
        return self._run(self._client.make_current(name, version, row=row, timeout=timeout))

    def move(self, name: str, version: str, move: Move, *, reason: str = "", row: int | None = None) -> VersionInfo:
        return self._run(self._client.move(name, version, move, reason=reason, row=row))

    def validate(self, name: str, version: str, *, timeout: float = SWAP_TIMEOUT_S) -> Iterator[Mapping[str, Any]]:
        return self._each(self._client.validate(name, version, timeout=timeout))

    def add_metrics(self, name: str, version: str, metrics: Sequence[Metric], *, row: int | None = None) -> VersionInfo:
        return self._run(self._client.add_metrics(name, version, metrics, row=row))

    def remove_version(self, name: str, version: str, *, row: int | None = None) -> None:
        self._run(self._client.remove_version(name, version, row=row))

    def remove_model(self, name: str, *, row: int | None = None) -> None:
        self._run(self._client.remove_model(name, row=row))

    def download(
        self, name: str, version: str, folder: str | os.PathLike[str], *, on_progress: OnProgress | None = None
    ) -> VersionInfo:
        return self._run(self._client.download(name, version, folder, on_progress=on_progress))

    def audit(self, **options: Unpack[AuditOptions]) -> Iterator[AuditInfo]:
        return self._each(self._client.audit(**options))

    def audit_verify(self, *, timeout: float = SWAP_TIMEOUT_S) -> AuditVerdict:
        return self._run(self._client.audit_verify(timeout=timeout))

    def collect(self, *, older_than_s: float | None = None, timeout: float = SWAP_TIMEOUT_S) -> Collected:
        return self._run(self._client.collect(older_than_s=older_than_s, timeout=timeout))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        raise NotImplementedError

    def _each(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        raise NotImplementedError
