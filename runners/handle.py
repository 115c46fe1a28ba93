"""The API's side of the runners: decodes and tokenises here, batches there, one outcome per item."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc

from modelmora.domain.inference import Call, Content, Embedded, Image, Text
from modelmora.domain.models import ModelSpec, State, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.preprocess import Description
from modelmora.domain.progress import Step
from modelmora.errors import (
    CapabilityMissing,
    DeadlineExceeded,
    DependencyUnavailable,
    InternalError,
    ModelMoraError,
    Overloaded,
)
from modelmora.ports import Examination, ModelReport, Warmed, Watch, WorkerView
from modelmora.proto import runner_pb2 as pb
from modelmora.proto import types_pb2
from runners.hop import wire
from runners.hop.findings import findings
from runners.hop.fleet import Fleet, expire
from runners.hop.link import Link, Open, own_cancellation
from runners.inputs.tokenizer import clip_tokenizer, prepare_text
from runners.preprocess import prepare_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

R = TypeVar("R")

SHORT_TEXT = 256
"""Texts up to so many characters are tokenised on the loop: a hop to a thread would cost more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandleSettings:
    """Bounds of the API's side: `max_in_flight` items between permit and answer."""

    decode_threads: int
    max_in_flight: int
    max_pixels: int
    max_text_chars: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the items of one request have in common."""

    model: ModelSpec
    task: Task
    description: Description
    call: Call


class RunnerHandle:
    """Implements the ports Embedder and ModelHost over a fleet of runner workers."""

    def __init__(self, fleet: Fleet, wanted: Mapping[str, int], settings: HandleSettings) -> None:
        self._fleet = fleet
        self._wanted = dict(wanted)
        self._settings = settings
        self._decode = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        self._bulk = asyncio.Semaphore(settings.decode_threads)
        self._descriptions: dict[str, asyncio.Task[Description]] = {}
        self._in_flight = 0

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Embedded]]:
        """See `ports.Embedder`; the permit comes first: beyond `max_in_flight` nothing is decoded."""
        if self._in_flight + len(items) > self._settings.max_in_flight:
            raise Overloaded(f"{self._in_flight} items are in flight in this API worker", retry_after_s=1.0)
        self._in_flight += len(items)
        try:
            description = await self._description(model, call.deadline)
            asked = _Asked(model, task, description, call)
            ones = [self._one(asked, item, watch and partial(watch, index)) for index, item in enumerate(items)]
            return [await ones[0]] if len(ones) == 1 else await asyncio.gather(*ones)
        finally:
            self._in_flight -= len(items)

    async def load(self, model: ModelSpec, *, deadline: float) -> ModelReport:
        return await self._everywhere(model, deadline, lambda link: link.stub.Load)

    async def unload(self, model: ModelSpec, *, deadline: float) -> ModelReport:
        return await self._everywhere(model, deadline, lambda link: link.stub.Unload)

    async def warmup(self, model: ModelSpec, *, deadline: float) -> ModelReport:
        return await self._everywhere(model, deadline, lambda link: link.stub.Warmup)

    async def examine(
        self, model: ModelSpec, what: Examination, *, deadline: float
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """On one worker, one that holds the model if there is."""
        link = await self._fleet.any_link(model, deadline=deadline)
        async with aclosing(findings(link, model, what, deadline=deadline)) as steps:
            async for step in steps:
                yield step

    def workers(self) -> Sequence[WorkerView]:
        return self._fleet.workers()

    def wanted(self) -> Mapping[str, int]:
        return self._wanted

    async def close(self) -> None:
        """Lets go of the runners."""
        for task in self._descriptions.values():
            task.cancel()
        await self._fleet.close()
        self._decode.shutdown(wait=False, cancel_futures=True)

    async def _one(self, asked: _Asked, item: Content, watch: Callable[[Step], None] | None) -> Outcome[Embedded]:
        try:
            started = time.monotonic()
            if watch is not None:
                watch(Step("preprocessing", 0, 1))
            work = await self._prepare(asked, item)
            spent = (time.monotonic() - started) * 1e3
        except ModelMoraError as error:
            return Failed(error)
        if watch is not None:
            watch(Step("preprocessing", 1, 1))
        outcome = await self._send(asked, work, watch)
        if isinstance(outcome, Ok):
            timings = replace(outcome.value.timings, preprocess_ms=spent)
            return Ok(replace(outcome.value, timings=timings, tokens=_tokens(work)))
        return outcome

    async def _send(self, asked: _Asked, work: pb.Work, watch: Callable[[Step], None] | None) -> Outcome[Embedded]:
        loop = asyncio.get_running_loop()
        item = Open(work, asked.model.group, asked.call.deadline, loop.create_future(), watch)
        remaining = asked.call.deadline - time.monotonic()
        work.timeout_ms = max(0.0, remaining * 1e3)
        work.tell = watch is not None
        timer = loop.call_later(remaining, expire, item)
        self._fleet.dispatch(item)
        try:
            return await item.future
        finally:
            timer.cancel()
            self._fleet.leave(item)

    async def _prepare(self, asked: _Asked, item: Content) -> pb.Work:
        model, bulk = asked.model, asked.call.priority == "bulk"
        work = pb.Work(id=self._fleet.next_id(), model=model.key, task=asked.task, bulk=bulk)
        match item:
            case Image(data):
                how = asked.description.image
                if how is None:
                    raise CapabilityMissing(f"{model.key} takes no pictures", field="model")
                limit = self._settings.max_pixels
                array = await self._in_turn(bulk, lambda: prepare_image(data, how, max_pixels=limit))
                work.data, work.shape[:] = array.tobytes(), array.shape
            case Text(text):
                await self._prepare_text(work, asked, text)
        return work

    async def _prepare_text(self, work: pb.Work, asked: _Asked, text: str) -> None:
        how, truncate = asked.description.text, asked.call.truncate
        if how is None:
            raise CapabilityMissing(f"{asked.model.key} takes no texts", field="model")

        def prepare() -> NDArray[np.generic]:
            return prepare_text(text, how, truncate=truncate, max_chars=self._settings.max_text_chars)

        array = prepare() if len(text) <= SHORT_TEXT else await self._in_turn(work.bulk, prepare)
        work.data = array.tobytes()
        work.truncate, work.tokenize = truncate, how.tokenizer == "runner"
        if how.tokenizer == "clip-bpe":
            work.shape[:] = array.shape

    async def _in_turn(self, bulk: bool, prepare: Callable[[], NDArray[np.generic]]) -> NDArray[np.generic]:
        """In the decode threads; bulk work queues here, so that interactive work never waits behind a pile of it."""
        if not bulk:
            return await self._in_thread(prepare)
        async with self._bulk:
            return await self._in_thread(prepare)

    async def _in_thread(self, prepare: Callable[[], NDArray[np.generic]]) -> NDArray[np.generic]:
        return await asyncio.get_running_loop().run_in_executor(self._decode, prepare)

    async def _description(self, model: ModelSpec, deadline: float) -> Description:
        """What the model wants, asked once; a failed question is asked again."""
        task = self._descriptions.get(model.key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._descriptions[model.key] = asyncio.create_task(self._describe(model))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        if task.done():
            return task.result()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await asyncio.shield(task)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before a runner described the model") from None

    async def _describe(self, model: ModelSpec) -> Description:
        """Asks until a worker answers: the callers have their own deadlines, and the next one shares the answer."""
        while True:
            link = await self._fleet.any_link(model, deadline=float("inf"))
            message = await _unless_lost(link.stub.Describe(pb.DescribeRequest(model=model.key)), _described_error)
            if message is None:
                await asyncio.sleep(0.1)  # the worker is going: its link is about to be dropped
                continue
            description = wire.description_of(message)
            if description.text is not None and description.text.tokenizer == "clip-bpe":
                # Reading the vocabulary takes a while; the loop must not do it with the first text.
                await asyncio.get_running_loop().run_in_executor(self._decode, clip_tokenizer)
            return description

    async def _everywhere(
        self, model: ModelSpec, deadline: float, method: Callable[[Link], Callable[..., Awaitable[pb.ModelReply]]]
    ) -> ModelReport:
        """The change on every live worker of the group; one that dies meanwhile does not count."""
        await self._fleet.any_link(model, deadline=deadline)
        links = self._fleet.links(model.group)
        remaining = max(0.0, deadline - time.monotonic())
        request = pb.ModelRequest(model=model.key, timeout_ms=remaining * 1e3)
        calls = (_unless_lost(method(link)(request, timeout=remaining), _overdue) for link in links)
        answers = zip(links, await asyncio.gather(*calls), strict=True)
        replies = {link: reply for link, reply in answers if reply is not None}
        if not replies:
            raise DependencyUnavailable(f"every runner of group {model.group!r} went away meanwhile", retry_after_s=5.0)
        for reply in replies.values():
            if reply.HasField("error"):
                raise wire.error_of(reply.error)
        shown = (self._fleet.shows(link, model.key, cast(State, reply.state)) for link, reply in replies.items())
        await asyncio.gather(*shown)
        return _report(model, {link.socket.stem: reply for link, reply in replies.items()})


async def _unless_lost(
    call: Awaitable[R], translate: Callable[[grpc.aio.AioRpcError], ModelMoraError | None]
) -> R | None:
    """None when the worker went away, else its answer; raises what `translate` makes of its refusal."""
    try:
        return await call
    except asyncio.CancelledError:
        if own_cancellation():
            raise
        return None
    except grpc.aio.AioRpcError as cause:
        error = translate(cause)
        if error is None:
            return None
        raise error from cause


def _overdue(cause: grpc.aio.AioRpcError) -> ModelMoraError | None:
    late = cause.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    return DeadlineExceeded("the deadline passed before every runner was done") if late else None


def _report(model: ModelSpec, replies: Mapping[str, pb.ModelReply]) -> ModelReport:
    """One report over all workers that answered, by name."""
    states = {reply.state for reply in replies.values()}
    slowest = max(replies.values(), key=lambda reply: reply.ms)
    return ModelReport(
        model=model.name,
        version=model.version,
        state="loaded" if "loaded" in states else "unloaded",
        workers=tuple(replies),
        ms=slowest.ms,
        bytes=max(reply.bytes for reply in replies.values()),
        warmed=tuple(Warmed(task=cast(Task, w.task), items=w.items, ms=w.ms) for w in slowest.warmed),
    )


def _described_error(cause: grpc.aio.AioRpcError) -> ModelMoraError | None:
    """The runner's own refusal; None when the connection broke instead."""
    for key, value in cause.trailing_metadata() or ():
        if key == "error-bin":
            return wire.error_of(types_pb2.ItemError.FromString(cast(bytes, value)))
    if cause.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return None
    return InternalError("the runner could not describe the model; its log has the details")


def _tokens(work: pb.Work) -> int:
    """How many token ids are not padding; 0 for pictures and raw bytes."""
    if work.task != "embed_text" or not work.shape:
        return 0
    return sum(map(bool, memoryview(work.data).cast("i")))
