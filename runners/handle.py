"""The API's side of the runners: decodes and tokenises here, batches there, one outcome per item."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import grpc

from modelmora.domain.inference import Call, Content, Embedded, Image, Text
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.preprocess import Description
from modelmora.errors import (
    CapabilityMissing,
    DeadlineExceeded,
    DependencyUnavailable,
    InternalError,
    ModelMoraError,
    Overloaded,
)
from modelmora.ports import ModelReport, WorkerView
from modelmora.proto import runner_pb2 as pb
from modelmora.proto import types_pb2
from runners import wire
from runners.fleet import Fleet, expire
from runners.link import Link, Open
from runners.preprocess import prepare_image
from runners.tokenizer import clip_tokenizer, prepare_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHORT_TEXT = 256
"""Texts up to so many characters are tokenised on the loop: a hop to a thread would cost more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandleSettings:
    """Bounds of the API's side: `max_in_flight` items between permit and answer."""

    decode_threads: int
    max_in_flight: int
    max_pixels: int
    max_text_chars: int


class RunnerHandle:
    """Implements the ports Embedder and ModelHost over a fleet of runner workers."""

    def __init__(self, fleet: Fleet, wanted: Mapping[str, int], settings: HandleSettings) -> None:
        self._fleet = fleet
        self._wanted = dict(wanted)
        self._settings = settings
        self._decode = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        self._descriptions: dict[str, asyncio.Task[Description]] = {}
        self._in_flight = 0

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call
    ) -> list[Outcome[Embedded]]:
        """See `ports.Embedder`; the permit comes first: beyond `max_in_flight` nothing is decoded."""
        if self._in_flight + len(items) > self._settings.max_in_flight:
            raise Overloaded(f"{self._in_flight} items are in flight in this API worker", retry_after_s=1.0)
        self._in_flight += len(items)
        try:
            description = await self._description(model, call.deadline)
            if len(items) == 1:
                return [await self._one(model, task, items[0], description, call)]
            return await asyncio.gather(*(self._one(model, task, item, description, call) for item in items))
        finally:
            self._in_flight -= len(items)

    async def load(self, model: ModelSpec, *, deadline: float) -> ModelReport:
        return await self._everywhere(model, deadline, lambda link: link.stub.Load)

    async def unload(self, model: ModelSpec, *, deadline: float) -> ModelReport:
        return await self._everywhere(model, deadline, lambda link: link.stub.Unload)

    async def warmup(self, model: ModelSpec, *, deadline: float) -> ModelReport:
        return await self._everywhere(model, deadline, lambda link: link.stub.Warmup)

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

    async def _one(
        self, model: ModelSpec, task: Task, item: Content, description: Description, call: Call
    ) -> Outcome[Embedded]:
        try:
            started = time.monotonic()
            work = await self._prepare(model, task, item, description, call)
            spent = (time.monotonic() - started) * 1e3
        except ModelMoraError as error:
            return Failed(error)
        outcome = await self._send(model.group, work, call)
        if isinstance(outcome, Ok):
            timings = replace(outcome.value.timings, preprocess_ms=spent)
            return Ok(replace(outcome.value, timings=timings, tokens=_tokens(work)))
        return outcome

    async def _send(self, group: str, work: pb.Work, call: Call) -> Outcome[Embedded]:
        loop = asyncio.get_running_loop()
        item = Open(work, group, call.deadline, loop.create_future())
        remaining = call.deadline - time.monotonic()
        work.timeout_ms = max(0.0, remaining * 1e3)
        timer = loop.call_later(remaining, expire, item)
        self._fleet.dispatch(item)
        try:
            return await item.future
        finally:
            timer.cancel()
            self._fleet.leave(item)

    async def _prepare(
        self, model: ModelSpec, task: Task, item: Content, description: Description, call: Call
    ) -> pb.Work:
        work = pb.Work(id=self._fleet.next_id(), model=model.key, task=task, bulk=call.priority == "bulk")
        match item:
            case Image(data):
                if description.image is None:
                    raise CapabilityMissing(f"{model.key} takes no pictures", field="model")
                how = description.image
                array = await self._in_thread(lambda: prepare_image(data, how, max_pixels=self._settings.max_pixels))
                work.data, work.shape[:] = array.tobytes(), array.shape
            case Text(text):
                await self._prepare_text(work, model, text, description, call)
        return work

    async def _prepare_text(
        self, work: pb.Work, model: ModelSpec, text: str, description: Description, call: Call
    ) -> None:
        how = description.text
        if how is None:
            raise CapabilityMissing(f"{model.key} takes no texts", field="model")

        def prepare() -> NDArray[np.generic]:
            return prepare_text(text, how, truncate=call.truncate, max_chars=self._settings.max_text_chars)

        array = prepare() if len(text) <= SHORT_TEXT else await self._in_thread(prepare)
        work.data = array.tobytes()
        work.truncate, work.tokenize = call.truncate, how.tokenizer == "runner"
        if how.tokenizer == "clip-bpe":
            work.shape[:] = array.shape

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
            message = await _described(link.stub.Describe(pb.DescribeRequest(model=model.key)))
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
        calls = (_reply(method(link)(request, timeout=remaining)) for link in links)
        replies = [reply for reply in await asyncio.gather(*calls) if reply is not None]
        if not replies:
            raise DependencyUnavailable(f"every runner of group {model.group!r} went away meanwhile", retry_after_s=5.0)
        for reply in replies:
            if reply.HasField("error"):
                raise wire.error_of(reply.error)
        return _report(model, links, replies)


async def _described(call: Awaitable[pb.Description]) -> pb.Description | None:
    """None when the connection broke; raises the runner's own refusal."""
    try:
        return await call
    except asyncio.CancelledError:
        _pass_on_own_cancellation()
        return None
    except grpc.aio.AioRpcError as cause:
        error = _described_error(cause)
        if error is None:
            return None
        raise error from cause


def _pass_on_own_cancellation() -> None:
    """A link that is given up closes its channel, and gRPC then raises CancelledError in tasks nobody cancelled."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _reply(call: Awaitable[pb.ModelReply]) -> pb.ModelReply | None:
    """None when the worker went away."""
    try:
        return await call
    except asyncio.CancelledError:
        _pass_on_own_cancellation()
        return None
    except grpc.aio.AioRpcError as cause:
        if cause.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            raise DeadlineExceeded("the deadline passed before every runner was done") from cause
        return None


def _report(model: ModelSpec, links: Sequence[Link], replies: Sequence[pb.ModelReply]) -> ModelReport:
    states = {reply.state for reply in replies}
    return ModelReport(
        model=model.name,
        version=model.version,
        state="loaded" if "loaded" in states else "unloaded",
        workers=tuple(link.socket.stem for link in links),
        ms=max(reply.ms for reply in replies),
        bytes=max(reply.bytes for reply in replies),
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
    return sum(1 for i in range(0, len(work.data), 4) if work.data[i : i + 4] != b"\0\0\0\0")
