"""The control plane's long looks at a model: verify and tune, told as NDJSON."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from api import render
from api.calls import TIMEOUT
from api.core import Core
from api.http.routes import PERMISSION, deadline_of
from modelmora.errors import InternalError, ModelMoraError
from modelmora.ports import Examination

Steps = AsyncGenerator[Mapping[str, Any], None]


def add_examining(router: APIRouter, core: Core) -> None:
    """`POST /{ref}/verify` and `/{ref}/tune`: a line a step, the last one the report or the error."""

    @router.post("/{ref}/verify", openapi_extra={PERMISSION: "operate"})
    async def verify_model(request: Request, ref: str) -> Response:
        """Compares the model in every precision its device is made for with fp32, and times it."""
        return await examined(request, ref, "verify")

    @router.post("/{ref}/tune", openapi_extra={PERMISSION: "operate"})
    async def tune_model(request: Request, ref: str) -> Response:
        """Tries batch sizes and threads, and says what to put into the registry."""
        return await examined(request, ref, "tune")

    async def examined(request: Request, ref: str, what: Examination) -> Response:
        """What fails before the first line has its own status; a request without a deadline gets the longest."""
        application = core.get()
        longest = time.monotonic() + application.limits.max_timeout_ms / 1e3
        deadline = deadline_of(request, application) if TIMEOUT in request.headers else longest
        steps = cast(Steps, application.models.examine(ref, what, deadline=deadline))
        try:
            first = await anext(steps)
        except StopAsyncIteration:
            raise InternalError(f"{what} of {ref} ended without a report") from None
        return StreamingResponse(_lines(first, steps), media_type="application/x-ndjson")


async def _lines(first: Mapping[str, Any], steps: Steps) -> AsyncIterator[bytes]:
    """Ends the examination when whoever reads leaves."""
    async with aclosing(steps):
        try:
            yield render.to_json(first) + b"\n"
            async for step in steps:
                yield render.to_json(step) + b"\n"
        except ModelMoraError as error:
            yield render.to_json({"error": render.fault(error.as_fault())}) + b"\n"
