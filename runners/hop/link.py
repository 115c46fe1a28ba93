"""One API worker's connection to one runner worker: its state as watched, work out, results back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
import structlog

from modelmora.domain.inference import Timings
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.progress import Stage, Step
from modelmora.errors import InternalError
from modelmora.ports import Footprint, WorkerView
from modelmora.proto import runner_pb2 as pb
from modelmora.proto import runner_pb2_grpc
from runners.hop import wire
from runners.payload import Answer

log = structlog.get_logger(__name__)

HELLO_S = 5.0
INFORM_S = 2.0
"""So long a new worker's first work may wait for what earlier ones measured: it is of use, no more."""

SILENCE_S = 15.0
"""A worker whose watch stream says nothing for so long hangs, or holds its interpreter: it is left alone."""

FATAL_DEATHS = 2
"""An item that so many workers ended with is answered instead of being tried again."""


@dataclass(slots=True, eq=False)
class Open:
    """An item that was sent and is not answered yet; `deadline` is on `time.monotonic()`.

    `watch` is told how far it is. Those of one `affinity` go to one worker. `deaths` counts the workers that went away
    while they computed it.
    """

    work: pb.Work
    model: ModelSpec
    deadline: float
    future: asyncio.Future[Outcome[Answer]]
    watch: Callable[[Step], None] | None = None
    affinity: bytes = b""
    link: Link | None = None
    computing: bool = False
    deaths: int = 0

    def told(self, step: Step) -> None:
        """The worker says how far it is."""
        self.computing = self.computing or step.stage == "inference"
        if self.watch is not None:
            self.watch(step)

    def lost(self) -> bool:
        """Its worker went away: True when the item is not to be tried again, since it is the likely cause.

        After the first loss the next worker says when it begins to compute the item; a worker lost then counts
        against it, and from then on it runs alone, so that no neighbour is counted with it.
        """
        self.deaths += self.computing
        self.work.alone, self.work.tell, self.work.lost = self.deaths > 0, True, True
        self.link, self.computing = None, False
        return self.deaths >= FATAL_DEATHS

    def answer(self, outcome: Outcome[Answer]) -> None:
        """Answers, unless the caller left or was answered already."""
        if not self.future.done():
            self.future.set_result(outcome)


class Link:
    """Alive from the first watch message until a stream breaks; then `on_lost` gets the open items back."""

    def __init__(
        self,
        socket: Path,
        *,
        on_change: Callable[[], None],
        on_lost: Callable[[Link], None],
        known: Callable[[], Awaitable[Sequence[Footprint]]] | None = None,
    ) -> None:
        """`known` are the footprints that the worker is told before it is shown, and so before its first work."""
        self.socket = socket
        self.view: WorkerView | None = None
        self.open: dict[int, Open] = {}
        self._on_change = on_change
        self._on_lost = on_lost
        self._known = known
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", options=wire.CHANNEL_OPTIONS)
        self.stub = cast("runner_pb2_grpc.RunnerAsyncStub", runner_pb2_grpc.RunnerStub(self._channel))
        self._outbox = pb.InferRequest()
        self._named: dict[str, ModelSpec] = {}
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    def start(self) -> None:
        """Begins to watch; `view` is set once the worker has answered."""
        self._tasks = [asyncio.create_task(self._live())]

    def send(self, item: Open) -> None:
        """Queues the item; everything queued in one turn of the loop leaves in one message."""
        item.link = self
        self.open[item.work.id] = item
        self._outbox.work.append(item.work)
        if self._named.get(item.model.key) is not item.model:
            self._named[item.model.key] = item.model
            self._outbox.specs.append(wire.spec_to_wire(item.model))
        self._wake.set()

    def asked_for(self, model: str) -> bool:
        """Whether work for the model is on its way here."""
        return any(item.work.model == model for item in self.open.values())

    def leave(self, item: Open) -> None:
        """The item's caller is gone: the runner drops it before compute."""
        if self.open.pop(item.work.id, None) is not None:
            self._outbox.cancel.append(item.work.id)
            self._wake.set()

    async def close(self) -> None:
        """Closes the streams; open items are not given back."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch())
                group.create_task(self._infer())
        except* (grpc.aio.AioRpcError, TimeoutError, ConnectionError, asyncio.InvalidStateError, EOFError) as causes:
            log.info("runner_lost", worker=self.socket.stem, why=repr(causes.exceptions[0])[:200])
        finally:
            if not self._closing:
                self.view = None
                await self._channel.close()
                self._on_lost(self)

    async def _watch(self) -> None:
        stream = self.stub.Watch(pb.WatchRequest())
        patience = HELLO_S
        while True:
            async with asyncio.timeout(patience):
                state = await stream.read()
            if not isinstance(state, pb.WorkerState):
                raise EOFError("the runner closed its watch stream")
            if self.view is None:
                await self._inform()
            self.view, patience = wire.view_of(state), SILENCE_S
            self._on_change()

    async def _inform(self) -> None:
        if self._known is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INFORM_S):
                    await self.stub.Inform(wire.footprints_to_wire(await self._known()))

    async def _infer(self) -> None:
        call = self.stub.Infer(self._requests())
        async for reply in call:
            for told in reply.told:
                if (open_ := self.open.get(told.id)) is not None:
                    open_.told(Step(cast(Stage, told.stage), told.done, told.total))
            for result in reply.results:
                if result.id not in self.open:
                    continue
                outcome = await asyncio.to_thread(_readable, result) if wire.is_slow(result) else _readable(result)
                item = self.open.pop(result.id, None)
                if item is not None:  # nobody left meanwhile
                    item.answer(outcome)
        raise EOFError("the runner closed its work stream")

    async def _requests(self) -> AsyncIterator[pb.InferRequest]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            ready, self._outbox = self._outbox, pb.InferRequest()
            for message in wire.in_messages(ready):
                yield message


def own_cancellation() -> bool:
    """Whether this task was cancelled: a link that is given up closes its channel, and gRPC then raises CancelledError
    in tasks that nobody cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _readable(result: pb.Result) -> Outcome[Answer]:
    """One result that makes no sense must not end the link of all."""
    try:
        return _outcome(result)
    except Exception as cause:
        log.error("result_unreadable", exc_info=cause)
        return Failed(InternalError("the runner's answer for this item cannot be read; the log has the details"))


def _outcome(result: pb.Result) -> Outcome[Answer]:
    if result.HasField("error"):
        return Failed(wire.error_of(result.error))
    timings = Timings(queue_ms=result.queue_ms, inference_ms=result.inference_ms)
    return Ok(Answer(wire.body_of(result), timings))


async def close_all(links: list[Link]) -> None:
    """Closes links side by side."""
    with contextlib.suppress(Exception):
        await asyncio.gather(*(link.close() for link in links), return_exceptions=True)
