"""A real server, started the way a user starts it, with folders and ports of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.support import end, reserve_port, start, wait_until

ROOT = Path(__file__).resolve().parents[2]
BENTOML = (sys.executable, "-m", "bentoml", "serve")

SHARED = {"MODELMORA_VECTORS_URL": "null://", "MODELMORA_EVENTS_URL": "null://"}
"""What several API workers need: vectors and events in memory are one worker's own."""

LEAN = {"MODELMORA_CACHE_URL": "null://", "MODELMORA_VECTORS_URL": "null://"}
"""What tests start with that keep no pictures: each embedding is computed, and nothing is opened for nothing."""

NOOP = """
version: 1
groups: {{default: {{workers: {workers}}}}}
models:
  - {{name: noop, version: 1.0.0, type: embedding, provider: noop, source: "bundled:noop", default: true{more}}}
"""


@dataclass(slots=True)
class Server:
    """A running `bentoml serve`; everything it starts is in its process tree."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"grpc://127.0.0.1:{self.grpc_port}"

    def ready(self) -> bool:
        assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()[-3000:]}"
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self, within_s: float = 120.0) -> None:
        wait_until(self.ready, within_s=within_s, what=f"readiness ({self.log})")

    def workers(self, service: str) -> list[psutil.Process]:
        """The live worker processes of one BentoML service."""
        return [p for p in self.family() if _serves(p, service)]

    def engines(self, group: str = "default") -> list[psutil.Process]:
        """The live processes that hold a group's models: each a child of the zygote it was forked from."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                parent = process.parent()
                if _is_engine(process, group) and parent is not None and _is_engine(parent, group):
                    found.append(process)
        return found

    def family(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop(self) -> None:
        family = self.family()
        end(self.process, within_s=40.0)
        _, left = psutil.wait_procs(family, timeout=5.0)
        for process in left:
            process.kill()


def _serves(process: psutil.Process, service: str) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return "--service-name" in command and command[command.index("--service-name") + 1] == service


def _is_engine(process: psutil.Process, group: str) -> bool:
    command = process.cmdline()
    return "wiring.engine" in command and command[command.index("wiring.engine") + 1] == group


def environment(folder: Path, http_port: int, grpc_port: int, more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server of its own: nothing of this machine's user is touched."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MODELMORA_", "BENTOML_", "PROMETHEUS_"))}
    return {
        **kept,
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "MODELMORA_DATA_DIR": str(folder / "data"),
        "MODELMORA_HTTP_PORT": str(http_port),
        "MODELMORA_GRPC_PORT": str(grpc_port),
        **more,
    }


def serve(
    folder: Path,
    *,
    registry: str | None = None,
    command: Sequence[str] = (*BENTOML, "service:ModelMora"),
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
) -> Server:
    """Starts a server (not waited for); `registry` is the text of its ModelRegistry.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bentoml").mkdir(exist_ok=True)
    more = {**(LEAN if registry is not None else {}), **(env or {})}
    if registry is not None:
        (folder / "ModelRegistry.yaml").write_text(registry)
        more["MODELMORA_REGISTRY"] = str(folder / "ModelRegistry.yaml")
    http_port, grpc_port = reserve_port(), reserve_port()
    variables = environment(folder, http_port, grpc_port, more)
    process = start(command, log=folder / "serve.log", cwd=cwd, env=variables)
    return Server(process, http_port, grpc_port, folder / "serve.log")


def noop(*, workers: int = 1, config: str = "") -> str:
    """A registry with the no-op model alone."""
    return NOOP.format(workers=workers, more=f", config: {{{config}}}" if config else "")
