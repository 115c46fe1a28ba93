"""The one HTTP application: our routes, and BentoML's own application behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.core import Core
from api.http import problems
from api.http.batch import batch_routes
from api.http.classify import classify_routes
from api.http.compare import compare_routes
from api.http.dead_letters import dead_letter_router
from api.http.embed import embed_routes
from api.http.front import Front
from api.http.images import image_router
from api.http.indexes import index_router
from api.http.models import model_router
from api.http.openai import openai_routes
from api.http.predict import predict_routes
from api.http.probes import probe_router
from api.http.registry_artifacts import artifact_router, artifact_routes
from api.http.registry_audit import audit_router
from api.http.registry_models import registered_model_router
from api.http.registry_versions import version_router
from api.http.routes import HotRoute, openapi_of, unbounded
from api.http.search import search_routes
from api.http.segment import segment_routes
from api.http.stream import stream_routes
from api.http.upload import upload_routes
from api.http.web import web_routes
from api.oip.http import oip_routes
from modelmora import __version__
from modelmora.errors import ModelMoraError

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

CONTROL = (
    *(registered_model_router, version_router, model_router, artifact_router, audit_router),
    *(image_router, index_router, dead_letter_router),
    probe_router,
)
"""Everything that FastAPI routes."""


def create_app(
    core: Core,
    *,
    max_body_bytes: int,
    cors_origins: Sequence[str] = (),
    fallback: ASGIApp | None = None,
    lifespan: Lifespan | None = None,
    refusal: Callable[[], ModelMoraError | None] = lambda: None,
) -> Front:
    """Hot routes first, then the control plane, then `fallback` for everything else."""
    app = FastAPI(
        title="ModelMora",
        version=__version__,
        description="A vision-model server: embeddings of pictures and texts.",
        lifespan=lifespan,
        docs_url="/docs",
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # `Front` has ours, of all routes alike
    )
    hot = _hot(core, max_body_bytes)
    app.router.routes[:0] = hot
    for router in CONTROL:
        app.include_router(router(core))
    for error in (ModelMoraError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(error, problems.on_error)
    app.add_exception_handler(ClientDisconnect, problems.on_disconnect)  # type: ignore[arg-type] # None sends nothing
    if fallback is not None:
        app.mount("/", _Fallback(fallback, tuple(app.routes)))
    app.openapi = openapi_of(app)  # type: ignore[method-assign] # FastAPI's documented way to extend its page
    wrapped: ASGIApp = app
    if cors_origins:
        wrapped = CORSMiddleware(app, allow_origins=list(cors_origins), allow_methods=["*"], allow_headers=["*"])
    return Front(
        wrapped,
        max_body_bytes=max_body_bytes,
        unbounded=unbounded(hot),
        refusal=refusal,
        routes=app.routes,
    )


def _hot(core: Core, max_body_bytes: int) -> list[HotRoute]:
    return [
        *embed_routes(core),
        *openai_routes(core),
        *batch_routes(core),
        *stream_routes(core),
        *oip_routes(core, max_body_bytes=max_body_bytes),
        *classify_routes(core),
        *segment_routes(core),
        *predict_routes(core),
        *compare_routes(core),
        *artifact_routes(core),
        *upload_routes(core),
        *search_routes(core),
        *web_routes(),
    ]


class _Fallback:
    """Another application, whose plain 404s become our problems; `routes` are ours, asked before it."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        missing = False

        async def watching(message: Message) -> None:
            nonlocal missing
            missing = missing or (message["type"] == "http.response.start" and message["status"] in (404, 405))
            if not missing:
                await send(message)

        # Middlewares of the fallback keep what they need in a scope of their own.
        inner: dict[str, Any] = {**scope, "app": self._app, "root_path": ""}
        await self._app(inner, receive, watching)
        if missing:
            await self._wrong_method(scope, receive, send)
            raise HTTPException(404, scope["path"])

    async def _wrong_method(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises 405 when the path is one of ours: a mounted application hides that from the router."""
        for route in self._routes:
            match, child = route.matches(scope)
            if match is Match.PARTIAL:
                await route.handle({**scope, **child}, receive, send)
