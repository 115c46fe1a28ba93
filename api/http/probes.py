"""Is it alive, is it ready, how is it, which version, which limits."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from api import render
from api.core import Core
from api.http.routes import PERMISSION


def probe_router(core: Core) -> APIRouter:
    """The probes."""
    router = APIRouter(tags=["service"])

    @router.get("/livez", openapi_extra={PERMISSION: "none"})
    async def livez() -> Response:
        """The process answers."""
        return PlainTextResponse("\n")

    @router.get("/readyz", openapi_extra={PERMISSION: "none"})
    async def readyz() -> Response:
        """200 once every runner group can serve; 503 with the reason before, while draining, and when
        a group has been short of workers for a minute."""
        readiness = core.get().health.readiness()
        body = {
            "ready": readiness.ready,
            "runners": {
                group: {"ready": ready, "live": live, "wanted": wanted}
                for group, (ready, live, wanted) in readiness.runners.items()
            },
            "why": readiness.why,
        }
        return Response(render.to_json(body), 200 if readiness.ready else 503, media_type="application/json")

    @router.get("/health", openapi_extra={PERMISSION: "none"})
    async def health() -> Response:
        """Models, memory, runners, stores; 503 only when down."""
        application = core.get()
        report = await application.health.report()
        status = 503 if report.status == "down" else 200
        body = render.health(report, application.version)
        return Response(render.to_json(body), status, media_type="application/json")

    @router.get("/version", openapi_extra={PERMISSION: "none"})
    async def version() -> Response:
        """The version that runs."""
        return Response(render.to_json({"version": core.get().version}), media_type="application/json")

    @router.get("/api/v1/limits", openapi_extra={PERMISSION: "read"})
    async def limits() -> Response:
        """What one request may ask for."""
        return Response(render.to_json(asdict(core.get().limits)), media_type="application/json")

    return router
