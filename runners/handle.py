"""The API's side of the models in runner workers: loading, unloading, warming up, long looks at one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

import grpc

from modelmora.domain.models import ModelSpec, State, Task
from modelmora.errors import DeadlineExceeded, DependencyUnavailable, ModelMoraError
from modelmora.ports import Examination, ModelReport, Warmed, WorkerView
from modelmora.proto import runner_pb2 as pb
from runners.hop import wire
from runners.hop.errands import unless_lost
from runners.hop.findings import findings
from runners.hop.fleet import Fleet
from runners.hop.link import Link


class RunnerHandle:
    """Implements the port ModelHost over a fleet of runner workers."""

    def __init__(self, fleet: Fleet, wanted: Mapping[str, int]) -> None:
        self._fleet = fleet
        self._wanted = dict(wanted)

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
        await self._fleet.close()

    async def _everywhere(
        self, model: ModelSpec, deadline: float, method: Callable[[Link], Callable[..., Awaitable[pb.ModelReply]]]
    ) -> ModelReport:
        """The change on every live worker of the group; one that dies meanwhile does not count."""
        await self._fleet.any_link(model, deadline=deadline)
        links = self._fleet.links(model.group)
        remaining = max(0.0, deadline - time.monotonic())
        request = pb.ModelRequest(model=model.key, timeout_ms=remaining * 1e3, spec=wire.spec_to_wire(model))
        calls = (unless_lost(method(link)(request, timeout=remaining), _overdue) for link in links)
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
