"""The one client: embedding, the registry, the control half; contents in, outcomes out, with retries and deadlines."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelmora.client import flow
from modelmora.client.batch import Batch
from modelmora.client.chunks import chunks
from modelmora.client.control import ModelInfo
from modelmora.client.embedding import Embedding
from modelmora.client.keeping import Keeping
from modelmora.client.pictures import read, read_each
from modelmora.client.progress import Progress
from modelmora.client.registry import Registry
from modelmora.client.session import noted, noted_in, positive
from modelmora.client.tasks import Tasks
from modelmora.client.transport import Transport
from modelmora.domain.inference import Call, Content, Priority, Text
from modelmora.domain.models import ModelType
from modelmora.domain.outcome import Outcome, unwrap
from modelmora.errors import InternalError, ModelMoraError, ValidationFailed
from modelmora.ports import Fetch, ModelReport

if TYPE_CHECKING:
    from modelmora.client.pictures import Picture, Source

LOAD_TIMEOUT_S = 600.0


class Client(Registry, Tasks, Keeping):
    """A server, by URL: `grpc[s]://host:port` or `http[s]://host:port`.

    Belongs to the event loop it is first used in; connects on first use. `control_url` is where
    the REST control plane is (default: the same host's port 3000 for gRPC, the same URL for HTTP).
    `timeout` is the deadline of a call in seconds, retries included. Every method raises errors of
    `modelmora.errors` only.
    """

    async def generate_embedding(
        self,
        image: Picture | None = None,
        *,
        text: str | None = None,
        model: str | None = None,
        timeout: float | None = None,
        truncate: bool = False,
        priority: Priority = "interactive",
    ) -> Embedding:
        """The embedding of one picture (bytes, path, file object, PIL image) or one text."""
        content = await read(_one_of(image, text))
        call = self._call(timeout, truncate=truncate, priority=priority)
        return unwrap((await self._embed([content], model=model, call=call))[0])

    async def embed_with_progress(
        self,
        image: Picture | None = None,
        *,
        text: str | None = None,
        model: str | None = None,
        timeout: float | None = None,
        truncate: bool = False,
        priority: Priority = "interactive",
    ) -> AsyncGenerator[Progress | Embedding, None]:
        """How far it is, as often as the server tells, then the embedding; `percent` never falls.

        Leaving early frees the server of the work.
        """
        content = unwrap(await read(_one_of(image, text)))
        call = self._call(timeout, truncate=truncate, priority=priority)
        percent, attempt = 0.0, 0
        while True:
            try:
                async with aclosing(self._open().progress(content, model=model, call=call)) as news:
                    async for each in news:
                        if isinstance(each, Embedding):
                            yield each
                            return
                        percent = max(percent, each.percent)
                        yield replace(each, percent=percent)
                raise InternalError("the server ended the stream without an embedding")
            except ModelMoraError as error:
                await self._retrier.pause(attempt, noted(error, call), deadline=call.deadline)
                attempt += 1

    async def generate_embeddings(
        self,
        items: Sequence[Source],
        *,
        model: str | None = None,
        timeout: float | None = None,
        truncate: bool = False,
        priority: Priority = "interactive",
    ) -> list[Outcome[Embedding]]:
        """One outcome per item, same order, in as few requests as the limits allow, within one deadline.

        A `str` is a path; a text is `Text("...")`.
        """
        call = self._call(timeout, truncate=truncate, priority=priority)
        outcomes: list[Outcome[Embedding]] = []

        async def send(chunk: list[Outcome[Content]]) -> list[Outcome[Embedding]]:
            return await self._embed(chunk, model=model, call=call)

        async with aclosing(flow.spread(chunks(read_each(items)), send, concurrency=self._channels)) as parts:
            async for _, part in parts:
                outcomes += part
        return outcomes

    async def embed_many(
        self,
        items: Iterable[Source] | AsyncIterable[Source],
        *,
        model: str | None = None,
        concurrency: int = 16,
        ordered: bool = True,
        timeout: float | None = None,
        truncate: bool = False,
        priority: Priority = "bulk",
    ) -> AsyncGenerator[tuple[int, Outcome[Embedding]], None]:
        """`(index, outcome)` for a stream of any length: one request, deadline and retries an item.

        At most `concurrency` items are held at once. `ordered` False hands them out as they complete,
        so that a slow one delays nobody.
        """
        positive("concurrency", concurrency)

        async def send(source: Source) -> Outcome[Embedding]:
            call = self._call(timeout, truncate=truncate, priority=priority)
            return (await self._embed([await read(source)], model=model, call=call))[0]

        async with aclosing(flow.spread(items, send, concurrency=concurrency, ordered=ordered)) as answers:
            async for numbered in answers:
                yield numbered

    async def generate_batch(
        self,
        items: Iterable[Source] | AsyncIterable[Source],
        *,
        model: str | None = None,
        window: int = 64,
        timeout: float | None = None,
        truncate: bool = False,
        priority: Priority = "bulk",
    ) -> AsyncGenerator[tuple[int, Outcome[Embedding]], None]:
        """`(index, outcome)` for any number of items in one call, as they complete.

        At most `window` items are taken from `items` and not yet handed out; up to 16 more (4 MiB of those that are
        bytes) are read ahead of a plain iterator, by a thread, so that they go out together. `timeout` is the deadline
        of the whole call; without it an item has the server's usual time. What failed for a passing reason and what a
        broken stream left unanswered goes out again, for the client's own timeout at most; then the stream's reason is
        raised.
        """
        call = self._call(timeout, truncate=truncate, priority=priority)
        batch = Batch(
            self._open(),
            model=model,
            call=call if timeout is not None else replace(call, deadline=math.inf),
            window=int(positive("window", window)),
            retrier=self._retrier,
            patience_s=self._timeout,
        )
        try:
            async with aclosing(batch.answers(items)) as answers:
                async for index, outcome in answers:
                    yield index, noted_in(outcome, call)
        except ModelMoraError as error:
            noted(error, call)
            raise

    async def models(self, type: ModelType | None = None) -> list[ModelInfo]:
        """Every model the server knows, loaded or not."""
        return await self._control.models(type)

    async def model(self, ref: str) -> ModelInfo:
        """The model `name` or `name@version`; raises ModelNotFound, VersionNotFound."""
        return await self._control.model(ref)

    async def load(self, ref: str, *, wait: bool = True, timeout: float = LOAD_TIMEOUT_S) -> ModelReport:
        """Loads on every worker of the model's group. Idempotent."""
        return await self._control.change(ref, "load", wait=wait, timeout=timeout)

    async def unload(self, ref: str, *, wait: bool = True, timeout: float = LOAD_TIMEOUT_S) -> ModelReport:
        """Frees the model's memory once its running work is done. Idempotent."""
        return await self._control.change(ref, "unload", wait=wait, timeout=timeout)

    async def warmup(self, ref: str, *, wait: bool = True, timeout: float = LOAD_TIMEOUT_S) -> ModelReport:
        """Loads if need be and runs each batch size once."""
        return await self._control.change(ref, "warmup", wait=wait, timeout=timeout)

    def pull(self, ref: str, *, silence: float = 120.0) -> AsyncGenerator[Fetch, None]:
        """Brings the model's files to the server, telling the progress; `silence` is the longest pause in seconds."""
        return self._control.pull(ref, silence=silence)

    def verify(self, ref: str, *, timeout: float = LOAD_TIMEOUT_S) -> AsyncGenerator[Mapping[str, Any], None]:
        """Compares the model's precisions with fp32 on one worker: steps, then the report (`stage` is `report`)."""
        return self._control.examine(ref, "verify", timeout=timeout)

    def tune(self, ref: str, *, timeout: float = LOAD_TIMEOUT_S) -> AsyncGenerator[Mapping[str, Any], None]:
        """Tries batch sizes and threads on one quiet worker: a step a setting, then the report."""
        return self._control.examine(ref, "tune", timeout=timeout)

    async def health(self) -> Mapping[str, Any]:
        """The server's own report, also when it says `down`; not retried."""
        return await self._control.health()

    async def ready(self) -> bool:
        """Whether the server takes requests now; not retried."""
        return await self._control.ready()

    async def limits(self) -> Mapping[str, Any]:
        return await self._control.limits()

    async def version(self) -> Mapping[str, Any]:
        return await self._control.version()

    async def metrics(self) -> str:
        """In Prometheus's format."""
        return await self._control.metrics()

    async def _embed(
        self, contents: Sequence[Outcome[Content]], *, model: str | None, call: Call
    ) -> list[Outcome[Embedding]]:
        """Sends the contents that could be read; the others keep their failure."""

        async def ask(transport: Transport, items: Sequence[Content]) -> list[Outcome[Embedding]]:
            return await transport.embed(items, model=model, call=call)

        return await self._settle(contents, ask, call=call)


def _one_of(image: Picture | None, text: str | None) -> Source:
    if text is not None and image is None:
        return Text(text)
    if image is not None and text is None:
        return image
    raise ValidationFailed("give exactly one of image and text", field="image")
