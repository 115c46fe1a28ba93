"""Fakes of the ports, in memory, and an application built over them: what the doors and use cases are tested with."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.classification import Scores
from modelmora.domain.description import Description
from modelmora.domain.inference import Call, Content, Embedded, Image, Timings, Vector
from modelmora.domain.models import GroupSpec, ModelRef, ModelSpec, ModelType, State, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.preprocess import Preprocess, TextPreprocess
from modelmora.domain.progress import Step
from modelmora.domain.segmentation import Box, Everything, Mask, MaskOptions, Prompt, Segmented
from modelmora.domain.tensors import Tensor, TensorSpec
from modelmora.errors import ModelMoraError, Overloaded, SchemaMismatch, ValidationFailed
from modelmora.ports import (
    Desire,
    Examination,
    Fetch,
    Holding,
    Hook,
    ModelReport,
    Predicted,
    Wanted,
    Watch,
    WorkerView,
)
from modelmora.usecases.admission import Admission, Limits
from modelmora.usecases.application import Application
from modelmora.usecases.classify import Classify
from modelmora.usecases.compare import Compare
from modelmora.usecases.decoding import DECODING_BYTES, Decoding
from modelmora.usecases.describe import Describe
from modelmora.usecases.embed import Embed
from modelmora.usecases.embed_stream import EmbedStream
from modelmora.usecases.embed_watched import EmbedWatched
from modelmora.usecases.health import Health
from modelmora.usecases.models import Models
from modelmora.usecases.predict import Predict
from modelmora.usecases.probes import Probes
from modelmora.usecases.recent_inferences import RecentInferences
from modelmora.usecases.segment import Segment
from tests.registries import RealRegistry

DIMENSION = 4
TIMINGS = Timings(queue_ms=1.0, preprocess_ms=2.0, inference_ms=3.0)
STAGES = r"queue;dur=1\.00, preprocess;dur=2\.00, inference;dur=3\.00, total;dur=\d+\.\d\d"
"""The same as every face tells it."""

CLIP = ModelSpec(
    name="clip", version="1.0.0", type="embedding", provider="noop", source="bundled:noop", default=True, pin=True
)
OLD = ModelSpec(name="vit", version="1.0.0", type="embedding", provider="noop", source="bundled:noop")
VIT = ModelSpec(name="vit", version="2.0.0-rc.1", type="embedding", provider="noop", source="hub:somebody/vit")
SAM = ModelSpec(name="sam", version="1.0.0", type="segmentation", provider="sam", source="hub:somebody/sam")
CATALOGUE = Catalogue((OLD, VIT, SAM, CLIP), (GroupSpec(),))

IRIS = ModelSpec(name="iris", version="1.0.0", type="tensor", provider="onnx", source="hub:somebody/iris", default=True)
IRIS_DESCRIBED = Description(
    model=IRIS.key,
    inputs=(TensorSpec(name="features", dtype="float32", shape=("batch", 4)),),
    outputs=(
        TensorSpec(name="scores", dtype="float32", shape=("batch", 3), labels=("setosa", "versicolor", "virginica")),
        TensorSpec(name="class", dtype="int64", shape=("batch",)),
    ),
)
"""A tensor model, which the catalogue has only where a test puts it."""


def bytes_of(content: Content) -> bytes:
    """A picture's bytes or a text's UTF-8."""
    return content.data if isinstance(content, Image) else content.text.encode()


def vector_of(content: bytes) -> list[float]:
    """The fake embedding: a function of every byte, each component exact in float32."""
    return [byte / 256 for byte in hashlib.sha256(content).digest()[:DIMENSION]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of the embedder."""

    model: ModelSpec
    task: Task
    items: tuple[Content, ...]
    call: Call


@dataclass(slots=True)
class FakeEmbedder:
    """A vector for each item; an item that contains a marker of `fails` fails with its error.

    `raises` fails the whole request. While `hold` is set (to an unset event) every call waits for it, or only those
    with an item that contains the marker of one of `holds`; `entered` is set when one does, `cancelled` when one
    left meanwhile. Whoever watches is told `steps` of each item first. `running` calls are under way, `most` was their
    largest number.
    """

    fails: dict[bytes, ModelMoraError] = field(default_factory=dict)
    raises: Exception | None = None
    hold: asyncio.Event | None = None
    holds: dict[bytes, asyncio.Event] = field(default_factory=dict)
    steps: Sequence[Step] = ()
    watch: Watch | None = None
    running: int = 0
    most: int = 0
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[Asked] = field(default_factory=list)
    lost: int = 0

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Embedded]]:
        self.asked.append(Asked(model, task, tuple(items), call))
        self.watch = watch
        if self.raises is not None:
            raise self.raises
        if watch is not None:
            for index, step in ((index, step) for index in range(len(items)) for step in self.steps):
                watch(index, step)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._held([bytes_of(item) for item in items])
        finally:
            self.running -= 1
        return [self._outcome(bytes_of(item)) for item in items][self.lost :]

    async def _held(self, contents: Sequence[bytes]) -> None:
        marked = (event for marker, event in self.holds.items() if any(marker in content for content in contents))
        hold = self.hold or next(marked, None)
        if hold is None:
            return
        self.entered.set()
        try:
            await hold.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def _outcome(self, content: bytes) -> Outcome[Embedded]:
        for marker, error in self.fails.items():
            if marker in content:
                return Failed(error)
        vector = Vector(np.array(vector_of(content), "<f4").tobytes())
        return Ok(Embedded(vector, TIMINGS, tokens=len(content)))


@dataclass(slots=True)
class FakeDescriber:
    """Every model takes pictures and texts and gives vectors of `DIMENSION`, unless `known` describes it."""

    known: dict[str, Description] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    raises: ModelMoraError | None = None

    async def describe(self, model: ModelSpec, *, deadline: float) -> Description:
        self.asked.append(model.key)
        if self.raises is not None:
            raise self.raises
        image, text = Preprocess(resize="exact", height=1, width=1), TextPreprocess(tokenizer="bytes", context_length=0)
        return self.known.get(model.key, Description(model=model.key, dimension=DIMENSION, image=image, text=text))


@dataclass(slots=True)
class FakeCapacity:
    """Room for `most` items; `taken` are those that are under way now."""

    most: int = 64
    taken: int = 0

    @contextmanager
    def permit(self, items: int) -> Iterator[None]:
        if self.taken + items > self.most:
            raise Overloaded(f"{self.taken} items are under way", retry_after_s=1.0)
        self.taken += items
        try:
            yield
        finally:
            self.taken -= items


@dataclass(slots=True)
class FakePictures:
    """What lies behind each URL, or why it cannot be had; behind any other there is nothing.

    While `hold` is set (to an unset event) every fetch waits for it: `entered` is set when one does.
    """

    behind: dict[str, bytes | ModelMoraError] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    hold: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    async def fetch(self, urls: Sequence[str], *, call: Call) -> list[Outcome[bytes]]:
        self.asked += urls
        if self.hold is not None:
            self.entered.set()
            await self.hold.wait()
        found = [self.behind.get(url, ValidationFailed("404", field="input", found=url)) for url in urls]
        return [Ok(each) if isinstance(each, bytes) else Failed(each) for each in found]


@dataclass(slots=True)
class FakeClassifier:
    """The logits of `gives` for every picture; one that contains a marker of `fails` fails with its error.

    `raises` fails the whole request. While `hold` is set (to an unset event) every call waits for it: `entered` is set
    when one does, `cancelled` when one left meanwhile.
    """

    gives: Sequence[float] = (1.0, 3.0, 2.0)
    fails: dict[bytes, ModelMoraError] = field(default_factory=dict)
    raises: Exception | None = None
    hold: asyncio.Event | None = None
    watch: Watch | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[tuple[ModelSpec, Sequence[Image], Call]] = field(default_factory=list)

    async def classify(
        self, model: ModelSpec, items: Sequence[Image], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Scores]]:
        self.asked.append((model, items, call))
        self.watch = watch
        if self.hold is not None:
            self.entered.set()
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.raises is not None:
            raise self.raises
        return [self._outcome(item.data) for item in items]

    def _outcome(self, content: bytes) -> Outcome[Scores]:
        for marker, error in self.fails.items():
            if marker in content:
                return Failed(error)
        return Ok(Scores(Vector(np.array(self.gives, "<f4").tobytes()), TIMINGS))


@dataclass(slots=True)
class FakePredictor:
    """Gives `gives`, or of it what is asked for, and keeps the inputs. `raises` fails the request; while `hold` is set
    (to an unset event) it waits for it: `entered` is set when one does, `cancelled` when one left meanwhile."""

    gives: dict[str, Tensor] = field(default_factory=dict)
    raises: Exception | None = None
    hold: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[tuple[ModelSpec, Mapping[str, Tensor], Sequence[str], Call]] = field(default_factory=list)

    async def predict(
        self, model: ModelSpec, inputs: Mapping[str, Tensor], *, outputs: Sequence[str] = (), call: Call
    ) -> Predicted:
        self.asked.append((model, inputs, tuple(outputs), call))
        if self.hold is not None:
            self.entered.set()
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.raises is not None:
            raise self.raises
        unknown = [name for name in outputs if name not in self.gives]
        if unknown:
            raise SchemaMismatch(f"no output {unknown[0]!r}", field="outputs", found=unknown[0])
        return Predicted(outputs={name: self.gives[name] for name in outputs or self.gives}, timings=TIMINGS)


MASK = Mask(counts=b"08", score=0.75, area=8, box=Box(left=0.0, top=0.0, right=4.0, bottom=2.0))
"""Every pixel of a picture 4 wide and 2 high."""


@dataclass(slots=True)
class FakeSegmenter:
    """`gives` for every prompt, the last prompt first, or a part of everything for each of its masks.

    A prompt of an id in `fails` fails with its error; `raises` fails the request. While `hold` is set (to an unset
    event) the parts after the first wait for it: `entered` is set when one does, `left` when the reader has gone.
    """

    gives: tuple[Mask, ...] = (MASK,)
    size: tuple[int, int] = (2, 4)
    fails: dict[str, ModelMoraError] = field(default_factory=dict)
    raises: Exception | None = None
    hold: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[tuple[ModelSpec, Image, Sequence[Prompt] | Everything, MaskOptions, Call]] = field(default_factory=list)

    async def segment(
        self,
        model: ModelSpec,
        image: Image,
        asked: Sequence[Prompt] | Everything,
        *,
        options: MaskOptions,
        call: Call,
        watch: Watch | None = None,
    ) -> AsyncGenerator[tuple[int, Outcome[Segmented]], None]:
        self.asked.append((model, image, asked, options, call))
        if self.raises is not None:
            raise self.raises
        parts = dict(self._parts(asked))
        try:
            for number, index in enumerate(parts):
                if number and self.hold is not None:
                    self.entered.set()
                    await self.hold.wait()
                yield index, parts[index]
        finally:
            self.left.set()

    def _parts(self, asked: Sequence[Prompt] | Everything) -> Iterator[tuple[int, Outcome[Segmented]]]:
        if isinstance(asked, Everything):
            yield from ((index, self._segmented(mask)) for index, mask in enumerate(self.gives))
            return
        for index in reversed(range(len(asked))):
            error = self.fails.get(asked[index].id)
            yield index, Failed(error) if error else self._segmented(*self.gives)

    def _segmented(self, *masks: Mask) -> Outcome[Segmented]:
        return Ok(Segmented(masks=masks, height=self.size[0], width=self.size[1], timings=TIMINGS))


def holding(spec: ModelSpec, state: State = "loaded", **more: int | str | None) -> Holding:
    """A model as a worker has it; 1 MiB when loaded."""
    facts = {"bytes": 2**20 if state == "loaded" else 0, **more}
    return Holding(model=spec.key, state=state, **facts)  # type: ignore[arg-type] # facts are Holding's own fields


def worker(name: str = "default-1-100", *holdings: Holding, group: str = "default", ready: bool = True) -> WorkerView:
    """A live worker."""
    return WorkerView(
        group=group,
        worker=name,
        pid=100,
        ready=ready,
        resident_bytes=5 * 2**20,
        budget_bytes=8 * 2**20,
        held_bytes=sum(h.bytes for h in holdings),
        holdings={h.model: h for h in holdings},
    )


@dataclass(slots=True)
class FakeHost:
    """Workers as told; changes are noted and carried out, or fail with `trouble`. `hold` delays them.

    `left` is set when an examination's reader has gone.
    """

    views: list[WorkerView] = field(default_factory=lambda: [worker("default-1-100", holding(CLIP))])
    groups: dict[str, int] = field(default_factory=lambda: {"default": 1})
    changes: list[tuple[str, str]] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    troubles: dict[str, Exception] = field(default_factory=dict)
    findings: list[Mapping[str, Any]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    hold: asyncio.Event | None = None

    async def load(self, model: ModelSpec, *, deadline: float) -> ModelReport:
        return await self._change("load", model, "loaded", deadline)

    async def unload(self, model: ModelSpec, *, deadline: float) -> ModelReport:
        return await self._change("unload", model, "unloaded", deadline)

    async def warmup(self, model: ModelSpec, *, deadline: float) -> ModelReport:
        return await self._change("warmup", model, "loaded", deadline)

    async def examine(
        self, model: ModelSpec, what: Examination, *, deadline: float
    ) -> AsyncIterator[Mapping[str, Any]]:
        """`findings`, each after `hold`; then the model's trouble, if any."""
        self.changes.append((what, model.key))
        self.deadlines.append(deadline)
        try:
            for finding in self.findings:
                yield finding
                if self.hold is not None:
                    await self.hold.wait()
            if model.key in self.troubles:
                raise self.troubles[model.key]
        finally:
            self.left.set()

    def workers(self) -> Sequence[WorkerView]:
        return self.views

    def wanted(self) -> Mapping[str, int]:
        return self.groups

    async def _change(self, verb: str, model: ModelSpec, state: State, deadline: float) -> ModelReport:
        self.changes.append((verb, model.key))
        self.deadlines.append(deadline)
        if self.hold is not None:
            await self.hold.wait()
        if model.key in self.troubles:
            raise self.troubles[model.key]
        ours = [view for view in self.views if view.group == model.group]
        held = [holding(model)] if state == "loaded" else []
        for view in ours:
            others = [h for h in view.holdings.values() if h.model != model.key]
            changed = worker(view.worker, *others, *held, group=view.group, ready=view.ready)
            self.views[self.views.index(view)] = changed
        size = 2**20 if state == "loaded" else 0
        names = tuple(view.worker for view in ours)
        return ModelReport(model=model.name, version=model.version, state=state, workers=names, ms=12.34, bytes=size)


@dataclass(slots=True)
class FakeDesires:
    """The wanted state in a dictionary; `trouble` while the store is away."""

    rows: dict[tuple[str, str], Desire] = field(default_factory=dict)
    trouble: ModelMoraError | None = None
    asked: int = 0

    async def set(self, name: str, version: str, wanted: Wanted) -> Desire:
        if self.trouble is not None:
            raise self.trouble
        generation = max((row.generation for row in self.rows.values()), default=0) + 1
        desire = self.rows[name, version] = Desire(name=name, version=version, wanted=wanted, generation=generation)
        return desire

    async def all(self) -> Sequence[Desire]:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return list(self.rows.values())


@dataclass(slots=True)
class FakeArtifacts:
    """Files of models: `missing` ones raise, `fetches` are told for every model, then `trouble` if any."""

    missing: dict[str, ModelMoraError] = field(default_factory=dict)
    fetches: list[Fetch] = field(default_factory=list)
    trouble: ModelMoraError | None = None

    def locate(self, model: ModelSpec) -> Path | None:
        if model.key in self.missing:
            raise self.missing[model.key]
        return None

    async def fetch(self, model: ModelSpec) -> AsyncIterator[Fetch]:
        for step in self.fetches:
            yield step
        if self.trouble is not None:
            raise self.trouble


@dataclass(frozen=True, slots=True)
class CatalogueTraffic:
    """The named version, else the current one."""

    catalogue: Catalogue = CATALOGUE

    def route(self, ref: ModelRef | None, type_: ModelType) -> ModelSpec:
        return self.catalogue.default(type_) if ref is None else self.catalogue.get(ref)


@dataclass(slots=True)
class Clock:
    """A clock that goes when told."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


async def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Lets the loop run until `condition` holds; TimeoutError when it does not in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - any condition, not only those that tell
            await asyncio.sleep(0.002)


LIMITS = Limits(items=8, stream_items=200, image_bytes=4_096, text_chars=100, timeout_ms=10_000, max_timeout_ms=60_000)


@dataclass(slots=True)
class World:
    """An application over fakes, and the fakes."""

    embedder: FakeEmbedder = field(default_factory=FakeEmbedder)
    describer: FakeDescriber = field(default_factory=FakeDescriber)
    pictures: FakePictures = field(default_factory=FakePictures)
    capacity: FakeCapacity = field(default_factory=FakeCapacity)
    host: FakeHost = field(default_factory=FakeHost)
    desires: FakeDesires = field(default_factory=FakeDesires)
    artifacts: FakeArtifacts = field(default_factory=FakeArtifacts)
    checks: dict[str, Callable[[], Awaitable[object]]] = field(default_factory=dict)
    hooks: list[Hook] = field(default_factory=list)
    recent: RecentInferences = field(default_factory=RecentInferences)
    classifier: FakeClassifier = field(default_factory=FakeClassifier)
    predictor: FakePredictor = field(default_factory=FakePredictor)
    segmenter: FakeSegmenter = field(default_factory=FakeSegmenter)
    catalogue: Catalogue = CATALOGUE
    limits: Limits = LIMITS
    clock: Clock = field(default_factory=Clock)
    decoding_bytes: int = DECODING_BYTES
    _kept: RealRegistry | None = None

    @property
    def kept(self) -> RealRegistry:
        """The registry and what it stands on."""
        if self._kept is None:
            self._kept = RealRegistry(self.catalogue, self.host, self.desires)
        return self._kept

    async def close(self) -> None:
        """For those who asked the registry."""
        if self._kept is not None:
            await self._kept.close()

    def models(self) -> Models:
        return Models(self.kept.roster, CatalogueTraffic(self.catalogue), self.host, self.desires, self.artifacts)

    def admission(self) -> Admission:
        return Admission(CatalogueTraffic(self.catalogue), limits=self.limits, hooks=self.hooks, clock=self.clock)

    def classify(self) -> Classify:
        return Classify(self.admission(), self.classifier, self.embedder, self.describer)

    def predict(self) -> Predict:
        return Predict(self.admission(), self.predictor, self.describer)

    def segment(self) -> Segment:
        return Segment(self.admission(), self.segmenter)

    def compare(self) -> Compare:
        return Compare(self.embed(), self.models())

    def embed(self) -> Embed:
        return Embed(self.admission(), self.embedder, self.describer, self.pictures, capacity=self.capacity)

    def health(self) -> Health:
        probes = Probes(self.checks, clock=self.clock, wall=lambda: 1_700_000_000.0)
        return Health(self.host, self.models(), probes, self.recent, clock=self.clock)

    def embed_stream(self, *, window_items: int = 16, window_bytes: int = 2**20) -> EmbedStream:
        return EmbedStream(self.embed(), limits=self.limits, window_items=window_items, window_bytes=window_bytes)

    def application(self) -> Application:
        embed = self.embed()
        return Application(
            embed=embed,
            embed_stream=self.embed_stream(),
            embed_watched=EmbedWatched(embed),
            classify=self.classify(),
            predict=self.predict(),
            segment=self.segment(),
            compare=self.compare(),
            models=self.models(),
            describe=Describe(self.models(), self.describer),
            decoding=Decoding(self.capacity, most_bytes=self.decoding_bytes),
            health=self.health(),
            registry=self.kept.registry,
            limits=self.limits,
            version="9.9.9",
        )
