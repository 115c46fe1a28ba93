"""Our HTTP application put in front of BentoML's, whose start and stop it carries along."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.types import ASGIApp

from api import bento
from api.core import Core
from api.http.app import create_app
from modelmora.errors import ModelMoraError, PermissionDenied
from modelmora.settings import Settings


def mount(bento_app: Starlette, core: Core, settings: Settings) -> ASGIApp:
    """The application that the API worker serves."""
    refusal = _refusal(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with bento.lifespan_of(bento_app):
            yield

    return create_app(
        core,
        max_body_bytes=settings.http.max_body_bytes,
        cors_origins=settings.http.cors_origins,
        fallback=bento_app,
        lifespan=lifespan,
        refusal=lambda: refusal,
    )


def _refusal(settings: Settings) -> ModelMoraError | None:
    """Why nothing may be served: beyond this machine while nobody is asked who they are."""
    if settings.allow_anonymous or not bento.listens_beyond_loopback():
        return None
    return PermissionDenied(
        "this server listens beyond 127.0.0.1 and takes anonymous callers; "
        "set MODELMORA_ALLOW_ANONYMOUS=true if that is meant, or leave out --host"
    )
