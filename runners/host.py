"""A runner worker: a pool and a batcher behind a gRPC server on a Unix socket of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import structlog

from modelmora import collector
from modelmora.domain.batching import Lanes
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec, ModelRef, ModelSpec, Task
from modelmora.errors import CapabilityMissing, ModelMoraError
from modelmora.ports import Holding, Warmed, WorkerView
from modelmora.proto import runner_pb2_grpc
from runners import devices
from runners.batcher import DEFAULT_MAX_BATCH, LANE_ITEMS, Batcher
from runners.batching.lanes import Patience
from runners.batching.warmup import warm
from runners.engines.conversions import Conversions
from runners.examinations.decisions import Deciding, Decisions
from runners.examinations.resolver import Resolver
from runners.hop import wire
from runners.hop.servicer import RunnerServicer
from runners.pool import Pool
from runners.process.watchdog import end_soon
from runners.provider import AnyProvider
from runners.signals import Signal

log = structlog.get_logger(__name__)

SOCKET_PATH_LIMIT = 103


def lanes_of(share: devices.Share) -> Lanes:
    """How many batches run side by side: up to one a core; two on a GPU, so that one is copied while one computes."""
    if share.gpu is not None:
        return Lanes(cores=share.threads, limit=2, worth=DEFAULT_MAX_BATCH)
    return Lanes(cores=share.threads, limit=share.threads, worth=LANE_ITEMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """How one worker is set up; `index` counts from 1 and only names the socket; `parity` is where decisions on
    forms are kept, `engines` where networks that were exported are (None: nowhere)."""

    group: str
    index: int
    directory: Path
    share: devices.Share
    drain_timeout_s: float = 25.0
    hang_s: float = 300.0
    parity: Path | None = None
    engines: Path | None = None


class Files(Protocol):
    """The files of models on this machine."""

    def locate(self, model: ModelSpec) -> Path | None:
        """See `ports.Artifacts`."""
        ...

    def using(self, model: ModelSpec) -> AbstractAsyncContextManager[Path | None]:
        """As `locate`; a registered version's files are fetched first, and stay until the block ends.

        Raises DependencyUnavailable, ArtifactCorrupt.
        """
        ...


class RunnerHost:
    """Serves the models of one group; `start` returns as soon as the socket answers.

    The defaults of the group are loaded and warmed in the background: `ready` turns true when each
    of them is loaded or has failed (a default that fails does not stop the service).
    """

    def __init__(
        self,
        settings: HostSettings,
        catalogue: Catalogue,
        providers: Callable[[str], AnyProvider],
        artifacts: Files,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._declared = {spec.key: spec for spec in catalogue.models}
        self._told: dict[str, ModelSpec] = {}
        self._providers = providers
        self._artifacts = artifacts
        self.changed = Signal()
        self.decisions = Decisions(settings.parity)
        self.examining = asyncio.Lock()
        self.conversions = Conversions(settings.engines, self.decisions, threads=settings.share.threads)

        def deciding(name: str) -> Deciding:
            return Deciding(providers(name), self.decisions, self.conversions)

        self.pool = Pool(
            deciding,
            artifacts.using,
            share=settings.share,
            on_change=self.changed.set,
            convert=lambda spec, folder, device: deciding(spec.provider).convert(spec, folder, device),
        )
        self.batcher = Batcher(
            self.pool, lanes=lanes_of(settings.share), patience=Patience(hang_s=settings.hang_s), on_hang=end_soon
        )
        self.ready = False
        self._server: grpc.aio.Server | None = None
        self._preloading: asyncio.Task[None] | None = None
        self._resolving: asyncio.Task[None] | None = None
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
        self._resolving = asyncio.create_task(Resolver(self).follow())
        log.info("runner_started", group=self._settings.group, pid=os.getpid())

    async def stop(self) -> None:
        """Serves on until the callers closed their streams or the drain timeout, then closes."""
        until = time.monotonic() + self._settings.drain_timeout_s
        while (self._watchers or self.batcher.busy()) and time.monotonic() < until:
            await self.changed.wait(0.05)
        for task in (self._preloading, self._resolving):
            if task is not None:
                task.cancel()
        await self.batcher.close()
        if self._server is not None:
            await self._server.stop(1.0)
        await self.pool.close()
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()

    def spec(self, model: str) -> ModelSpec:
        """The model of a `name@version` that was declared or told; raises ModelNotFound, VersionNotFound."""
        return self._told.get(model) or self._declared.get(model) or self._catalogue.get(ModelRef.parse(model))

    def told(self, spec: bytes) -> ModelSpec:
        """A registered model that a caller knows: from now on it is known here as well.

        What is declared here stays, but where somebody has registered its number.
        """
        model = wire.spec_of(spec)
        if model.key not in self._declared or model.source.startswith("object:"):
            self._told[model.key] = model
        return self.spec(model.key)

    def models(self) -> Sequence[ModelSpec]:
        """The models of this worker's group, as far as it has heard of them."""
        known = {**self._declared, **self._told}
        return [spec for spec in known.values() if spec.group == self._settings.group]

    @property
    def group(self) -> GroupSpec:
        """The group that this worker belongs to."""
        return self._catalogue.group(self._settings.group)

    @property
    def share(self) -> devices.Share:
        """What this worker may use of the machine."""
        return self._settings.share

    def provider(self, spec: ModelSpec) -> AnyProvider:
        """The family of a model."""
        return self._providers(spec.provider)

    def locate(self, spec: ModelSpec) -> Path | None:
        """The model's folder on this machine."""
        return self._artifacts.locate(spec)

    def files(self, spec: ModelSpec) -> AbstractAsyncContextManager[Path | None]:
        """The model's folder, fetched if it can be, and held until the block ends."""
        return self._artifacts.using(spec)

    def check(self, spec: ModelSpec, task: Task) -> None:
        """Raises CapabilityMissing, naming what the model can do."""
        able = self.provider(spec).tasks()
        if task not in able:
            raise CapabilityMissing(f"{spec.key} cannot {task}; it can {', '.join(sorted(able))}", field="model")

    def view(self) -> WorkerView:
        """This worker as the callers see it."""
        device = self.pool.device
        home = devices.memory_home(device)
        return WorkerView(
            group=self._settings.group,
            worker=self.socket.stem,
            pid=os.getpid(),
            ready=self.ready,
            queued=self.batcher.queued(),
            device=device,
            resident_bytes=devices.resident(),
            budget_bytes=self.pool.budget_bytes(home),
            held_bytes=self.pool.held_bytes(home),
            holdings={h.model: h for h in self.pool.holdings() if self._is_shown(h)},
        )

    def _is_shown(self, holding: Holding) -> bool:
        """Copies that pass are nobody else's concern, and of what was registered only what is here."""
        return holding.model in self._declared or (holding.model in self._told and holding.state != "unloaded")

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Counts a caller that is still there; draining waits for it."""
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    async def warm(self, spec: ModelSpec) -> tuple[Warmed, ...]:
        """Loads the model and runs every batch bucket of every task it can do."""
        return await warm(self.pool, self.batcher, spec, self.provider(spec).tasks())

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
            log.error("default_not_loaded", model=spec.name, version=spec.version, code=error.code, why=error.detail)
        except Exception:
            log.exception("default_not_warm", model=spec.name, version=spec.version)
