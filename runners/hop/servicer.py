"""The runner's side of the hop: messages in, jobs to the batcher, results out as they come."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast, get_args

import grpc
import structlog

from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.progress import Step
from modelmora.errors import CapabilityMissing, InternalError, ModelMoraError
from modelmora.proto import runner_pb2 as pb
from modelmora.proto import runner_pb2_grpc
from modelmora.wire import error_to_wire
from runners.batching.jobs import Computed, Job
from runners.batching.spans import begin_stay
from runners.examinations.examine import examine
from runners.hop import wire
from runners.payload import Payload
from runners.provider import Tokenizes

if TYPE_CHECKING:
    from runners.host import RunnerHost

log = structlog.get_logger(__name__)

TASKS = frozenset(get_args(Task))
WATCH_PERIOD_S = 1.0
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class RunnerServicer(runner_pb2_grpc.RunnerServicer):
    """One instance per worker; every handler runs on the worker's event loop."""

    def __init__(self, host: RunnerHost) -> None:
        self._host = host

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.Description:
        try:
            spec = self._asked_for(request)
            provider = self._host.provider(spec)
            loaded = self._host.pool.peek(spec)
            if loaded is not None and spec.source.startswith("object:"):  # else all its bytes would be digested again
                return wire.description_to_wire(loaded.description)
            async with self._host.files(spec) as folder:
                value = await asyncio.to_thread(provider.describe, spec, folder)
            if not value.proven:
                value = self._host.pool.described(spec) or value
        except ModelMoraError as error:
            context.set_trailing_metadata((("error-bin", error_to_wire(error).SerializeToString()),))
            await context.abort(grpc.StatusCode.UNKNOWN, error.code)
        return wire.description_to_wire(value)

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WorkerState]:
        with self._host.watched():
            while True:
                changed = self._host.changed.next()
                yield wire.view_to_wire(self._host.view())
                await self._host.changed.wait(WATCH_PERIOD_S, changed)

    async def Infer(
        self, request_iterator: AsyncIterator[pb.InferRequest], context: Context
    ) -> AsyncIterator[pb.InferReply]:
        stream = _Stream(self._host)
        reading = asyncio.create_task(stream.read(request_iterator))
        try:
            async for reply in stream.replies():
                yield reply
        finally:
            reading.cancel()
            stream.abandon()

    async def Load(self, request: pb.ModelRequest, context: Context) -> pb.ModelReply:
        return await self._change(request, self._host.pool.load)

    async def Unload(self, request: pb.ModelRequest, context: Context) -> pb.ModelReply:
        return await self._change(request, self._host.pool.unload)

    async def Warmup(self, request: pb.ModelRequest, context: Context) -> pb.ModelReply:
        warmed: list[pb.Warmed] = []

        async def warm(spec: ModelSpec) -> None:
            warmed.extend(pb.Warmed(task=w.task, items=w.items, ms=w.ms) for w in await self._host.warm(spec))

        reply = await self._change(request, warm)
        reply.warmed.extend(warmed)
        return reply

    async def Examine(self, request: pb.ExamineRequest, context: Context) -> AsyncIterator[pb.Finding]:
        try:
            spec = self._asked_for(request)
            steps = examine(self._host, spec, request.what, deadline=time.monotonic() + request.timeout_ms / 1e3)
            async with contextlib.aclosing(steps):
                async for step in steps:
                    yield pb.Finding(json=json.dumps(step).encode())
        except ModelMoraError as error:
            yield pb.Finding(error=error_to_wire(error))
        except Exception as cause:
            log.exception("examination_failed", model=request.model, what=request.what)
            yield pb.Finding(error=error_to_wire(InternalError(f"{type(cause).__name__} in the runner; see its log")))

    async def Inform(self, request: pb.Footprints, context: Context) -> pb.Informed:
        self._host.pool.inform(wire.footprints_of(request))
        return pb.Informed()

    def _asked_for(self, request: pb.DescribeRequest | pb.ModelRequest | pb.ExamineRequest) -> ModelSpec:
        """As the caller knows the model, or else as it is known here; raises ModelNotFound, VersionNotFound."""
        return self._host.told(request.spec) if request.spec else self._host.spec(request.model)

    async def _change(
        self, request: pb.ModelRequest, change: Callable[[ModelSpec], Awaitable[object]]
    ) -> pb.ModelReply:
        """Carries out a change and says what came of it; an error travels inside the reply."""
        started = time.monotonic()
        reply = pb.ModelReply(model=request.model)
        try:
            await change(self._asked_for(request))
        except ModelMoraError as error:
            reply.error.CopyFrom(error_to_wire(error))
        except Exception as cause:
            log.exception("change_failed", model=request.model)
            reply.error.CopyFrom(error_to_wire(InternalError(f"{type(cause).__name__} in the runner")))
        self._fill(reply)
        reply.ms = (time.monotonic() - started) * 1e3
        return reply

    def _fill(self, reply: pb.ModelReply) -> None:
        holding = self._host.view().holdings.get(reply.model)
        reply.state = holding.state if holding else "unloaded"
        reply.bytes = holding.bytes if holding else 0
        with contextlib.suppress(ModelMoraError):
            loaded = self._host.pool.peek(self._host.spec(reply.model))
            if loaded is not None:
                reply.device, reply.precision = loaded.device, loaded.precision


class _Stream:
    """One caller's stream: its open jobs, and what is to be said of them and was not yet."""

    def __init__(self, host: RunnerHost) -> None:
        self._host = host
        self._jobs: dict[int, Job] = {}
        self._preparing: dict[int, asyncio.Task[None]] = {}
        self._results: list[pb.Result] = []
        self._told: dict[int, Step] = {}
        self._wake = asyncio.Event()
        self._ended = False

    async def read(self, requests: AsyncIterator[pb.InferRequest]) -> None:
        try:
            async for request in requests:
                for spec in request.specs:
                    self._host.told(spec)
                for work in request.work:
                    self._accept(work)
                for gone in request.cancel:
                    self._leave(gone)
        finally:
            self._ended = True
            self._wake.set()

    async def replies(self) -> AsyncIterator[pb.InferReply]:
        """All that is there, in one message; ends when the caller has closed and all is answered."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._results or self._told:
                for message in wire.in_messages(self._reply()):
                    yield message
            if self._ended and not self._jobs and not self._preparing and not self._results:
                return

    def abandon(self) -> None:
        """The caller is gone: what is left is dropped before compute."""
        for task in self._preparing.values():
            task.cancel()
        for job in self._jobs.values():
            job.leave()
        self._jobs.clear()

    def _reply(self) -> pb.InferReply:
        results, self._results = self._results, []
        told, self._told = self._told, {}
        answered = {result.id for result in results}
        return pb.InferReply(
            results=results,
            told=[
                pb.Told(id=id_, stage=step.stage, done=step.done, total=step.total)
                for id_, step in told.items()
                if id_ not in answered
            ],
        )

    def _accept(self, work: pb.Work) -> None:
        """Submits at once; what takes a while, such as a text that the model itself has to tokenise, is prepared beside
        the others."""
        try:
            spec, task = self._asked(work)
            if work.tokenize or wire.is_slow(work):
                self._preparing[work.id] = asyncio.create_task(self._prepare(spec, task, work))
            else:
                self._submit(spec, task, work, wire.payload_of(work))
        except ModelMoraError as error:
            self._answer(work.id, Failed(error))
        except Exception as cause:  # one item's fault must not end the stream of all
            self._refuse(work, cause)

    async def _prepare(self, spec: ModelSpec, task: Task, work: pb.Work) -> None:
        try:
            tokens = work.tokenize
            payload = await (self._tokens(spec, work) if tokens else asyncio.to_thread(wire.payload_of, work))
            self._submit(spec, task, work, payload)
        except ModelMoraError as error:
            self._answer(work.id, Failed(error))
        except Exception as cause:
            self._refuse(work, cause)
        finally:
            self._preparing.pop(work.id, None)
            self._wake.set()

    async def _tokens(self, spec: ModelSpec, work: pb.Work) -> Payload:
        async with self._host.pool.lease(spec) as loaded:
            text = work.data.decode("utf-8")
            return await asyncio.to_thread(cast(Tokenizes, loaded).tokenize, text, truncate=work.truncate)

    def _asked(self, work: pb.Work) -> tuple[ModelSpec, Task]:
        if work.task not in TASKS:
            raise CapabilityMissing(f"no task {work.task!r}")
        spec, task = self._host.spec(work.model), cast(Task, work.task)
        self._host.check(spec, task)
        return spec, task

    def _submit(self, spec: ModelSpec, task: Task, work: pb.Work, payload: Payload) -> None:
        work_id = work.id
        job = Job(
            spec=spec,
            task=task,
            payload=payload,
            deadline=time.monotonic() + work.timeout_ms / 1e3,
            done=lambda outcome: self._answer(work_id, outcome),
            bulk=work.bulk,
            alone=work.alone,
            wary=work.lost,
            tell=(lambda step: self._tell(work_id, step)) if work.tell else None,
            span=begin_stay(work.trace, spec, task),
        )
        self._jobs[work_id] = job
        self._host.batcher.submit(job)

    def _refuse(self, work: pb.Work, cause: Exception) -> None:
        log.error("work_refused", model=work.model, exc_info=cause)
        self._answer(work.id, Failed(InternalError(f"{work.model} failed on this item; see the log")))

    def _answer(self, work_id: int, outcome: Outcome[Computed]) -> None:
        self._jobs.pop(work_id, None)
        match outcome:
            case Ok(value) if wire.is_slow_body(value.body):
                self._preparing[work_id] = asyncio.create_task(self._answer_later(work_id, value))
                return
            case Ok(value):
                result = _result(work_id, value)
            case Failed(error):
                result = pb.Result(id=work_id, error=error_to_wire(error))
        self._results.append(result)
        self._wake.set()

    async def _answer_later(self, work_id: int, value: Computed) -> None:
        try:
            self._results.append(await asyncio.to_thread(_result, work_id, value))
        finally:
            self._preparing.pop(work_id, None)
            self._wake.set()

    def _tell(self, work_id: int, step: Step) -> None:
        """Only the newest step is kept while the caller is slow."""
        self._told[work_id] = step
        self._wake.set()

    def _leave(self, work_id: int) -> None:
        job = self._jobs.pop(work_id, None)
        if job is not None:
            job.leave()
        elif work_id in self._preparing:
            self._preparing[work_id].cancel()


def _result(work_id: int, value: Computed) -> pb.Result:
    """As a message; one that cannot be made must not leave its caller waiting."""
    result = pb.Result(id=work_id, queue_ms=value.queue_ms, inference_ms=value.inference_ms)
    try:
        wire.fill_body(result, value.body)
    except Exception as cause:
        log.error("result_unsendable", exc_info=cause)
        said = "the model's answer for this item cannot be sent; the runner's log has the details"
        return pb.Result(id=work_id, error=error_to_wire(InternalError(said)))
    return result
