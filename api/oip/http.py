"""`/v2`: the protocol over HTTP, with Triton's extensions of binary tensors, configuration and repository."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api import render
from api.core import Core
from api.http.presence import Present, Rounds
from api.http.routes import HotRoute, call_of, deadline_of
from api.oip import operations
from api.oip.asked import SMALL, check_load_parameters, ref_of
from api.oip.bodies import HEADER_LENGTH, flag_of, object_of, parameters_of, read, written
from api.oip.compression import most_bytes, opened
from api.oip.datatypes import CONFIG_TYPES, DATATYPES
from api.oip.infer import infer, model_of
from api.oip.metadata import (
    EXTENSIONS,
    Told,
    indexed,
    inputs_of,
    max_batch_size,
    outputs_of,
    platform_of,
    state_of,
)
from api.threads import here
from modelmora.usecases.describe import Described

Endpoint = Callable[[Request], Awaitable[Response]]
MODEL = "/v2/models/{model}"


def oip_routes(core: Core, *, max_body_bytes: int) -> list[HotRoute]:
    """All of `/v2`. A body may be as large compressed as it may be open."""
    return [
        *_server_routes(core),
        *_model_routes(core),
        *_infer_routes(core, max_body_bytes),
        *_repository_routes(core),
    ]


def _server_routes(core: Core) -> list[HotRoute]:
    async def live(_: Request) -> Response:
        return _json({"live": True})

    async def ready(_: Request) -> Response:
        readiness = core.get().health.readiness()
        return _ready({"ready": readiness.ready}, readiness.ready, readiness.why)

    async def metadata(_: Request) -> Response:
        return _json({"name": "modelmora", "version": core.get().version, "extensions": EXTENSIONS})

    return [
        HotRoute("/v2/health/live", live, permission="none", operation=operations.LIVE, method="GET"),
        HotRoute("/v2/health/ready", ready, permission="none", operation=operations.READY, method="GET"),
        HotRoute("/v2", metadata, permission="read", operation=operations.SERVER, method="GET"),
    ]


def _model_routes(core: Core) -> list[HotRoute]:
    async def ready(request: Request) -> Response:
        status = core.get().models.get(_ref(request))
        state, reason = state_of(status)
        return _ready({"name": status.spec.name, "ready": state == "READY"}, state == "READY", reason or state)

    async def metadata(request: Request) -> Response:
        return _json(_metadata(await described(request)))

    async def config(request: Request) -> Response:
        return _json(_config(await described(request)))

    async def described(request: Request) -> Described:
        application = core.get()
        return await application.describe(_ref(request), deadline=deadline_of(request, application))

    return [
        *_versioned("", metadata, operation=operations.MODEL, method="GET", permission="read"),
        *_versioned("/ready", ready, operation=operations.MODEL_READY, method="GET", permission="read"),
        *_versioned("/config", config, operation=operations.MODEL_CONFIG, method="GET", permission="read"),
    ]


def _infer_routes(core: Core, max_body_bytes: int) -> list[HotRoute]:
    rounds = Rounds()

    async def endpoint(request: Request) -> Response:
        application = core.get()
        model, call = model_of(application, _ref(request)), call_of(request, application)
        raw, coding = await request.body(), request.headers.get("content-encoding")
        with application.decoding.admitted(most_bytes(raw, coding, max_body_bytes)):
            body = await opened(raw, coding, max_bytes=max_body_bytes)
            asked, form = await read(body, request.headers.get(HEADER_LENGTH))
            async with Present(request.receive, rounds):
                inferred = await infer(application, model, asked, call=call)
            content, head = await here(partial(written, inferred, form), size=inferred.size, most=SMALL)
        headers = {"server-timing": render.server_timing(inferred.timings, inferred.total_ms)}
        if head is None:
            return Response(content, 200, headers, "application/json")
        return Response(content, 200, {**headers, HEADER_LENGTH: str(head)}, "application/octet-stream")

    return _versioned("/infer", endpoint, operation=operations.INFER, method="POST", permission="infer")


def _repository_routes(core: Core) -> list[HotRoute]:
    async def index(request: Request) -> Response:
        told = object_of(await request.body())
        return _json(indexed(core.get().models.list(), ready=flag_of(told, "ready", "") or False))

    async def load(request: Request) -> Response:
        application = core.get()
        check_load_parameters(parameters_of(object_of(await request.body()), ""))
        deadline = deadline_of(request, application)
        return _json(render.report(await application.models.load(_ref(request), deadline=deadline)))

    async def unload(request: Request) -> Response:
        application = core.get()
        deadline = deadline_of(request, application)
        return _json(render.report(await application.models.unload(_ref(request), deadline=deadline)))

    model = "/v2/repository/models/{model}"
    return [
        HotRoute("/v2/repository/index", index, permission="read", operation=operations.INDEX),
        HotRoute(f"{model}/load", load, permission="operate", operation=operations.LOAD),
        HotRoute(f"{model}/unload", unload, permission="operate", operation=operations.UNLOAD),
    ]


def _versioned(path: str, endpoint: Endpoint, *, operation: dict[str, Any], **more: Any) -> list[HotRoute]:
    """The route of the current version and that of a named one."""
    return [
        HotRoute(f"{MODEL}{path}", endpoint, operation=operation, **more),
        HotRoute(f"{MODEL}/versions/{{version}}{path}", endpoint, operation=operations.versioned(operation), **more),
    ]


def _ref(request: Request) -> str:
    return ref_of(request.path_params["model"], request.path_params.get("version"))


def _metadata(described: Described) -> dict[str, Any]:
    return {
        "name": described.model.name,
        "versions": described.versions,
        "platform": platform_of(described),
        "inputs": [_tensor(told) for told in inputs_of(described)],
        "outputs": [_tensor(told) for told in outputs_of(described)],
    }


def _tensor(told: Told) -> dict[str, Any]:
    return {"name": told.name, "datatype": DATATYPES[told.dtype], "shape": told.shape}


def _config(described: Described) -> dict[str, Any]:
    return {
        "name": described.model.name,
        "platform": platform_of(described),
        "backend": described.model.provider,
        "max_batch_size": max_batch_size(described),
        "input": [{**_configured(told), "optional": told.optional} for told in inputs_of(described)],
        "output": [_configured(told) for told in outputs_of(described)],
    }


def _configured(told: Told) -> dict[str, Any]:
    return {"name": told.name, "data_type": CONFIG_TYPES[told.dtype], "dims": told.dims}


def _ready(told: dict[str, Any], ready: bool, why: str | None) -> Response:
    """Clients look at the status; `error` is what they show."""
    return _json(told if ready else {**told, "error": why}, 200 if ready else 503)


def _json(value: Any, status: int = 200) -> Response:
    return Response(render.to_json(value), status, media_type="application/json")
