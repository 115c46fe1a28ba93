"""Models as they are held, loaded, fetched and chosen, and who hears of what was asked of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from modelmora.domain.inference import Inference
from modelmora.domain.models import ModelRef, ModelSpec, ModelType, State, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A model as one runner worker has it; `bytes` is its measured footprint (0: not known), `loads` how often it was
    loaded since the worker started."""

    model: str
    state: State
    bytes: int = 0
    in_flight: int = 0
    error: str | None = None
    loads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One live runner worker, as it last described itself."""

    group: str
    worker: str
    pid: int
    ready: bool
    queued: int = 0
    device: str = "cpu"
    resident_bytes: int = 0
    budget_bytes: int = 0
    held_bytes: int = 0
    holdings: Mapping[str, Holding] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmed:
    """One batch of a warm-up and its milliseconds."""

    task: Task
    items: int
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """What load, unload and warm-up answer: one entry over all workers of the group.

    `ms` is the wall time of the slowest worker, `bytes` the largest footprint, `warmed` the slowest worker's batches.
    """

    model: str
    version: str
    state: State
    workers: tuple[str, ...]
    ms: float
    bytes: int
    warmed: tuple[Warmed, ...] = ()


LOST = "runner"
"""The field of the error of an examination whose runner went away."""

Examination = Literal["verify", "tune", "validate"]


class ModelHost(Protocol):
    """Holds models in runner workers."""

    async def load(self, model: ModelSpec, *, deadline: float) -> ModelReport:
        """Loads on every live worker of the model's group. Idempotent. Raises ModelLoadFailed,
        ArtifactCorrupt, OutOfMemory, DependencyUnavailable, DeadlineExceeded."""
        ...

    async def unload(self, model: ModelSpec, *, deadline: float) -> ModelReport:
        """Waits for the model's running work, then frees it on every worker. Idempotent."""
        ...

    async def warmup(self, model: ModelSpec, *, deadline: float) -> ModelReport:
        """Loads if need be, then runs each batch bucket once."""
        ...

    def examine(self, model: ModelSpec, what: Examination, *, deadline: float) -> AsyncIterator[Mapping[str, Any]]:
        """A long look at a model on one worker: JSON-ready steps, the last one is the report.

        `verify` compares its vectors with the fp32 reference's, `tune` sweeps batch sizes and threads.
        Raises what loading raises, and CapabilityMissing.
        """
        ...

    def workers(self) -> Sequence[WorkerView]:
        """The live workers of all groups."""
        ...

    def wanted(self) -> Mapping[str, int]:
        """Group -> workers that should be alive."""
        ...


class Traffic(Protocol):
    """Decides which version of a model serves a request."""

    def route(self, ref: ModelRef | None, type_: ModelType) -> ModelSpec:
        """None: the type's default. Raises ModelNotFound, VersionNotFound."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """How far the fetching of a model's files is; `total_bytes` is 0 while not known."""

    model: str
    done_bytes: int
    total_bytes: int
    licence: str | None = None
    finished: bool = False


class Artifacts(Protocol):
    """The files of a model on this machine."""

    def locate(self, model: ModelSpec) -> Path | None:
        """The folder with the model's files; None when its family needs none (`bundled:noop`).

        That of a registered version may have to be fetched first, which loading does.

        Raises ModelLoading (files are being fetched or must be: retry or `modelmora pull`),
        ModelLoadFailed (a file or folder that is not there, named).
        """
        ...

    def fetch(self, model: ModelSpec) -> AsyncIterator[Fetch]:
        """Brings the files here, telling its progress; at once finished when they are here already.

        Raises ModelLoadFailed (no such repository, refused), DependencyUnavailable (hub out of reach).
        """
        ...


class Hook(Protocol):
    """Consumes the record of an inference; must be quick and must not raise."""

    def __call__(self, record: Inference) -> None: ...
