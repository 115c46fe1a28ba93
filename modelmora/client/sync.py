"""The sync facade: the same client, driven by an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack

from modelmora.client.address import DEFAULT_URL
from modelmora.client.classification import Classification
from modelmora.client.client import LOAD_TIMEOUT_S, Client
from modelmora.client.comparison import Comparison
from modelmora.client.control import ModelInfo
from modelmora.client.embedding import Embedding
from modelmora.client.keeping_sync import SyncKeeping
from modelmora.client.prediction import Prediction
from modelmora.client.progress import Progress
from modelmora.client.registry_sync import SyncRegistry
from modelmora.client.retry import Retry
from modelmora.client.segmentation import Segmentation
from modelmora.client.transport import Transport
from modelmora.domain.inference import Priority
from modelmora.domain.models import ModelType
from modelmora.domain.outcome import Outcome
from modelmora.domain.segmentation import Everything, Prompt
from modelmora.errors import WrongState
from modelmora.ports import Fetch, ModelReport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from modelmora.client.pictures import Picture, Source
    from modelmora.client.tensors import Given

T = TypeVar("T")


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of `Client`."""

    control_url: str | None
    timeout: float
    retry: Retry
    channels: int
    token: str | None
    transport: Transport | None


class EmbedOptions(TypedDict, total=False):
    """The keyword arguments that every embedding method of `Client` takes."""

    model: str | None
    timeout: float | None
    truncate: bool
    priority: Priority


class TaskOptions(TypedDict, total=False):
    """The keyword arguments that every other inference of `Client` takes."""

    timeout: float | None
    priority: Priority


class ClassifyingOptions(TaskOptions, total=False):
    """The keyword arguments of `classify`."""

    labels: Sequence[str]
    templates: Sequence[str]
    top_k: int | None
    threshold: float | None
    truncate: bool
    model: str | None


class SegmentingOptions(TaskOptions, total=False):
    """The keyword arguments of `segment` and `segment_all`."""

    multimask: bool | None
    logits: bool
    model: str | None


class ComparingOptions(TaskOptions, total=False):
    """The keyword arguments of `compare`."""

    truncate: bool


class PredictingOptions(TaskOptions, total=False):
    """The keyword arguments of `predict`."""

    outputs: Sequence[str]
    model: str | None


class LoadOptions(TypedDict, total=False):
    """The keyword arguments of load, unload and warmup."""

    wait: bool
    timeout: float


class SyncClient(SyncRegistry, SyncKeeping):
    """`Client` for code without an event loop; each method waits for the async one of the same name.

    Safe to use from several threads. Close it, or use it in a `with` statement.
    """

    def __init__(self, url: str = DEFAULT_URL, **options: Unpack[ClientOptions]) -> None:
        self._client = Client(url, **options)
        self._thread = _LoopThread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every connection and the thread. Safe to repeat."""
        if not self._thread.stopped:
            self._run(self._client.close())
            self._thread.stop()

    def generate_embedding(
        self, image: Picture | None = None, *, text: str | None = None, **options: Unpack[EmbedOptions]
    ) -> Embedding:
        return self._run(self._client.generate_embedding(image, text=text, **options))

    def generate_embeddings(self, items: Sequence[Source], **options: Unpack[EmbedOptions]) -> list[Outcome[Embedding]]:
        return self._run(self._client.generate_embeddings(items, **options))

    def embed_with_progress(
        self, image: Picture | None = None, *, text: str | None = None, **options: Unpack[EmbedOptions]
    ) -> Iterator[Progress | Embedding]:
        return self._each(self._client.embed_with_progress(image, text=text, **options))

    def generate_batch(
        self, items: Iterable[Source], *, window: int = 64, **options: Unpack[EmbedOptions]
    ) -> Iterator[tuple[int, Outcome[Embedding]]]:
        """As `Client.generate_batch`; `items` is advanced in another thread."""
        return self._each(self._client.generate_batch(items, window=window, **options))

    def embed_many(
        self,
        items: Iterable[Source],
        *,
        concurrency: int = 16,
        ordered: bool = True,
        **options: Unpack[EmbedOptions],
    ) -> Iterator[tuple[int, Outcome[Embedding]]]:
        """As `Client.embed_many`; `items` is advanced in another thread."""
        return self._each(self._client.embed_many(items, concurrency=concurrency, ordered=ordered, **options))

    def classify(
        self, pictures: Sequence[Picture], **options: Unpack[ClassifyingOptions]
    ) -> list[Outcome[Classification]]:
        return self._run(self._client.classify(pictures, **options))

    def segment(
        self, picture: Picture, asked: Sequence[Prompt] | Everything, **options: Unpack[SegmentingOptions]
    ) -> Iterator[tuple[int, Outcome[Segmentation]]]:
        return self._each(self._client.segment(picture, asked, **options))

    def segment_all(
        self, picture: Picture, asked: Sequence[Prompt] | Everything, **options: Unpack[SegmentingOptions]
    ) -> list[Outcome[Segmentation]]:
        return self._run(self._client.segment_all(picture, asked, **options))

    def predict(self, inputs: Mapping[str, Given], **options: Unpack[PredictingOptions]) -> Prediction:
        return self._run(self._client.predict(inputs, **options))

    def compare(
        self, models: Sequence[str], items: Sequence[Source], **options: Unpack[ComparingOptions]
    ) -> list[Outcome[Comparison]]:
        return self._run(self._client.compare(models, items, **options))

    def models(self, type: ModelType | None = None) -> list[ModelInfo]:
        return self._run(self._client.models(type))

    def model(self, ref: str) -> ModelInfo:
        return self._run(self._client.model(ref))

    def load(self, ref: str, **options: Unpack[LoadOptions]) -> ModelReport:
        return self._run(self._client.load(ref, **options))

    def unload(self, ref: str, **options: Unpack[LoadOptions]) -> ModelReport:
        return self._run(self._client.unload(ref, **options))

    def warmup(self, ref: str, **options: Unpack[LoadOptions]) -> ModelReport:
        return self._run(self._client.warmup(ref, **options))

    def pull(self, ref: str, *, silence: float = 120.0) -> Iterator[Fetch]:
        return self._each(self._client.pull(ref, silence=silence))

    def verify(self, ref: str, *, timeout: float = LOAD_TIMEOUT_S) -> Iterator[Mapping[str, Any]]:
        return self._each(self._client.verify(ref, timeout=timeout))

    def tune(self, ref: str, *, timeout: float = LOAD_TIMEOUT_S) -> Iterator[Mapping[str, Any]]:
        return self._each(self._client.tune(ref, timeout=timeout))

    def health(self) -> Mapping[str, Any]:
        return self._run(self._client.health())

    def ready(self) -> bool:
        return self._run(self._client.ready())

    def limits(self) -> Mapping[str, Any]:
        return self._run(self._client.limits())

    def version(self) -> Mapping[str, Any]:
        return self._run(self._client.version())

    def metrics(self) -> str:
        return self._run(self._client.metrics())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._thread.run(work)

    def _each(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        try:
            while (found := self._run(_next_of(items))) is not None:
                yield found[0]
        finally:
            if not self._thread.stopped:
                self._run(items.aclose())


class _LoopThread:
    """An event loop that runs until stopped, in a daemon thread so that no forgotten client keeps a process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="modelmora-client", daemon=True)
        self._thread.start()
        self.stopped = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for `work`; who is interrupted while waiting cancels it."""
        if self.stopped:
            work.close()
            raise WrongState("this client is closed; open a new one")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        self.stopped = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


async def _next_of(items: AsyncGenerator[T, None]) -> tuple[T] | None:
    """The next item in a box, since None may be one; None at the end."""
    async for item in items:
        return (item,)
    return None
