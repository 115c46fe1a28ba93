"""One item's way from an API worker to a runner worker and back, whatever its task."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import grpc

from modelmora.domain.description import Description
from modelmora.domain.inference import Call
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.progress import Step
from modelmora.errors import DeadlineExceeded, InternalError, ModelMoraError, Overloaded
from modelmora.proto import runner_pb2 as pb
from modelmora.proto import types_pb2
from runners.hop import wire
from runners.hop.fleet import Fleet, expire
from runners.hop.link import Open, own_cancellation
from runners.hop.trips import NO_TRIP, Trip
from runners.inputs.tokenizer import clip_tokenizer
from runners.payload import Answer

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class HandleSettings:
    """Bounds of the API's side: `max_in_flight` items between permit and answer."""

    decode_threads: int
    max_in_flight: int
    max_pixels: int
    max_text_chars: int


@dataclass(frozen=True, slots=True)
class Errand:
    """What the items of one request have in common."""

    model: ModelSpec
    task: Task
    description: Description
    call: Call


class Errands:
    """Permits, descriptions, the decode threads, and the sending of one item after another."""

    def __init__(self, fleet: Fleet, settings: HandleSettings) -> None:
        self.settings = settings
        self._fleet = fleet
        self._decode = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        self._bulk = asyncio.Semaphore(settings.decode_threads)
        self._descriptions: dict[str, asyncio.Task[Description]] = {}
        self._proofs: dict[str, asyncio.Task[Description]] = {}
        self._in_flight = 0

    @contextlib.contextmanager
    def permit(self, items: int) -> Iterator[None]:
        """Comes before anything is decoded; raises Overloaded beyond `max_in_flight`."""
        if self._in_flight + items > self.settings.max_in_flight:
            raise Overloaded(f"{self._in_flight} items are in flight in this API worker", retry_after_s=1.0)
        self._in_flight += items
        try:
            yield
        finally:
            self._in_flight -= items

    async def describe(self, model: ModelSpec, *, deadline: float) -> Description:
        """See `ports.Describer`: asked once; a failed question is asked again."""
        return await self._asked(self._descriptions, model, self._describe, deadline)

    async def prove(self, model: ModelSpec, *, deadline: float) -> Description:
        """What holds of the model, not only what its files say: where the two may differ it is loaded for that."""
        description = await self.describe(model, deadline=deadline)
        if not description.proven:
            description = await self._asked(self._proofs, model, self._prove, deadline)
            self._descriptions[model.key] = self._proofs[model.key]
        return description

    async def _asked(
        self,
        tasks: dict[str, asyncio.Task[Description]],
        model: ModelSpec,
        ask: Callable[[ModelSpec], Coroutine[Any, Any, Description]],
        deadline: float,
    ) -> Description:
        """One question for all who ask; one that failed is asked again."""
        task = tasks.get(model.key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = tasks[model.key] = asyncio.create_task(ask(model))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        if task.done():
            return task.result()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await asyncio.shield(task)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before a runner described the model") from None

    async def run(
        self,
        errand: Errand,
        prepare: Callable[[pb.Work], Awaitable[None]],
        *,
        watch: Callable[[Step], None] | None = None,
        affinity: bytes = b"",
    ) -> Outcome[Answer]:
        """One item: prepared here, computed there. `prepare` puts the input into its message.

        Of equal `affinity` go to the same worker while it holds the model.
        """
        if watch is not None:
            watch(Step("preprocessing", 0, 1))
        started = time.monotonic()
        bulk = errand.call.priority == "bulk"
        work = pb.Work(id=self._fleet.next_id(), model=errand.model.key, task=errand.task, bulk=bulk)
        trip = Trip(errand.call.trace, work) if errand.call.trace else NO_TRIP
        try:
            await prepare(work)
        except ModelMoraError as error:
            return trip.end(Failed(error))
        spent = (time.monotonic() - started) * 1e3
        trip.prepared(spent)
        if watch is not None:
            watch(Step("preprocessing", 1, 1))
        outcome = await self._send(errand, work, watch, affinity)
        trip.end(outcome)
        if isinstance(outcome, Ok):
            answer = outcome.value
            return Ok(Answer(answer.body, replace(answer.timings, preprocess_ms=spent)))
        return outcome

    async def in_turn(self, bulk: bool, prepare: Callable[[], T]) -> T:
        """In the decode threads; bulk work queues here, so that interactive work never waits behind a pile of it."""
        if not bulk:
            return await self.in_thread(prepare)
        async with self._bulk:
            return await self.in_thread(prepare)

    async def in_thread(self, prepare: Callable[[], T]) -> T:
        """In the decode threads."""
        return await asyncio.get_running_loop().run_in_executor(self._decode, prepare)

    def close(self) -> None:
        """Lets go of the threads; what is asked is given up."""
        for task in (*self._descriptions.values(), *self._proofs.values()):
            task.cancel()
        self._decode.shutdown(wait=False, cancel_futures=True)

    async def _send(
        self, errand: Errand, work: pb.Work, watch: Callable[[Step], None] | None, affinity: bytes
    ) -> Outcome[Answer]:
        loop = asyncio.get_running_loop()
        item = Open(work, errand.model, errand.call.deadline, loop.create_future(), watch, affinity)
        remaining = errand.call.deadline - time.monotonic()
        work.timeout_ms = max(0.0, remaining * 1e3)
        work.tell = watch is not None
        timer = loop.call_later(remaining, expire, item)
        self._fleet.dispatch(item)
        try:
            return await item.future
        finally:
            timer.cancel()
            self._fleet.leave(item)

    async def _describe(self, model: ModelSpec) -> Description:
        """Asks until a worker answers: the callers have their own deadlines, and the next one shares the answer."""
        while True:
            link = await self._fleet.any_link(model, deadline=float("inf"))
            request = pb.DescribeRequest(model=model.key, spec=wire.spec_to_wire(model))
            message = await unless_lost(link.stub.Describe(request), _described_error)
            if message is None:
                await asyncio.sleep(0.1)  # the worker is going: its link is about to be dropped
                continue
            description = wire.description_of(message)
            if description.text is not None and description.text.tokenizer == "clip-bpe":
                # Reading the vocabulary takes a while; the loop must not do it with the first text.
                await self.in_thread(clip_tokenizer)
            return description

    async def _prove(self, model: ModelSpec) -> Description:
        """Loaded where it is about to be asked anyway, and described there."""
        while True:
            link = await self._fleet.any_link(model, deadline=float("inf"))
            request = pb.ModelRequest(model=model.key, spec=wire.spec_to_wire(model))
            reply = await unless_lost(link.stub.Load(request), _described_error)
            if reply is None:
                await asyncio.sleep(0.1)  # as above
                continue
            if reply.HasField("error"):
                raise wire.error_of(reply.error)
            await self._fleet.shows(link, model.key, "loaded")
            description = await self._describe(model)
            if description.proven:
                return description


async def unless_lost(
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


def _described_error(cause: grpc.aio.AioRpcError) -> ModelMoraError | None:
    """The runner's own refusal; None when the connection broke instead."""
    for key, value in cause.trailing_metadata() or ():
        if key == "error-bin":
            return wire.error_of(types_pb2.ItemError.FromString(cast(bytes, value)))
    if cause.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return None
    return InternalError("the runner could not describe the model; its log has the details")
