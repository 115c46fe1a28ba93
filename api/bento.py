"""Everything of BentoML's that is private, touched in this one file; the version is pinned."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from _bentoml_sdk.service import Service
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.context import server_context
from bentoml._internal.log import SERVER_LOGGING_CONFIG
from starlette.applications import Starlette
from starlette.types import ASGIApp

_HANDLER = "tracehandler"


def service_class(wrap: Callable[[Starlette], ASGIApp]) -> type[Service[Any]]:
    """A Service whose ASGI application is `wrap` of BentoML's own."""

    class WrappedService(Service[Any]):
        def to_asgi(self, is_main: bool = True) -> ASGIApp:
            return wrap(super().to_asgi(is_main))

    return WrappedService


def is_serving() -> bool:
    """Whether BentoML's logging is that of a server: in `bentoml serve` and its workers, not in `bentoml build`."""
    return any(handler.name == _HANDLER for handler in logging.getLogger("bentoml").handlers)


def leave_logging_to_root() -> None:
    """What BentoML, its supervisor and uvicorn say goes where everything goes; they have handlers of their own."""
    for name in SERVER_LOGGING_CONFIG["loggers"]:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    for known in tuple(logging.root.manager.loggerDict.values()):
        if isinstance(known, logging.Logger):
            known.disabled = False  # BentoML's set-up silences whatever was there before it, asyncio too


def keep_connections(seconds: int) -> None:
    """Idle connections stay open for so long; BentoML passes uvicorn 5 s unless `bentoml serve` is told otherwise.

    A client that uses a connection just when the server closes it sees it reset, and most clients and load balancers
    keep theirs for 5 to 60 s. Call before the worker makes its server.
    """

    import uvicorn  # noqa: PLC0415 - only an API worker needs it

    class PatientConfig(uvicorn.Config):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options["timeout_keep_alive"] = max(seconds, options.get("timeout_keep_alive") or 0)
            super().__init__(*arguments, **options)

    uvicorn.Config = PatientConfig  # type: ignore[misc] # the name that BentoML's worker looks up


def lifespan_of(app: Starlette) -> AbstractAsyncContextManager[Any]:
    """BentoML's start and stop: makes the service instance, runs its hooks."""
    return app.router.lifespan_context(app)


def socket_directory(service: str) -> Path | None:
    """The private folder (mode 0700) of a dependency's socket; None where this serve starts no such process.

    Where BentoML uses TCP instead of Unix sockets, a folder that all workers of one supervisor share.
    """
    url = BentoMLContainer.remote_runner_mapping.get().get(service)
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).parent
    shared = Path(tempfile.gettempdir()) / f"modelmora-{os.getuid()}-{os.getppid()}"
    shared.mkdir(mode=0o700, exist_ok=True)
    return shared


def built_services(bundle: Path) -> frozenset[str] | None:
    """The services of the Bento that `bundle` is the source folder of; None where it is a checkout."""
    manifest = bundle.parent / "bento.yaml"
    if bundle.name != "src" or not manifest.is_file():
        return None
    return frozenset(service["name"] for service in yaml.safe_load(manifest.read_text())["services"])


def worker_index() -> int:
    """This worker's number, from 1; after a reload they are not 1..N."""
    return server_context.worker_index or 1


def is_worker() -> bool:
    """Whether this process was started by BentoML's supervisor to serve."""
    return bool(server_context.service_name) or server_context.worker_index is not None


def listens_beyond_loopback() -> bool:
    """Whether the HTTP socket handed to this worker is bound to more than this machine."""
    if "--fd" not in sys.argv[:-1]:
        return False
    descriptor = os.dup(int(sys.argv[sys.argv.index("--fd") + 1]))
    with socket.socket(fileno=descriptor) as listening:
        if listening.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        return not ipaddress.ip_address(listening.getsockname()[0]).is_loopback
