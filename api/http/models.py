"""The control plane of models: list, look up, load, unload, warm up, pull."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from api import render
from api.core import Core
from api.http.examine import add_examining
from api.http.ndjson import MEDIA_TYPE, line
from api.http.routes import PERMISSION, deadline_of
from modelmora.domain.models import ModelType, State
from modelmora.errors import ModelMoraError, ValidationFailed
from modelmora.ports import Fetch, ModelReport
from modelmora.usecases.models import ModelStatus

log = structlog.get_logger(__name__)
Change = Callable[..., Awaitable[ModelReport]]


def model_router(core: Core) -> APIRouter:
    """`/api/v1/models` and below; a model is named `name` or `name@version`."""
    router = APIRouter(prefix="/api/v1/models", tags=["models"])
    _add_reading(router, core)
    _add_changing(router, core)
    add_examining(router, core)
    return router


def _add_reading(router: APIRouter, core: Core) -> None:
    @router.get("", openapi_extra={PERMISSION: "read"})
    async def list_models(
        type: Annotated[ModelType | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        cursor: str | None = None,
    ) -> Response:
        """The declared models and how they stand, the default first."""
        rows = core.get().models.list(type)
        start = _offset(cursor)
        page = [render.model(status) for status in rows[start : start + limit]]
        more = _cursor(start + limit) if start + limit < len(rows) else None
        return _json({"data": page, "next_cursor": more})

    @router.get("/{ref}", openapi_extra={PERMISSION: "read"})
    async def get_model(ref: str) -> Response:
        """One model."""
        return _json(render.model(core.get().models.get(ref)))


def _add_changing(router: APIRouter, core: Core) -> None:
    running: set[asyncio.Task[None]] = set()

    @router.post("/{ref}/load", openapi_extra={PERMISSION: "operate"})
    async def load_model(request: Request, ref: str, wait: bool = True) -> Response:
        """Into memory on every worker of its group; idempotent."""
        return await change(request, ref, core.get().models.load, None if wait else "loading")

    @router.post("/{ref}/unload", openapi_extra={PERMISSION: "operate"})
    async def unload_model(request: Request, ref: str, wait: bool = True) -> Response:
        """Out of memory everywhere once its running work is done; the next request loads it again."""
        return await change(request, ref, core.get().models.unload, None if wait else "unloading")

    @router.post("/{ref}/warmup", openapi_extra={PERMISSION: "operate"})
    async def warmup_model(request: Request, ref: str, wait: bool = True) -> Response:
        """Loads if need be and runs every batch bucket once."""
        return await change(request, ref, core.get().models.warmup, None if wait else "loading")

    @router.post("/{ref}/pull", openapi_extra={PERMISSION: "operate"})
    async def pull_model(ref: str) -> Response:
        """Fetches the model's files, telling progress as NDJSON."""
        return StreamingResponse(_progress(core.get().models.fetch(ref)), media_type=MEDIA_TYPE)

    async def change(request: Request, ref: str, do: Change, under_way: State | None) -> Response:
        """Waits for the change, or answers 202 at once with the state that is `under_way`."""
        application = core.get()
        status = application.models.get(ref)
        work = do(ref, deadline=deadline_of(request, application))
        if under_way is None:
            return _json(render.report(await work))
        task = asyncio.create_task(_quietly(work))
        running.add(task)
        task.add_done_callback(running.discard)
        return _json(render.report(_begun(status, under_way)), 202)


def _begun(status: ModelStatus, state: State) -> ModelReport:
    return ModelReport(
        model=status.spec.name,
        version=status.spec.version,
        state=state,
        workers=status.workers,
        ms=0.0,
        bytes=status.bytes,
    )


async def _quietly(work: Awaitable[ModelReport]) -> None:
    """Work nobody waits for: its error shows in the model's state and in the log."""
    try:
        await work
    except ModelMoraError as error:
        log.warning("change_failed", code=error.code, detail=error.detail)
    except Exception:
        log.exception("change_failed")


async def _progress(fetches: AsyncIterator[Fetch]) -> AsyncIterator[bytes]:
    try:
        async for f in fetches:
            told = {
                "model": f.model,
                "done_bytes": f.done_bytes,
                "total_bytes": f.total_bytes,
                "licence": f.licence,
                "finished": f.finished,
            }
            yield line(told)
    except ModelMoraError as error:
        yield line({"error": render.fault(error.as_fault())})


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(render.to_json(value), status, media_type="application/json")


def _cursor(offset: int) -> str:
    return base64.urlsafe_b64encode(f"o{offset}".encode()).decode("ascii")


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii")
        if text[:1] != "o" or not text[1:].isdigit():
            raise ValueError(text)
        return int(text[1:])
    except (ValueError, binascii.Error) as cause:
        raise ValidationFailed(
            "not a cursor of this list", field="cursor", found=cursor[:40], expected="the next_cursor of a page"
        ) from cause
