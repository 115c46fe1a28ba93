"""The BentoML services: the API and one service per runner group. Routes and lifecycle, nothing else.

The supervisor, every API worker and every runner worker import this module, so what only one of them
needs is imported where it is used: a start takes a third less time.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml

import wiring
from api import bento
from api.core import Core
from modelmora import collector, lifeline
from modelmora.domain.models import GroupSpec
from modelmora.errors import ValidationFailed
from modelmora.logs import configure_logging
from modelmora.settings import Settings
from runners.process.engine import Engine

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp

    from wiring.api import ApiWorker

try:
    SETTINGS = Settings.load()
    CATALOGUE = wiring.load_catalogue(SETTINGS)
except ValidationFailed as error:  # read before anything starts: the message is all there is to say
    sys.exit(str(error))

if bento.is_serving():
    bento.leave_logging_to_root()
    configure_logging(SETTINGS.log.level, SETTINGS.log.format, process="supervisor")

HERE = Path(__file__).resolve().parent
BUILT = bento.built_services(HERE)
for _group in CATALOGUE.groups:
    if BUILT is not None and f"runner-{_group.name}" not in BUILT:
        sys.exit(f"{SETTINGS.registry}: this Bento was built without the group {_group.name!r}; build it with it")

CORE = Core()


def _api_app(bento_app: Starlette) -> ASGIApp:
    from api.mount import mount

    configure_logging(SETTINGS.log.level, SETTINGS.log.format, process="api")
    bento.keep_connections(SETTINGS.http.keep_alive_s)
    return mount(bento_app, CORE, SETTINGS)


def _runner_app(bento_app: Starlette) -> ASGIApp:
    configure_logging(SETTINGS.log.level, SETTINGS.log.format, process="runner")
    return bento_app


def _runner_service(group: GroupSpec) -> bentoml.Service[Any]:
    """A service without any API: it declares the processes, our gRPC carries the traffic.

    Its worker only keeps an engine alive, the process that holds the models; see `wiring/engine.py`.
    """

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
            grace_s = SETTINGS.runner.drain_timeout_s
            lifeline.hold(grace_s=grace_s)
            told = (group.name, str(bento.worker_index()), str(folder))
            command = (sys.executable, "-m", "wiring.engine", *told)
            self.engine = Engine(command, folder=HERE, env=os.environ, grace_s=grace_s + 5.0)
            self.engine.start()

        @bentoml.on_shutdown
        async def stop(self) -> None:
            if hasattr(self, "engine"):
                await self.engine.stop()

    return RunnerWorker


class _Api:
    """ModelMora: embeddings of pictures and texts. `/docs` has the whole HTTP interface."""

    @bentoml.on_startup
    async def start(self) -> None:
        from wiring.api import ApiWorker

        directories = {g.name: bento.socket_directory(f"runner-{g.name}") for g in CATALOGUE.groups}
        known = {name: folder for name, folder in directories.items() if folder is not None}
        self.worker = ApiWorker(SETTINGS, CATALOGUE, CORE, known)
        if bento.is_worker():
            lifeline.hold(grace_s=SETTINGS.runner.drain_timeout_s)
            _drain_on_sigterm(self.worker)
        await self.worker.start()
        collector.settle()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        await self.worker.stop()

    async def __is_ready__(self) -> bool:
        return CORE.application is not None and CORE.application.health.readiness().ready

    @bentoml.api(route="/v1/embed/image")
    async def embed_image(self, files: list[Path], model: str = "") -> dict[str, Any]:
        """Embeds picture files; one outcome each, same order."""
        from api import direct

        return await direct.embed_files(CORE, files, model)

    @bentoml.api(route="/v1/embed/text")
    async def embed_text(self, texts: list[str], model: str = "", truncate: bool = False) -> dict[str, Any]:
        """Embeds texts; one outcome each, same order."""
        from api import direct

        return await direct.embed_texts(CORE, texts, model, truncate=truncate)


def _drain_on_sigterm(worker: ApiWorker) -> None:
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
    service_class=bento.service_class(_api_app),
)(_Api)
