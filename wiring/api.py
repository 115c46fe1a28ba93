"""One API worker: stores, runners and use cases put together, and taken apart again."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from adapters.database import Database
from api.core import Core
from api.grpc.server import GrpcServer
from modelmora import __version__
from modelmora.domain.catalogue import Catalogue, Look
from modelmora.domain.models import GroupSpec, ModelRef, ModelSpec, ModelType
from modelmora.errors import ModelMoraError
from modelmora.settings import Settings
from modelmora.stall import watch_loop
from modelmora.telemetry import count_inference
from modelmora.usecases.admission import Admission, Limits
from modelmora.usecases.application import Application
from modelmora.usecases.classify import Classify
from modelmora.usecases.compare import Compare
from modelmora.usecases.decoding import Decoding
from modelmora.usecases.describe import Describe
from modelmora.usecases.embed import Embed
from modelmora.usecases.embed_stream import EmbedStream
from modelmora.usecases.embed_watched import EmbedWatched
from modelmora.usecases.health import Health
from modelmora.usecases.models import Models
from modelmora.usecases.predict import Predict
from modelmora.usecases.probes import Probes
from modelmora.usecases.recent_inferences import RecentInferences
from modelmora.usecases.reconcile import Reconciler
from modelmora.usecases.segment import Segment
from modelmora.usecases.steady_leases import SteadyLeases
from runners.devices import cores, one_heap
from runners.handle import RunnerHandle
from runners.hop.errands import Errands, HandleSettings
from runners.hop.fleet import Fleet
from runners.inference import RunnerInference
from runners.looks import Looks
from runners.predicting import RunnerPredictor
from runners.segmenting import RunnerSegmenter
from wiring import artifacts_of, objects_of
from wiring.cache import remembering
from wiring.footprints import FootprintMemory
from wiring.gallery import Around, Stores, gallery_of
from wiring.pictures import open_pictures
from wiring.registry import follow_registry, registry_of
from wiring.runner import runner_host
from wiring.stores import open_cache, open_events, open_files, open_vectors
from wiring.tracing import hooks_seen, open_tracing

log = structlog.get_logger(__name__)

RETRY_S = 2.0


class CurrentVersions:
    """The port Traffic without rollouts: the named version, else the current one."""

    def __init__(self, catalogue: Look) -> None:
        self._catalogue = catalogue

    def route(self, ref: ModelRef | None, type_: ModelType) -> ModelSpec:
        return self._catalogue().default(type_) if ref is None else self._catalogue().get(ref)


def limits_of(settings: Settings) -> Limits:
    """The limits as the use cases take them."""
    limits = settings.limits
    return Limits(
        items=limits.items,
        stream_items=limits.stream_items,
        image_bytes=limits.image_bytes,
        pixels=limits.pixels,
        text_chars=limits.text_chars,
        timeout_ms=limits.timeout_ms,
        max_timeout_ms=limits.max_timeout_ms,
    )


@dataclass(slots=True)
class ApiWorker:
    """All of one API worker: opened by the service's start hook, closed by its stop hook; neither raises.

    `directories` maps each runner group to its sockets' folder; a group that is not in it is hosted
    in this process.
    """

    settings: Settings
    catalogue: Catalogue
    core: Core
    directories: Mapping[str, Path]
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _rising: asyncio.Task[None] | None = None
    _grpc: GrpcServer | None = None

    async def start(self) -> None:
        """Comes up, or says why not and tries again in the background."""
        one_heap()
        try:
            await self._open()
        except Exception as cause:
            self._refuse(cause)
            self._rising = asyncio.create_task(self._rise())

    async def drain(self) -> None:
        """Readiness and gRPC health turn at once; what runs goes on."""
        if self.core.application is not None:
            self.core.application.health.draining = True
        if self._grpc is not None:
            await self._grpc.drain()

    async def stop(self) -> None:
        """Finishes what runs within the drain timeout, then lets everything go."""
        await self.drain()
        if self._rising is not None:
            self._rising.cancel()
        self.core.application, self.core.why = None, "the service is shutting down"
        try:
            await self._stack.aclose()
        except Exception:
            log.exception("stop_failed")

    async def _rise(self) -> None:
        while self.core.application is None:
            await asyncio.sleep(RETRY_S)
            try:
                await self._open()
            except Exception as cause:
                self._refuse(cause)

    def _refuse(self, cause: Exception) -> None:
        self.core.why = cause.detail if isinstance(cause, ModelMoraError) else f"{type(cause).__name__} at start"
        log.error("start_failed", why=self.core.why, exc_info=None if isinstance(cause, ModelMoraError) else cause)

    async def _open(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            open_tracing(self.settings, stack, process="api")
            application = await self._build(stack)
            self._grpc = await self._serve_grpc(stack, application)
            self._stack = stack.pop_all()
        self.core.application = application
        log.info("api_started", version=__version__, models=len(self.catalogue.models))

    async def _build(self, stack: contextlib.AsyncExitStack) -> Application:
        settings = self.settings
        settings.make_data_dir()
        stores = await self._stores(stack)
        database = stores.database
        roster = await follow_registry(database, self.catalogue)
        footprints = FootprintMemory(database.footprints, stores.leases, roster)
        handle, errands = await self._runners(stack, footprints)
        registry = registry_of(database, objects_of(settings), roster, handle)
        inference = RunnerInference(errands)
        traffic, limits = CurrentVersions(roster), limits_of(settings)
        models = Models(roster, traffic, handle, database.desired, artifacts_of(settings))
        cache, recent = open_cache(settings, stack), RecentInferences()
        health = Health(handle, models, Probes({**stores.checks(), "cache": cache.ping}), recent)
        reconciler = Reconciler(roster, database.desired, handle, declared=self.catalogue.models)
        watching = (health.watch(), watch_loop(), footprints.keep(handle.workers), roster.follow())
        for work in (*watching, reconciler.run(), registry.validation.run()):
            _spawn(stack, work)
        admission = Admission(traffic, limits=limits, hooks=[count_inference, recent, *hooks_seen()])
        embedder = remembering(inference, cache)
        embed = Embed(admission, embedder, inference, open_pictures(settings, stack), capacity=errands)
        decoding = Decoding(errands)
        around = Around(
            embed=embed,
            host=handle,
            describer=inference,
            capacity=errands,
            looks=Looks(errands, max_pixels=limits.pixels),
            decoding=decoding,
            limits=limits,
            look=roster,
            spawn=_spawn,
        )
        return Application(
            embed=embed,
            embed_stream=EmbedStream(embed, limits=limits),
            embed_watched=EmbedWatched(embed),
            classify=Classify(admission, inference, inference, inference),
            segment=Segment(admission, RunnerSegmenter(errands)),
            predict=Predict(admission, RunnerPredictor(errands), inference),
            compare=Compare(embed, models),
            models=models,
            describe=Describe(models, inference),
            decoding=decoding,
            gallery=gallery_of(settings, stack, stores, around),
            registry=registry,
            health=health,
            limits=limits,
            version=__version__,
        )

    async def _stores(self, stack: contextlib.AsyncExitStack) -> Stores:
        settings = self.settings
        database = await Database.open(settings.database.url, images_topic=settings.events.images_topic)
        stack.push_async_callback(database.close)
        return Stores(
            database=database,
            leases=SteadyLeases(database.leases),
            files=await open_files(settings, stack),
            vectors=await open_vectors(settings, stack),
            events=open_events(settings, stack),
        )

    async def _runners(
        self, stack: contextlib.AsyncExitStack, footprints: FootprintMemory
    ) -> tuple[RunnerHandle, Errands]:
        directories = dict(self.directories)
        for group in self.catalogue.groups:
            if group.name not in directories:
                directories[group.name] = await self._host_here(stack, group)
        fleet = Fleet(directories, known=footprints.of_group)
        settings = HandleSettings(
            decode_threads=self.settings.api.decode_threads or max(1, cores() // self.settings.api.workers),
            max_in_flight=self.settings.api.max_in_flight,
            max_pixels=self.settings.limits.pixels,
            max_text_chars=self.settings.limits.text_chars,
        )
        wanted = {g.name: g.workers if g.name in self.directories else 1 for g in self.catalogue.groups}
        handle, errands = RunnerHandle(fleet, wanted), Errands(fleet, settings)
        await fleet.start()
        stack.push_async_callback(handle.close)
        stack.callback(errands.close)
        return handle, errands

    async def _host_here(self, stack: contextlib.AsyncExitStack, group: GroupSpec) -> Path:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelmora-")))
        host = runner_host(self.settings, self.catalogue, group, index=1, folder=folder)
        await host.start()
        stack.push_async_callback(host.stop)
        return folder

    async def _serve_grpc(self, stack: contextlib.AsyncExitStack, application: Application) -> GrpcServer:
        grpc = self.settings.grpc
        server = GrpcServer(
            application,
            host=grpc.host,
            port=grpc.port,
            max_message_bytes=grpc.max_message_bytes,
            share=self.settings.api.workers > 1,
        )
        await server.start()
        stack.push_async_callback(server.stop, self.settings.runner.drain_timeout_s)
        return server


def _spawn(stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """A background task that ends with the stack."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)
