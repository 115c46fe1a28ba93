"""Small real servers that speak the wire of ModelMora and misbehave on purpose, for the tests of the client."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from modelmora.errors import InvalidInput, ModelMoraError, Overloaded
from modelmora.proto import inference_pb2, inference_pb2_grpc, types_pb2
from tests.doors.client_task_servicer import TaskServicer

DIMENSION = 4
SERVER_TIMING = "queue;dur=1.5, preprocess;dur=2, inference;dur=30.25, total;dur=35"
PROGRESS = (("queued", 0.0), ("loading", 35.0), ("inference", 80.0))


def vector_of(content: bytes) -> bytes:
    """The embedding these servers give: four float32 components that depend on every byte."""
    return struct.pack("<4f", *(byte / 255 for byte in hashlib.sha256(content).digest()[:DIMENSION]))


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came in."""

    items: tuple[bytes, ...]
    headers: dict[str, str]
    truncate: bool = False
    peer: str = ""


@dataclass(slots=True)
class Script:
    """How a server behaves: `troubles` are used up one a request, then all is well; `bad` items always fail."""

    troubles: deque[ModelMoraError | Callable[[], None]] = field(default_factory=deque)
    bad: frozenset[bytes] = frozenset()
    declared: int = DIMENSION
    requests: list[Seen] = field(default_factory=list)
    before: Callable[[Seen], None] = lambda seen: None

    def meet(self, seen: Seen) -> None:
        """Notes the request, then raises what the script has in store for it."""
        self.requests.append(seen)
        self.before(seen)
        if self.troubles:
            trouble = self.troubles.popleft()
            if isinstance(trouble, ModelMoraError):
                raise trouble
            trouble()

    def answer(self, items: Sequence[bytes]) -> list[bytes | ModelMoraError]:
        return [
            InvalidInput("the picture is cut off", field="image", found="12 bytes", expected="a whole picture")
            if item in self.bad
            else vector_of(item)
            for item in items
        ]

    @property
    def embedded(self) -> list[bytes]:
        """Every item that came, over all requests."""
        return [item for seen in self.requests for item in seen.items]


def overloaded(times: int, *, retry_after_s: float | None = None) -> deque[ModelMoraError | Callable[[], None]]:
    return deque(Overloaded("the queue is full", retry_after_s=retry_after_s) for _ in range(times))


STATUS = {
    "invalid_input": (400, grpc.StatusCode.INVALID_ARGUMENT),
    "model_not_found": (404, grpc.StatusCode.NOT_FOUND),
    "rate_limited": (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "overloaded": (503, grpc.StatusCode.UNAVAILABLE),
    "model_loading": (503, grpc.StatusCode.UNAVAILABLE),
    "dependency_unavailable": (503, grpc.StatusCode.UNAVAILABLE),
    "internal": (500, grpc.StatusCode.INTERNAL),
}


class _Servicer(TaskServicer):
    def __init__(self, script: Script) -> None:
        self._script = script
        self.answer = script.answer

    def meet(self, items: Sequence[bytes], context: Any) -> None:
        try:
            self._script.meet(Seen(tuple(items), dict(context.invocation_metadata()), peer=context.peer()))
        except ModelMoraError as error:
            self._abort(error, context)

    def GenerateEmbedding(self, request: inference_pb2.EmbeddingRequest, context: Any) -> Any:
        items = tuple(item.image or item.text.encode() for item in request.items)
        headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        try:
            self._script.meet(Seen(items, headers, request.truncate, context.peer()))
            answers = self._script.answer(items)
            if len(items) == 1 and isinstance(answers[0], ModelMoraError):
                raise answers[0]
        except ModelMoraError as error:
            self._abort(error, context)
        context.set_trailing_metadata((("server-timing", SERVER_TIMING),))
        results = [self._result(index, answer) for index, answer in enumerate(answers)]
        name, _, version = request.model.partition("@")
        # In another order than asked: only the index counts.
        return inference_pb2.EmbeddingResponse(
            model=name or "shapes-clip", version=version or "1.0.0", results=results[::-1]
        )

    def GenerateBatch(self, request_iterator: Any, context: Any) -> Any:
        index = 0
        for request in request_iterator:
            items = tuple(item.image or item.text.encode() for item in request.items)
            answers: Sequence[bytes | ModelMoraError]
            try:
                self._script.meet(Seen(items, dict(context.invocation_metadata()), request.truncate, context.peer()))
                answers = self._script.answer(items)
            except ModelMoraError as error:
                answers = [error] * len(items)
            name, _, version = request.model.partition("@")
            results = []
            for item, answer in zip(request.items, answers, strict=True):
                result = self._result(index, answer)
                result.id = item.id
                served = inference_pb2.BatchResult(
                    result=result, model=name or "shapes-clip", version=version or "1.0.0"
                )
                results.append(served)
                index += 1
            yield inference_pb2.BatchResponse(results=results[::-1])

    def GenerateEmbeddingStream(self, request: inference_pb2.EmbeddingRequest, context: Any) -> Any:
        items = tuple(item.image or item.text.encode() for item in request.items)
        try:
            self._script.meet(Seen(items, dict(context.invocation_metadata()), request.truncate, context.peer()))
        except ModelMoraError as error:
            self._abort(error, context)
        for stage, percent in PROGRESS:
            yield inference_pb2.EmbeddingProgress(stage=stage, percent=percent, done=1, total=2)
        result = self._result(0, self._script.answer(items)[0])
        yield inference_pb2.EmbeddingProgress(
            stage="done", percent=100, result=result, model="shapes-clip", version="1.0.0"
        )

    def _abort(self, error: ModelMoraError, context: Any) -> None:
        trailing = [("modelmora-code", error.code)]
        if error.retry_after_s is not None:
            trailing.append(("retry-after-s", str(error.retry_after_s)))
        context.set_trailing_metadata(tuple(trailing))
        context.abort(STATUS[error.code][1], error.detail)

    def _result(self, index: int, answer: bytes | ModelMoraError) -> inference_pb2.EmbeddingResult:
        if isinstance(answer, ModelMoraError):
            return inference_pb2.EmbeddingResult(
                index=index,
                error=types_pb2.ItemError(
                    code=answer.code,
                    detail=answer.detail,
                    field=answer.field or "",
                    found=answer.found or "",
                    expected=answer.expected or "",
                ),
            )
        return inference_pb2.EmbeddingResult(
            index=index,
            embedding=types_pb2.Vector(data=answer, dtype=types_pb2.DTYPE_FLOAT32, shape=[self._script.declared]),
        )


@contextmanager
def grpc_server(script: Script, *, port: int = 0) -> Iterator[str]:
    """A gRPC server until the block ends; yields its URL. It ends abruptly: running calls are cut."""
    server = grpc.server(ThreadPoolExecutor(8), options=(("grpc.so_reuseport", 0),))
    inference_pb2_grpc.add_ModelInferenceServicer_to_server(
        _Servicer(script),
        server,
    )
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{bound}"
    finally:
        server.stop(0).wait()


def model_entry(name: str = "shapes-clip", version: str = "1.0.0", **changed: Any) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "type": "embedding",
        "provider": "open_clip",
        "source": "bundled:shapes-clip",
        "group": "default",
        "default": name == "shapes-clip",
        "device": "cpu",
        "precision": "fp32",
        "engine": "torch",
        "state": "loaded",
        "bytes": 12 * 2**20,
        "workers": ["default-1"],
        "a_field_of_a_newer_server": 1,
    } | changed


STEPS = [{"stage": "measuring", "precision": "fp32", "done": done, "total": 2} for done in (1, 2)]


def report_entry(**changes: Any) -> dict[str, Any]:
    """What `verify` reports of a model whose bf16 passes."""
    near = {"lowest": 0.99991, "mean": 0.99995, "overlap": 0.9875, "difference": 0.0031}
    same = {"lowest": 1.0, "mean": 1.0, "overlap": 1.0, "difference": 0.0}
    formats = (("fp32", "reference", same, 40.0), ("bf16", "passes", near, 18.5))
    report = {
        "stage": "report",
        "model": "shapes-clip",
        "version": "1.0.0",
        "device": "cpu",
        "precision": "fp32",
        "declared": "auto",
        "gate": 0.999,
        "passes": True,
        "auto": "bf16",
        "candidates": [
            {
                "precision": precision,
                "verdict": verdict,
                "likeness": {"embed_image": likeness, "embed_text": likeness},
                "ms": {"embed_image": ms, "embed_text": 2.0},
                "failed": None,
            }
            for precision, verdict, likeness, ms in formats
        ],
    }
    return {**report, **changes}


def tuned_entry() -> dict[str, Any]:
    """What `tune` reports of a model that two lanes serve best."""
    rows = [
        {
            "batch": batch,
            "lanes": lanes,
            "threads": 2 // lanes,
            "items_per_s": rate,
            "batch_ms": 1000 * batch * lanes / rate,
            "lone_ms": 12.5,
            "memory_bytes": 3 * 2**20,
            "steady": rate > 50,
        }
        for batch, lanes, rate in ((1, 1, 40.0), (4, 2, 80.0))
    ]
    return {
        "stage": "report",
        "model": "shapes-clip",
        "version": "1.0.0",
        "task": "embed_image",
        "device": "cpu",
        "precision": "fp32",
        "group": "default",
        "rows": rows,
        "best": rows[1],
        "settings": {"resources": {"cpu": 2}, "batching": {"max_batch": 4}},
    }


@dataclass(slots=True)
class Plane:
    """What the control plane answers; a `str` among the lines of an answer is sent as it is."""

    models: list[dict[str, Any]] = field(
        default_factory=lambda: [model_entry(), model_entry("vit-b-32", state="unloaded", bytes=0, workers=[])]
    )
    health: tuple[int, dict[str, Any]] = (
        200,
        {
            "status": "ok",
            "version": "0.1.0",
            "uptime_s": 3723,
            "models": [{"name": "shapes-clip", "version": "1.0.0", "state": "loaded", "bytes": 12582912}],
            "dependencies": {"database": {"status": "ok"}},
        },
    )
    pull: list[Any] = field(
        default_factory=lambda: [
            {"model": "vit-b-32@1.0.0", "done_bytes": 1024, "total_bytes": 4096, "licence": "MIT", "finished": False},
            {"model": "vit-b-32@1.0.0", "done_bytes": 4096, "total_bytes": 4096, "licence": "MIT", "finished": True},
        ]
    )
    findings: list[dict[str, Any]] = field(default_factory=lambda: [*STEPS, report_entry()])
    progress: list[Any] = field(default_factory=list)
    troubles: deque[ModelMoraError] = field(default_factory=deque)
    requests: list[tuple[str, str]] = field(default_factory=list)


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


@contextmanager
def http_server(script: Script, plane: Plane | None = None, *, port: int = 0) -> Iterator[str]:
    """An HTTP server with a control plane until the block ends; yields its URL."""
    started = threading.Event()

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Announcing(
        uvicorn.Config(
            app(script, plane or Plane()), host="127.0.0.1", port=port, log_level="critical", lifespan="off", ws="none",
            timeout_graceful_shutdown=0,
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    if not started.wait(10):
        raise RuntimeError("the test server did not start")
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def server(wire: str, script: Script, *, port: int = 0) -> Iterator[str]:
    """The server of a wire, `grpc` or `http`."""
    with grpc_server(script, port=port) if wire == "grpc" else http_server(script, port=port) as url:
        yield url


@contextmanager
def killed_server(wire: str, *, port: int) -> Iterator[Callable[[], None]]:
    """A server in a process of its own that takes a request and never answers.

    Yields a function that waits until a request has come in and then kills the process (SIGKILL).
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.doors.client_servers", wire, str(port)], stdout=subprocess.PIPE, text=True
    )
    if process.stdout is None or process.stdout.readline() != "listening\n":
        raise RuntimeError("the test server did not start")

    def kill() -> None:
        if process.stdout is not None:
            process.stdout.readline()
        process.kill()
        process.wait()

    try:
        yield kill
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _never_answer(wire: str, port: int) -> None:
    def hold(seen: Seen) -> None:
        print("reached", flush=True)  # noqa: T201 - the pipe to the test
        threading.Event().wait()

    with server(wire, Script(before=hold), port=port):
        print("listening", flush=True)  # noqa: T201 - as above
        threading.Event().wait()


if __name__ == "__main__":
    _never_answer(sys.argv[1], int(sys.argv[2]))
