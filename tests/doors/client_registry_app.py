"""A small registry of the control plane's wire, for the tests of the client: it keeps everything in memory, and
misbehaves as told."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from modelmora.domain.registry.artifact import Artifact, ArtifactFile
from modelmora.errors import (
    Conflict,
    Fault,
    ModelMoraError,
    ModelNotFound,
    PreconditionFailed,
    ValidationFailed,
    VersionNotFound,
    WrongState,
)

AT = "2026-05-04T03:02:01.250000Z"
STATUS = {
    "validation": 422,
    "capability_missing": 422,
    "model_not_found": 404,
    "version_not_found": 404,
    "conflict": 409,
    "wrong_state": 409,
    "precondition_failed": 412,
    "overloaded": 503,
    "dependency_unavailable": 503,
}


class Cut(Exception):
    """Ends the connection in the middle: no answer, or half of one."""


Trouble = ModelMoraError | type[Cut]


@dataclass(slots=True)
class Registrar:
    """What is registered, what came in, and what is in store: `troubles` by `METHOD /path`'s beginning, one a request.

    `swallowed` are those that are cut off only when all is done; `polls` is how often a version is looked at until it
    is validated, `failure` why it is not.
    """

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    troubles: dict[str, deque[Trouble]] = field(default_factory=dict)
    swallowed: deque[str] = field(default_factory=deque)
    audit: list[dict[str, Any]] = field(default_factory=list)
    broken: dict[str, Any] | None = None
    lineage: dict[str, Any] = field(default_factory=dict)
    differences: list[dict[str, Any]] = field(default_factory=list)
    polls: int = 1
    failure: str = ""
    page: int = 2

    def sent(self, method: str) -> list[str]:
        return [path for verb, path in self.requests if verb == method]

    def meet(self, request: Request) -> None:
        """Notes the request, then raises what is in store for it."""
        called = f"{request.method} {request.url.path}"
        self.requests.append((request.method, request.url.path))
        self.headers.append(dict(request.headers))
        for begins, waiting in self.troubles.items():
            if called.startswith(begins) and waiting:
                trouble = waiting.popleft()
                raise trouble if isinstance(trouble, ModelMoraError) else Cut

    def add_version(self, name: str, version: str, files: dict[str, bytes], **told: Any) -> dict[str, Any]:
        """As if somebody had registered it, validated and approved."""
        for content in files.values():
            self.objects[hashlib.sha256(content).hexdigest()] = content
        described = [
            ArtifactFile(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for path, content in files.items()
        ]
        self.models.setdefault(name, _model(name, told.pop("type", "tensor")))
        entry = _version(self.models[name], {"version": version, "provider": "onnx", "config": {}, **told}, described)
        self.versions[f"{name}@{version}"] = entry | {"state": "approved"}
        return self.versions[f"{name}@{version}"]

    def found(self, request: Request) -> dict[str, Any]:
        name, version = request.path_params["ref"], request.path_params["version"]
        if name not in self.models:
            raise ModelNotFound(f"no model {name!r}", field="model", found=name)
        if (entry := self.versions.get(f"{name}@{version}")) is None:
            raise VersionNotFound(f"{name} has no version {version}", field="version", found=version)
        given = request.headers.get("if-match")
        if given not in (None, f'"{entry["row"]}"'):
            raise PreconditionFailed("it was changed meanwhile", field="row", found=str(entry["row"]), expected=given)
        return entry


Handler = Callable[[Request], Awaitable[Response]]


class _CutOff(Response):
    """The connection breaks where the answer is due."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        raise Cut


class _App:
    def __init__(self, registrar: Registrar) -> None:
        self._kept = registrar

    def guarded(self, handler: Handler) -> Handler:
        async def run(request: Request) -> Response:
            try:
                self._kept.meet(request)
                response = await handler(request)
            except ModelMoraError as error:
                return _problem(error)
            except Cut:
                return _CutOff()
            if self._kept.swallowed and f"{request.method} {request.url.path}".startswith(self._kept.swallowed[0]):
                self._kept.swallowed.popleft()
                return _CutOff()
            return response

        return run

    async def object(self, request: Request) -> Response:
        kept, sha256 = self._kept, request.path_params["sha256"]
        if request.method == "HEAD":
            size = len(kept.objects.get(sha256, b""))
            return Response(status_code=200 if sha256 in kept.objects else 404, headers={"content-length": str(size)})
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValidationFailed("other bytes came than announced", field="sha256")
        status = 200 if sha256 in kept.objects else 201
        kept.objects[sha256] = content
        return JSONResponse({"sha256": sha256, "bytes": len(content)}, status)

    async def models(self, request: Request) -> Response:
        body = await self._body(request)
        if body["name"] in self._kept.models:
            raise Conflict(f"there is a model {body['name']}", field="name", found=body["name"])
        self._kept.models[body["name"]] = _model(**body)
        return JSONResponse(self._kept.models[body["name"]], 201)

    async def model(self, request: Request) -> Response:
        name = request.path_params["ref"]
        if name not in self._kept.models:
            raise ModelNotFound(f"no model {name!r}", field="model", found=name)
        if request.method == "DELETE":
            del self._kept.models[name]
            return Response(status_code=204)
        return JSONResponse(self._kept.models[name])

    async def current(self, request: Request) -> Response:
        body = await self._body(request)
        request.path_params["version"] = body["version"]
        version = self._kept.found(request)
        if version["state"] not in ("approved", "deployed"):
            raise WrongState(f"{version['version']} is {version['state']}", field="state", expected="approved")
        version["state"] = "deployed"
        model = self._kept.models[version["model"]]
        model |= {"current": version["version"], "version": version["version"], "state": "loaded"}
        return JSONResponse(model)

    async def versions(self, request: Request) -> Response:
        name = request.path_params["ref"]
        if request.method == "GET":
            wanted = request.query_params.get("state")
            rows = [one for one in self._kept.versions.values() if one["model"] == name]
            return self._page(request, [one for one in rows if wanted in (None, one["state"])])
        body, key = await self._body(request), request.headers["idempotency-key"]
        if key in self._kept.answers:
            return JSONResponse(self._kept.answers[key], 201, {"idempotent-replay": "true"})
        files = [ArtifactFile(**one) for one in body.pop("files")]
        absent = [file for file in files if len(self._kept.objects.get(file.sha256, b"-")) != file.bytes]
        if absent:
            faults = [Fault("validation", f"{file.path} is not there", 0, "files") for file in absent]
            raise ValidationFailed("files are not in the object store", field="files", faults=faults)
        if f"{name}@{body['version']}" in self._kept.versions:
            raise Conflict(f"{name} has that version", field="version", found=body["version"])
        entry = _version(self._kept.models[name], body, files)
        self._kept.versions[f"{name}@{body['version']}"] = self._kept.answers[key] = entry
        return JSONResponse(entry, 201)

    async def version(self, request: Request) -> Response:
        entry = self._kept.found(request)
        if request.method == "DELETE":
            del self._kept.versions[f"{entry['model']}@{entry['version']}"]
            return Response(status_code=204)
        if request.method == "PATCH":
            entry["baseline"]["metrics"] += (await self._body(request))["metrics"]
            entry["row"] += 1
            return JSONResponse(entry)
        if entry["state"] == "registered":
            self._kept.polls -= 1
            if self._kept.polls <= 0:
                entry["state"] = "validation_failed" if self._kept.failure else "approved"
                entry["failure"] = self._kept.failure
        return JSONResponse(entry)

    async def move(self, request: Request) -> Response:
        entry, body = self._kept.found(request), await self._body(request)
        if body["move"] == "archive" and entry["state"] == "deployed":
            raise WrongState("cannot archive a version that is deployed; allowed: undeploy", field="state")
        entry["state"], entry["row"] = {"archive": "archived"}.get(body["move"], "registered"), entry["row"] + 1
        return JSONResponse(entry)

    async def validate(self, request: Request) -> Response:
        entry = self._kept.found(request)
        lines = [{"stage": "loading", "done": 1, "total": 2}, {"stage": "report", "version": entry}]
        return Response("".join(json.dumps(line) + "\n" for line in lines), media_type="application/x-ndjson")

    async def told(self, request: Request) -> Response:
        self._kept.found(request)
        if request.url.path.endswith("/lineage"):
            return JSONResponse(self._kept.lineage)
        before, after = request.path_params["version"], request.path_params["other"]
        return JSONResponse({"before": before, "after": after, "differences": self._kept.differences})

    async def file(self, request: Request) -> Response:
        entry = self._kept.found(request)
        [one] = [one for one in entry["artifact"]["files"] if one["path"] == request.path_params["path"]]
        content = self._kept.objects[one["sha256"]]

        async def halves() -> Any:
            yield content[: len(content) // 2]
            if self._kept.swallowed and self._kept.swallowed[0] == "half":
                self._kept.swallowed.popleft()
                raise Cut
            yield content[len(content) // 2 :]

        return StreamingResponse(halves(), headers={"content-length": str(len(content))})

    async def audited(self, request: Request) -> Response:
        wanted = request.query_params
        rows = [
            one
            for one in self._kept.audit
            if all(wanted.get(name) in (None, one[name]) for name in ("subject", "actor", "action"))
        ]
        return self._page(request, rows[::-1] if wanted["order"] == "-seq" else rows)

    async def verified(self, request: Request) -> Response:
        broken = {} if self._kept.broken is None else {"broken": self._kept.broken}
        return JSONResponse({"intact": not broken, "entries": len(self._kept.audit), **broken})

    async def gc(self, request: Request) -> Response:
        await self._body(request)
        used = {file["sha256"] for one in self._kept.versions.values() for file in one["artifact"]["files"]}
        gone = [self._kept.objects.pop(sha256) for sha256 in [*self._kept.objects] if sha256 not in used]
        return JSONResponse({"removed": len(gone), "bytes": sum(map(len, gone))})

    async def _body(self, request: Request) -> Any:
        body = await request.json()
        self._kept.bodies.append(body)
        return dict(body)

    def _page(self, request: Request, rows: list[dict[str, Any]]) -> Response:
        start = int(request.query_params.get("cursor", 0))
        end = start + self._kept.page
        return JSONResponse({"data": rows[start:end], "next_cursor": str(end) if end < len(rows) else None})


def _model(name: str, type: str, description: str = "", tags: Any = (), owner: str = "") -> dict[str, Any]:
    return {
        "id": f"id-{name}",
        "name": name,
        "type": type,
        "description": description,
        "tags": [*tags],
        "owner": owner,
        "current": None,
        "created_at": AT,
        "changed_at": AT,
        "row": 1,
    }


def _version(model: dict[str, Any], body: dict[str, Any], files: list[ArtifactFile]) -> dict[str, Any]:
    artifact = Artifact.of("", files)
    how = {name: value for name, value in body.items() if name not in ("version", "training", "baseline")}
    return {
        "id": f"id-{model['name']}-{body['version']}",
        "model": model["name"],
        "version": body["version"],
        "type": model["type"],
        "state": "registered",
        "source": f"object:{artifact.sha256}",
        "artifact": {
            "sha256": artifact.sha256,
            "bytes": artifact.bytes,
            "files": [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in artifact.files],
        },
        "running": {"group": "default", **how},
        "inputs": [],
        "outputs": [],
        "labels": [],
        "training": body.get("training", {}),
        "baseline": {"metrics": [], "p50_ms": None, **body.get("baseline", {})},
        "validated_at": None,
        "failure": "",
        "created_at": AT,
        "changed_at": AT,
        "row": 1,
        "a_field_of_a_newer_server": 1,
    }


def _problem(error: ModelMoraError) -> Response:
    faults = error.faults or (error.as_fault(),)
    body = {
        "type": f"urn:modelmora:error:{error.code}",
        "title": error.code,
        "status": STATUS[error.code],
        "detail": error.detail,
        "code": error.code,
        "request_id": "from-the-server",
        "errors": [
            {"index": one.index, "field": one.field, "found": one.found, "expected": one.expected} for one in faults
        ],
    }
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return JSONResponse(body, STATUS[error.code], headers, media_type="application/problem+json")


@contextmanager
def registry_server(registrar: Registrar) -> Iterator[str]:
    """An HTTP server of it until the block ends; yields its URL."""
    started = threading.Event()

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    config = uvicorn.Config(registry_app(registrar), port=0, log_level="critical", lifespan="off", ws="none")
    config.timeout_graceful_shutdown = 0
    server = Announcing(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    if not started.wait(10):
        raise RuntimeError("the test server did not start")
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def registry_app(registrar: Registrar) -> Starlette:
    its = _App(registrar)
    version = "/api/v1/models/{ref}/versions/{version}"
    routes: list[tuple[str, Handler, list[str]]] = [
        ("/api/v1/models", its.models, ["POST"]),
        ("/api/v1/models/{ref}", its.model, ["GET", "DELETE"]),
        ("/api/v1/models/{ref}/current", its.current, ["PUT"]),
        ("/api/v1/models/{ref}/versions", its.versions, ["GET", "POST"]),
        (version, its.version, ["GET", "PATCH", "DELETE"]),
        (f"{version}/moves", its.move, ["POST"]),
        (f"{version}/validate", its.validate, ["POST"]),
        (f"{version}/lineage", its.told, ["GET"]),
        (f"{version}/diff/{{other}}", its.told, ["GET"]),
        (f"{version}/files/{{path:path}}", its.file, ["GET"]),
        ("/api/v1/artifacts/gc", its.gc, ["POST"]),
        ("/api/v1/artifacts/{sha256}", its.object, ["HEAD", "PUT"]),
        ("/api/v1/audit", its.audited, ["GET"]),
        ("/api/v1/audit/verify", its.verified, ["GET"]),
    ]
    return Starlette(routes=[Route(path, its.guarded(handler), methods=methods) for path, handler, methods in routes])
