"""What the use cases need of the outside, named by the need; adapters and rooms fulfil it.

Every port that handles many items returns one outcome per item, in the order given. A port raises
only errors of `modelmora.errors`; foreign exceptions are translated in the adapter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from modelmora.domain.classification import Scores
from modelmora.domain.description import Description
from modelmora.domain.inference import Call, Content, Embedded, Image, Inference, Timings
from modelmora.domain.models import ModelRef, ModelSpec, ModelType, State, Task
from modelmora.domain.outcome import Outcome
from modelmora.domain.progress import Step
from modelmora.domain.registry.audit import AuditEntry, Broken, Change
from modelmora.domain.registry.entries import Model, ModelVersion
from modelmora.domain.registry.lineage import Lineage, Node
from modelmora.domain.registry.pages import AuditQuery, ModelQuery, Page, VersionQuery
from modelmora.domain.segmentation import Everything, MaskOptions, Prompt, Segmented
from modelmora.domain.tensors import Tensor

Watch: TypeAlias = Callable[[int, Step], None]
"""Told how far the item of an index is; called on the event loop, must be quick and must not raise."""


class Describer(Protocol):
    """Says how models take their input and what comes out."""

    async def describe(self, model: ModelSpec, *, deadline: float) -> Description:
        """From the model's configuration; it need not be in memory. Raises what is wrong with it (ModelLoadFailed,
        ModelLoading), DependencyUnavailable, DeadlineExceeded."""
        ...


class Embedder(Protocol):
    """Turns pictures or texts into vectors."""

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Embedded]]:
        """One outcome per item, same order; never raises for an item, only when all are lost.

        An item whose deadline passes fails with `deadline_exceeded`; a cancelled caller's items are
        dropped before compute. `watch` costs messages; without it progress costs nothing.
        """
        ...


class Capacity(Protocol):
    """How many items may be under way at once."""

    def permit(self, items: int) -> AbstractContextManager[None]:
        """Room for so many until the block ends; raises Overloaded at once where there is none."""
        ...


class Pictures(Protocol):
    """Brings pictures that lie elsewhere."""

    async def fetch(self, urls: Sequence[str], *, call: Call) -> list[Outcome[bytes]]:
        """The bytes behind each URL, one outcome per URL, same order; never raises for a URL.

        Where it is not allowed to look, it does not: what may be asked is an operator's decision.
        """
        ...


class Classifier(Protocol):
    """Gives pictures scores of the labels a model knows."""

    async def classify(
        self, model: ModelSpec, items: Sequence[Image], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Scores]]:
        """The logits of the description's labels, one outcome per item, same order; as `Embedder.embed` otherwise."""
        ...


class Segmenter(Protocol):
    """Cuts out of a picture what prompts point at."""

    def segment(
        self,
        model: ModelSpec,
        image: Image,
        asked: Sequence[Prompt] | Everything,
        *,
        options: MaskOptions,
        call: Call,
        watch: Watch | None = None,
    ) -> AsyncGenerator[tuple[int, Outcome[Segmented]], None]:
        """Each prompt's outcome with its index, as they come; of everything one mask after the other, the best first.

        The picture is encoded once for all prompts, and remembered by content. Raises what concerns the picture as a
        whole. Closing the generator drops what was not computed yet.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A tensor model's outputs by name, and what they cost."""

    outputs: Mapping[str, Tensor]
    timings: Timings


class Predictor(Protocol):
    """Runs tensors through a model."""

    async def predict(
        self, model: ModelSpec, inputs: Mapping[str, Tensor], *, outputs: Sequence[str] = (), call: Call
    ) -> Predicted:
        """The named outputs (none: all). Where the model takes batches, the first axis is their size: rows of several
        callers are computed together. Raises SchemaMismatch with every fault in the inputs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A model as one runner worker has it; `bytes` is its measured footprint (0: not known)."""

    model: str
    state: State
    bytes: int = 0
    in_flight: int = 0
    error: str | None = None


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


Examination = Literal["verify", "tune"]


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


Wanted = Literal["loaded", "unloaded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desire:
    """What somebody asked for: a row of `desired_models`; `generation` grows with each change."""

    name: str
    version: str
    wanted: Wanted
    generation: int


class DesiredModels(Protocol):
    """The wanted state, shared by all API workers."""

    async def set(self, name: str, version: str, wanted: Wanted) -> Desire:
        """Writes the wish; the same wish again still raises the generation."""
        ...

    async def all(self) -> Sequence[Desire]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """A measured size: weights plus peak, by model, device and precision."""

    model: str
    device: str
    precision: str
    bytes: int


class Footprints(Protocol):
    """Measured sizes, remembered over restarts."""

    async def remember(self, footprint: Footprint) -> None:
        """The latest measurement replaces the earlier one."""
        ...

    async def all(self) -> Sequence[Footprint]: ...


class RegisteredModels(Protocol):
    """Models by name. Each change keeps its entry of the audit in the same transaction: both or neither."""

    async def add(self, model: Model, *, change: Change) -> None:
        """Raises Conflict where the name is taken."""
        ...

    async def get(self, name_or_id: str) -> Model:
        """Raises ModelNotFound."""
        ...

    async def find(self, query: ModelQuery) -> Page[Model]:
        """Raises ValidationFailed for a cursor of another order."""
        ...

    async def change(self, model: Model, *, change: Change) -> None:
        """Its `row` is one above that it was read with; the name stays. Raises PreconditionFailed where it was changed
        meanwhile, ModelNotFound."""
        ...

    async def remove(self, model: Model, *, change: Change) -> None:
        """As it was read; raises Conflict while it has versions, PreconditionFailed, ModelNotFound."""
        ...


class RegisteredVersions(Protocol):
    """Versions of models; changes as in `RegisteredModels`."""

    async def add(self, version: ModelVersion, *, change: Change) -> None:
        """Raises Conflict where the model has the version already, ModelNotFound."""
        ...

    async def get(self, model: str, version: str) -> ModelVersion:
        """Raises ModelNotFound, VersionNotFound."""
        ...

    async def find(self, query: VersionQuery) -> Page[ModelVersion]:
        """Raises ValidationFailed for a cursor of another order."""
        ...

    async def change(self, version: ModelVersion, *, change: Change) -> None:
        """As `RegisteredModels.change`; raises VersionNotFound for one that is gone."""
        ...

    async def remove(self, version: ModelVersion, *, change: Change) -> None:
        """As it was read; raises PreconditionFailed, VersionNotFound. What was made of it still says so."""
        ...


class Lineages(Protocol):
    """Where versions come from."""

    async def around(self, node: Node) -> Lineage:
        """All ancestors and descendants of the node, with the edges among them; empty where there are none."""
        ...


class AuditLog(Protocol):
    """Every change of what is registered, in order; entries are never changed or removed."""

    async def entries(self, query: AuditQuery) -> Page[AuditEntry]:
        """Raises ValidationFailed for a cursor of another order."""
        ...

    async def broken(self) -> Broken | None:
        """Where the chain breaks first; None where it holds up to the last entry that was written."""
        ...


class Leases(Protocol):
    """Who may do what must run once. A fence grows with every change of holder."""

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        """Takes or renews; the fence, or None while another holds it."""
        ...

    async def release(self, name: str, holder: str) -> None:
        """Gives it back at once; nothing happens when somebody else holds it."""
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
