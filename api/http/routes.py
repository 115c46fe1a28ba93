"""The two kinds of routes: hot ones in plain Starlette, the rest in FastAPI; each names its permission."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from api import calls, render
from api.permissions import Permission
from modelmora.domain.inference import Call
from modelmora.usecases.application import Application

PERMISSION = "x-permission"


class HotRoute(Route):
    """A route without FastAPI's machinery (it costs more than the rest of the request), yet in the OpenAPI page.

    A route that is not `bounded` reads its body bit by bit, under limits of its own.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[[Request], Awaitable[Response]],
        *,
        permission: Permission,
        operation: dict[str, Any],
        method: str = "POST",
        bounded: bool = True,
    ) -> None:
        super().__init__(path, endpoint, methods=[method], name=f"{method} {path}")
        self.permission = permission
        self.operation = {**operation, PERMISSION: permission}
        self.method = method.lower()
        self.bounded = bounded

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Says which route it was, as FastAPI's do."""
        match, more = super().matches(scope)
        return match, {**more, "route": self} if match is Match.FULL else more


def call_of(request: Request, application: Application, *, truncate: bool = False, stream: bool = False) -> Call:
    """Who asks, until when, how urgently; `stream` as in `calls.read_call`."""
    return calls.read_call(
        request.headers,
        id_=request.scope["state"]["request_id"],
        face="http",
        limits=application.limits,
        truncate=truncate,
        stream=stream,
    )


def deadline_of(request: Request, application: Application) -> float:
    """The caller's deadline on `time.monotonic()`."""
    return call_of(request, application).deadline


def patience_of(request: Request, application: Application) -> float:
    """The caller's deadline for what takes long: without one of his own the longest."""
    if calls.TIMEOUT in request.headers:
        return deadline_of(request, application)
    return time.monotonic() + application.limits.max_timeout_ms / 1e3


def unbounded(routes: Iterable[HotRoute]) -> Callable[[Scope], bool]:
    """Whether a request is for one of those routes that are not `bounded`."""
    free = [route for route in routes if not route.bounded]
    plain = frozenset((route.method.upper(), route.path) for route in free if not route.param_convertors)
    others = [route for route in free if route.param_convertors]

    def asked(scope: Scope) -> bool:
        return (scope["method"], scope["path"]) in plain or any(r.matches(scope)[0] is Match.FULL for r in others)

    return asked


def json_answer(value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """What most routes of the control plane answer."""
    return Response(render.to_json(value), status, headers, "application/json")


def openapi_of(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """FastAPI's page with the hot routes put in."""

    def build() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            for route in app.routes:
                if isinstance(route, HotRoute):
                    schema["paths"].setdefault(route.path, {})[route.method] = route.operation
            app.openapi_schema = schema
        return app.openapi_schema

    return build
