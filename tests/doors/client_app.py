"""What the small server of the client's tests answers over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from modelmora.errors import ModelMoraError
from tests.doors.client_plane import Plane
from tests.doors.client_script import SERVER_TIMING, STATUS, Script, Seen


def problem(error: ModelMoraError) -> Response:
    status = STATUS[error.code][0]
    body: dict[str, Any] = {
        "type": f"urn:modelmora:error:{error.code}",
        "title": error.code,
        "status": status,
        "detail": error.detail,
        "code": error.code,
        "request_id": "from-the-server",
    }
    if error.field:
        body["errors"] = [{"index": 0, "field": error.field, "found": error.found, "expected": error.expected}]
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


class _App:
    def __init__(self, script: Script, plane: Plane) -> None:
        self._script = script
        self._plane = plane

    async def image(self, request: Request) -> Response:
        async with request.form() as form:
            items = [await file.read() for file in form.getlist("files") if not isinstance(file, str)]
            ref = str(form.get("model", ""))
        return await run_in_threadpool(self._embedded, request, tuple(items), ref, truncate=False)

    async def text(self, request: Request) -> Response:
        body = await request.json()
        items = tuple(text.encode() for text in body["texts"])
        return await run_in_threadpool(self._embedded, request, items, body.get("model", ""), truncate=body["truncate"])

    def _embedded(self, request: Request, items: tuple[bytes, ...], ref: str, *, truncate: bool) -> Response:
        try:
            self._script.meet(Seen(items, dict(request.headers), truncate))
            answers = self._script.answer(items)
            if len(items) == 1 and isinstance(answers[0], ModelMoraError):
                raise answers[0]
        except ModelMoraError as error:
            return problem(error)
        name, _, version = ref.partition("@")
        body = {
            "model": name or "shapes-clip",
            "version": version or "1.0.0",
            "dimension": self._script.declared,
            "data": [_entry(index, answer) for index, answer in enumerate(answers)][::-1],
        }
        return JSONResponse(body, headers={"server-timing": SERVER_TIMING})

    async def models(self, request: Request) -> Response:
        self._note(request)
        if self._plane.troubles:
            return problem(self._plane.troubles.popleft())
        start = int(request.query_params.get("cursor", 0))
        following = start + 1 if start + 1 < len(self._plane.models) else None
        return JSONResponse(
            {
                "data": self._plane.models[start : start + 1],
                "next_cursor": None if following is None else str(following),
            }
        )

    async def model(self, request: Request) -> Response:
        self._note(request)
        found = self._find(request.path_params["ref"])
        return found if isinstance(found, Response) else JSONResponse(found)

    async def change(self, request: Request) -> Response:
        self._note(request)
        found = self._find(request.path_params["ref"])
        if isinstance(found, Response):
            return found
        waits = request.query_params.get("wait") != "false"
        verb = request.path_params["verb"]
        done = "unloaded" if verb == "unload" else "loaded"
        under_way = "unloading" if verb == "unload" else "loading"
        body = {
            "model": found["name"],
            "version": found["version"],
            "state": done if waits else under_way,
            "workers": ["default-1"],
            "ms": 1234.5,
            "bytes": 12 * 2**20,
        }
        return JSONResponse(body, 200 if waits else 202)

    async def pull(self, request: Request) -> Response:
        return self._ndjson(request, self._plane.pull)

    async def examine(self, request: Request) -> Response:
        return self._ndjson(request, self._plane.findings)

    async def stream(self, request: Request) -> Response:
        return self._ndjson(request, self._plane.progress)

    def _ndjson(self, request: Request, entries: Sequence[Any]) -> Response:
        self._note(request)

        async def lines() -> Any:
            for entry in entries:
                yield (entry if isinstance(entry, str) else json.dumps(entry)) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def health(self, request: Request) -> Response:
        return JSONResponse(self._plane.health[1], self._plane.health[0])

    async def fixed(self, request: Request) -> Response:
        return JSONResponse({"/api/v1/limits": {"items": 256}, "/version": {"version": "0.1.0"}}[request.url.path])

    async def ready(self, request: Request) -> Response:
        return Response(status_code=200 if self._plane.health[1]["status"] == "ok" else 503)

    def _note(self, request: Request) -> None:
        self._plane.requests.append((request.method, request.url.path + ("?" + q if (q := request.url.query) else "")))

    def _find(self, ref: str) -> dict[str, Any] | Response:
        for entry in self._plane.models:
            if ref in (entry["name"], f"{entry['name']}@{entry['version']}"):
                return entry
        body = {"code": "model_not_found", "detail": f"no model {ref!r}", "status": 404, "title": "model_not_found"}
        return JSONResponse(body, 404, media_type="application/problem+json")


def _entry(index: int, answer: bytes | ModelMoraError) -> dict[str, Any]:
    if isinstance(answer, ModelMoraError):
        error = {name: getattr(answer, name) for name in ("code", "detail", "field", "found", "expected")}
        return {"index": index, "error": error}
    return {"index": index, "embedding": base64.b64encode(answer).decode()}


def app(script: Script, plane: Plane) -> Starlette:
    its = _App(script, plane)
    return Starlette(
        routes=[
            Route("/v1/embed/image", its.image, methods=["POST"]),
            Route("/v1/embed/text", its.text, methods=["POST"]),
            Route("/v1/embed/stream", its.stream, methods=["POST"]),
            Route("/api/v1/models", its.models),
            Route("/api/v1/models/{ref}", its.model),
            Route("/api/v1/models/{ref}/pull", its.pull, methods=["POST"]),
            Route("/api/v1/models/{ref}/verify", its.examine, methods=["POST"]),
            Route("/api/v1/models/{ref}/tune", its.examine, methods=["POST"]),
            Route("/api/v1/models/{ref}/{verb}", its.change, methods=["POST"]),
            Route("/api/v1/limits", its.fixed),
            Route("/version", its.fixed),
            Route("/health", its.health),
            Route("/readyz", its.ready),
        ]
    )
