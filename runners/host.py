"""A runner worker: a pool and a batcher behind a gRPC server on a Unix socket of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from modelmora import collector
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec, ModelRef, ModelSpec, Task
from modelmora.errors import CapabilityMissing, ModelMoraError
from modelmora.ports import WorkerView
from modelmora.proto import runner_pb2_grpc
from runners import devices, wire
from runners.batcher import Batcher
from runners.pool import Pool
from runners.provider import Provider
from runners.servicer import RunnerServicer
from runners.signals import Signal

log = structlog.get_logger(__name__)

SOCKET_PATH_LIMIT = 103


def share_of(group: GroupSpec, groups: Sequence[GroupSpec], index: int, *, memory_fraction: float) -> devices.Share:
    """What worker `index` (0-based) of a group gets: BentoML honours none of it locally, so we do.

    Memory: the group's declared budget over its workers, else an equal part of `memory_fraction`
    of the machine over all workers of all groups. Threads: the group's cores (else all there are)
    over its workers.
    """
    workers = sum(g.workers for g in groups) or 1
    budget = group.memory_bytes // group.workers if group.memory_bytes else None
    own_cores = group.cpu if group.cpu is not None else devices.cores()
    return devices.Share(
        threads=max(1, int(own_cores / group.workers)),
        budget_bytes=budget or int(devices.total_memory() * memory_fraction / workers),
        gpu=group.gpus[index % len(group.gpus)] if group.gpus else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """How one worker is set up; `index` counts from 1 and only names the socket."""

    group: str
    index: int
    directory: Path
    share: devices.Share
    drain_timeout_s: float = 25.0


class RunnerHost:
    """Serves the models of one group; `start` returns as soon as the socket answers.

    The defaults of the group are loaded and warmed in the background: `ready` turns true when each
    of them is loaded or has failed (a default that fails does not stop the service).
    """

    def __init__(
        self,
        settings: HostSettings,
        catalogue: Catalogue,
        providers: Callable[[str], Provider],
        locate: Callable[[ModelSpec], Path | None],
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._providers = providers
        self._locate = locate
        self.changed = Signal()
        self.pool = Pool(providers, locate, share=settings.share, on_change=self.changed.set)
        self.batcher = Batcher(self.pool)
        self.ready = False
        self._server: grpc.aio.Server | None = None
        self._preloading: asyncio.Task[None] | None = None
        self._watchers = 0

    @property
    def socket(self) -> Path:
        """`<group>-<index>-<pid>.sock`: found by listing the directory, never computed elsewhere."""
        name = f"{self._settings.group}-{self._settings.index}-{os.getpid()}.sock"
        return self._settings.directory / name

    async def start(self) -> None:
        """Binds the socket and begins to load the defaults."""
        if len(os.fsencode(self.socket)) > SOCKET_PATH_LIMIT:
            raise OSError(f"{self.socket} is longer than {SOCKET_PATH_LIMIT} bytes; set TMPDIR to a shorter folder")
        self._server = grpc.aio.server(options=wire.CHANNEL_OPTIONS)
        runner_pb2_grpc.add_RunnerServicer_to_server(RunnerServicer(self), self._server)
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()
        self._preloading = asyncio.create_task(self._preload())
        log.info("runner_started", group=self._settings.group, pid=os.getpid())

    async def stop(self) -> None:
        """Serves on until the callers closed their streams or the drain timeout, then closes."""
        until = time.monotonic() + self._settings.drain_timeout_s
        while (self._watchers or self.batcher.busy()) and time.monotonic() < until:
            await self.changed.wait(0.05)
        if self._preloading is not None:
            self._preloading.cancel()
        await self.batcher.close()
        if self._server is not None:
            await self._server.stop(1.0)
        await self.pool.close()
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()

    def spec(self, model: str) -> ModelSpec:
        """The declared model of a `name@version`; raises ModelNotFound, VersionNotFound."""
        return self._catalogue.get(ModelRef.parse(model))

    def provider(self, spec: ModelSpec) -> Provider:
        """The family of a model."""
        return self._providers(spec.provider)

    def locate(self, spec: ModelSpec) -> Path | None:
        """The model's folder on this machine."""
        return self._locate(spec)

    def check(self, spec: ModelSpec, task: Task) -> None:
        """Raises CapabilityMissing, naming what the model can do."""
        able = self.provider(spec).tasks()
        if task not in able:
            raise CapabilityMissing(f"{spec.key} cannot {task}; it can {', '.join(sorted(able))}", field="model")

    def view(self) -> WorkerView:
        """This worker as the callers see it."""
        share = self._settings.share
        return WorkerView(
            group=self._settings.group,
            worker=self.socket.stem,
            pid=os.getpid(),
            ready=self.ready,
            queued=self.batcher.queued(),
            device="cpu" if share.gpu is None else f"cuda:{share.gpu}",
            resident_bytes=devices.resident(),
            budget_bytes=share.budget_bytes,
            held_bytes=self.pool.held_bytes(),
            holdings={h.model: h for h in self.pool.holdings()},
        )

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Counts a caller that is still there; draining waits for it."""
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    async def warm(self, spec: ModelSpec) -> None:
        """Loads the model and runs a batch of one and a full batch of every task it can do."""
        async with self.pool.lease(spec) as loaded:
            sizes = sorted({1, spec.batching.max_batch or loaded.description.max_batch})
            for task in sorted(self.provider(spec).tasks()):
                sample = loaded.sample(task)
                for size in sizes:
                    await self.batcher.run_alone(loaded, task, [sample] * size)

    async def _preload(self) -> None:
        for spec in self._catalogue.in_group(self._settings.group):
            if spec.default or spec.pin:
                await self._preload_one(spec)
        collector.settle()
        self.ready = True
        self.changed.set()

    async def _preload_one(self, spec: ModelSpec) -> None:
        try:
            await (self.warm(spec) if spec.warmup else self.pool.load(spec))
        except ModelMoraError as error:
            log.error("default_not_loaded", model=spec.name, version=spec.version, code=error.code, detail=error.detail)
        except Exception:
            log.exception("default_not_warm", model=spec.name, version=spec.version)
