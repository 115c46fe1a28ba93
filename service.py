"""The BentoML services: the API and one service per runner group. Routes and lifecycle, nothing else."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bentoml
import orjson
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.types import ASGIApp

import wiring
from api import bento, calls, render
from api.http.app import create_app
from api.http.embed import texts_of
from api.http.routes import Core
from modelmora import lifeline
from modelmora.domain.inference import Content, Image
from modelmora.domain.models import GroupSpec
from modelmora.domain.outcome import Ok, Outcome
from modelmora.errors import ModelMoraError, PermissionDenied, ValidationFailed
from modelmora.settings import Settings
from modelmora.telemetry import configure_logging

try:
    SETTINGS = Settings.load()
    CATALOGUE = wiring.load_catalogue(SETTINGS)
except ValidationFailed as error:  # read before anything starts: the message is all there is to say
    sys.exit(str(error))

BUILT = bento.built_services(Path(__file__).resolve().parent)
for _group in CATALOGUE.groups:
    if BUILT is not None and f"runner-{_group.name}" not in BUILT:
        sys.exit(f"{SETTINGS.registry}: this Bento was built without the group {_group.name!r}; build it with it")

CORE = Core()


def _refusal() -> ModelMoraError | None:
    """Why nothing may be served: beyond this machine while nobody is asked who they are."""
    if SETTINGS.allow_anonymous or not bento.listens_beyond_loopback():
        return None
    return PermissionDenied(
        "this server listens beyond 127.0.0.1 and takes anonymous callers; "
        "set MODELMORA_ALLOW_ANONYMOUS=true if that is meant, or leave out --host"
    )


def _front(bento_app: Starlette) -> ASGIApp:
    """Our application in front of BentoML's, whose start and stop it carries along."""
    configure_logging(SETTINGS.log.level, SETTINGS.log.format)
    refusal = _refusal()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with bento.lifespan_of(bento_app):
            yield

    return create_app(
        CORE,
        max_body_bytes=SETTINGS.http.max_body_bytes,
        cors_origins=SETTINGS.http.cors_origins,
        fallback=bento_app,
        lifespan=lifespan,
        refusal=lambda: refusal,
    )


def _runner_app(bento_app: Starlette) -> ASGIApp:
    configure_logging(SETTINGS.log.level, SETTINGS.log.format)
    return bento_app


def _runner_service(group: GroupSpec) -> bentoml.Service[Any]:
    """A service without any API: it declares the processes, our gRPC carries the traffic."""

    @bentoml.service(
        name=f"runner-{group.name}",
        workers=group.workers,
        service_class=bento.service_class(_runner_app),
        traffic={"timeout": 3600},
    )
    class RunnerWorker:
        """Runs the models of one group."""

        @bentoml.on_startup
        async def start(self) -> None:
            folder = bento.socket_directory(f"runner-{group.name}")
            if folder is None:
                return
            lifeline.hold(grace_s=SETTINGS.runner.drain_timeout_s)
            self.host = wiring.runner_host(SETTINGS, CATALOGUE, group, index=bento.worker_index(), folder=folder)
            await self.host.start()

        @bentoml.on_shutdown
        async def stop(self) -> None:
            if hasattr(self, "host"):
                await self.host.stop()

    return RunnerWorker


class _Api:
    """ModelMora: embeddings of pictures and texts. `/docs` has the whole HTTP interface."""

    @bentoml.on_startup
    async def start(self) -> None:
        directories = {g.name: bento.socket_directory(f"runner-{g.name}") for g in CATALOGUE.groups}
        known = {name: folder for name, folder in directories.items() if folder is not None}
        self.worker = wiring.ApiWorker(SETTINGS, CATALOGUE, CORE, known)
        if bento.is_worker():
            lifeline.hold(grace_s=SETTINGS.runner.drain_timeout_s)
            _drain_on_sigterm(self.worker)
        await self.worker.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        await self.worker.stop()

    async def __is_ready__(self) -> bool:
        return CORE.application is not None and CORE.application.health.readiness().ready

    @bentoml.api(route="/v1/embed/image")
    async def embed_image(self, files: list[Path], model: str = "") -> dict[str, Any]:
        """Embeds picture files; one outcome each, same order."""
        images: list[Outcome[Content]] = [Ok(Image(await asyncio.to_thread(file.read_bytes))) for file in files]
        return await _embed(images, model)

    @bentoml.api(route="/v1/embed/text")
    async def embed_text(self, texts: list[str], model: str = "", truncate: bool = False) -> dict[str, Any]:
        """Embeds texts; one outcome each, same order."""
        return await _embed(texts_of(texts), model, truncate=truncate)


async def _embed(items: list[Outcome[Content]], model: str, *, truncate: bool = False) -> dict[str, Any]:
    application = CORE.get()
    call = calls.read_call({}, id_=calls.new_id(), face="http", limits=application.limits, truncate=truncate)
    answer = await application.embed(model or None, items, call=call)
    plain: dict[str, Any] = orjson.loads(render.to_json(render.embeddings(answer, "float")))
    return plain


def _drain_on_sigterm(worker: wiring.ApiWorker) -> None:
    """Turns readiness and gRPC health at the signal, before the HTTP server begins to wait for its requests."""
    loop, previous = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def on_sigterm(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(lambda: asyncio.ensure_future(worker.drain()))
        if callable(previous):
            previous(number, frame)

    signal.signal(signal.SIGTERM, on_sigterm)


for _group in CATALOGUE.groups:
    setattr(_Api, f"runner_{_group.name.replace('-', '_')}", bentoml.depends(_runner_service(_group)))

ModelMora = bentoml.service(
    name="modelmora",
    workers=SETTINGS.api.workers,
    http={"host": SETTINGS.http.host, "port": SETTINGS.http.port},
    runner_probe={"enabled": False},
    traffic={"timeout": 3600},
    service_class=bento.service_class(_front),
)(_Api)
