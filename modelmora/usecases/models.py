"""Which models there are, which are in memory, and how to change that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelmora.domain.catalogue import Look
from modelmora.domain.models import ModelRef, ModelSpec, ModelType, State
from modelmora.ports import Artifacts, DesiredModels, Examination, Fetch, Holding, ModelHost, ModelReport, Traffic

_ORDER: dict[State, int] = {"loaded": 0, "loading": 1, "unloading": 2, "failed": 3, "unloaded": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A declared model and how it stands over all workers of its group: the best state any has."""

    spec: ModelSpec
    state: State
    bytes: int = 0
    workers: tuple[str, ...] = ()
    error: str | None = None


class Models:
    """The model half of the control plane."""

    def __init__(
        self,
        catalogue: Look,
        traffic: Traffic,
        host: ModelHost,
        desired: DesiredModels,
        artifacts: Artifacts,
    ) -> None:
        self._catalogue = catalogue
        self._traffic = traffic
        self._host = host
        self._desired = desired
        self._artifacts = artifacts

    def list(self, type_: ModelType | None = None) -> Sequence[ModelStatus]:
        """All declared models, by declaration, the defaults first."""
        specs = self._catalogue().models if type_ is None else self._catalogue().of_type(type_)
        return [self._status(spec) for spec in sorted(specs, key=lambda spec: not spec.default)]

    def get(self, ref: str) -> ModelStatus:
        """Raises ModelNotFound, VersionNotFound, ValidationFailed."""
        return self._status(self._spec(ref))

    def find(self, name: str, version: str) -> ModelStatus | None:
        """How a version stands; None for one that is not served."""
        spec = self._catalogue().find(name, version)
        return None if spec is None else self._status(spec)

    async def load(self, ref: str, *, deadline: float) -> ModelReport:
        """Wanted from now on, on every worker of the group; later workers get it too."""
        spec = self._spec(ref)
        self._artifacts.locate(spec)
        await self._desired.set(spec.name, spec.version, "loaded")
        return await self._host.load(spec, deadline=deadline)

    async def unload(self, ref: str, *, deadline: float) -> ModelReport:
        """Out of memory on every worker; the next request loads it again."""
        spec = self._spec(ref)
        await self._desired.set(spec.name, spec.version, "unloaded")
        return await self._host.unload(spec, deadline=deadline)

    async def warmup(self, ref: str, *, deadline: float) -> ModelReport:
        """Loads if need be and runs every batch bucket once."""
        spec = self._spec(ref)
        self._artifacts.locate(spec)
        return await self._host.warmup(spec, deadline=deadline)

    def examine(self, ref: str, what: Examination, *, deadline: float) -> AsyncIterator[Mapping[str, Any]]:
        """A long look at the model on one worker; the last step is the report."""
        spec = self._spec(ref)
        self._artifacts.locate(spec)
        return self._host.examine(spec, what, deadline=deadline)

    def fetch(self, ref: str) -> AsyncIterator[Fetch]:
        """Brings the model's files to this machine."""
        return self._artifacts.fetch(self._spec(ref))

    def _spec(self, ref: str) -> ModelSpec:
        return self._traffic.route(ModelRef.parse(ref), "embedding")

    def _status(self, spec: ModelSpec) -> ModelStatus:
        held: list[tuple[str, Holding]] = [
            (view.worker, view.holdings[spec.key]) for view in self._host.workers() if spec.key in view.holdings
        ]
        if not held:
            return ModelStatus(spec=spec, state="unloaded")
        best = min((holding for _, holding in held), key=lambda holding: _ORDER[holding.state])
        return ModelStatus(
            spec=spec,
            state=best.state,
            bytes=max(holding.bytes for _, holding in held),
            workers=tuple(worker for worker, holding in held if holding.state == "loaded"),
            error=next((holding.error for _, holding in held if holding.error), None),
        )
