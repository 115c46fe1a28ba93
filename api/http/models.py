"""The control plane of models: load, unload, warm up, pull."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from api import render
from api.core import Core
from api.http.examine import add_examining
from api.http.ndjson import MEDIA_TYPE, line
from api.http.routes import PERMISSION, deadline_of, json_answer
from modelmora.domain.models import State
from modelmora.errors import ModelMoraError
from modelmora.ports import Fetch, ModelReport
from modelmora.usecases.models import ModelStatus

log = structlog.get_logger(__name__)
Change = Callable[..., Awaitable[ModelReport]]


def model_router(core: Core) -> APIRouter:
    """`/api/v1/models` and below; a model is named `name` or `name@version`."""
    router = APIRouter(prefix="/api/v1/models", tags=["models"])
    _add_changing(router, core)
    add_examining(router, core)
    return router


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
            return json_answer(render.report(await work))
        task = asyncio.create_task(_quietly(work))
        running.add(task)
        task.add_done_callback(running.discard)
        return json_answer(render.report(_begun(status, under_way)), 202)


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
        log.warning("change_failed", code=error.code, why=error.detail)
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
