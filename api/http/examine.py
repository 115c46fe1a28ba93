"""The control plane's long looks at a model: verify and tune, told as NDJSON."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.core import Core
from api.http.ndjson import Lines, line
from api.http.routes import PERMISSION, patience_of
from modelmora.errors import InternalError
from modelmora.ports import Examination

Steps = AsyncGenerator[Mapping[str, Any], None]


def add_examining(router: APIRouter, core: Core) -> None:
    """`POST /{ref}/verify` and `/{ref}/tune`: a line a step, the last one the report or the error."""

    @router.post("/{ref}/verify", openapi_extra={PERMISSION: "operate"})
    async def verify_model(request: Request, ref: str) -> Response:
        """Compares the model in every precision its device is made for with fp32, and times it."""
        return examined(request, ref, "verify")

    @router.post("/{ref}/tune", openapi_extra={PERMISSION: "operate"})
    async def tune_model(request: Request, ref: str) -> Response:
        """Tries batch sizes and threads, and says what to put into the registry."""
        return examined(request, ref, "tune")

    def examined(request: Request, ref: str, what: Examination) -> Response:
        """A request without a deadline gets the longest."""
        application = core.get()
        steps = cast(Steps, application.models.examine(ref, what, deadline=patience_of(request, application)))
        return Lines(_lines(steps, f"{what} of {ref}"))


async def _lines(steps: Steps, what: str) -> AsyncGenerator[bytes, None]:
    told = False
    async with aclosing(steps):
        async for step in steps:
            told = True
            yield line(step)
    if not told:
        raise InternalError(f"{what} ended without a report")
