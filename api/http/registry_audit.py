"""Who changed what in the registry, and whether that record is whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from api import render_registry
from api.core import Core
from api.http.registry_operations import ENTRY, VERIFIED, paged, route
from api.http.registry_queries import AuditAsked
from api.http.routes import json_answer


def audit_router(core: Core) -> APIRouter:
    """`/api/v1/audit`."""
    router = APIRouter(prefix="/api/v1/audit", tags=["audit"])

    @router.get("", **route("read", paged(ENTRY)))
    async def list_audit(asked: Annotated[AuditAsked, Query()]) -> Response:
        """Every change of what is registered, in order."""
        found = await core.get().registry.audit.entries(asked.query())
        return json_answer(render_registry.page(found, render_registry.audited))

    @router.get("/verify", **route("read", VERIFIED))
    async def verify_audit() -> Response:
        """Reads the whole record and follows its chain of digests; `broken` is where it does not hold first."""
        found = await core.get().registry.audit.verify()
        told: dict[str, Any] = {"intact": found.intact, "entries": found.entries}
        return json_answer(told if found.broken is None else {**told, "broken": asdict(found.broken)})

    return router
