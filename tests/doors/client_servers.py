"""Small real servers that speak the wire of ModelMora and misbehave on purpose, for the tests of the client."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import uvicorn

from modelmora.proto import inference_pb2_grpc
from tests.doors.client_app import app
from tests.doors.client_plane import Plane
from tests.doors.client_script import Script, Seen
from tests.doors.client_servicer import Servicer


@contextmanager
def grpc_server(script: Script, *, port: int = 0) -> Iterator[str]:
    """A gRPC server until the block ends; yields its URL. It ends abruptly: running calls are cut."""
    server = grpc.server(ThreadPoolExecutor(8), options=(("grpc.so_reuseport", 0),))
    inference_pb2_grpc.add_ModelInferenceServicer_to_server(Servicer(script), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{bound}"
    finally:
        server.stop(0).wait()


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
