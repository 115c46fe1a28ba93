"""Our servers under load, each started with folders and ports of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from load.bench.plan import Face, Party
from load.bench.processes import PASSIVE, Process, await_ready, free_ports
from load.bench.subjects import Subject

BENTOML = (sys.executable, "-m", "bentoml", "serve")
NOWHERE = "null://"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `ready_s` is what it took from its start until it said so."""

    party: Party
    process: Process
    http_port: int
    grpc_port: int
    ready_s: float = 0.0

    def port(self, face: Face) -> int:
        return self.grpc_port if face == "grpc" else self.http_port


def start_ours(subject: Subject, folder: Path, *, threads: int = 0, **stores: str) -> Server:
    """Our service with this model alone, ready; `stores` as `start_registry` takes them. Raises Trouble with the end of
    its log."""
    return start_registry(subject.registry(threads), folder, **stores)


def start_registry(
    registry: str, folder: Path, *, log_level: str = "info", cache: str = NOWHERE, vectors: str = NOWHERE
) -> Server:
    """Our service with these models, ready; in the folder of an earlier start it finds what that one left.

    `cache` remembers embeddings; without one each is computed. `vectors` are where kept pictures are searched. Raises
    Trouble with the end of its log.
    """
    home = made(folder / "ours")
    file = home / "ModelRegistry.yaml"
    file.write_text(registry)
    http_port, grpc_port = free_ports(2)
    env = {
        "MODELMORA_HTTP_PORT": str(http_port),
        "MODELMORA_GRPC_PORT": str(grpc_port),
        "MODELMORA_REGISTRY": str(file),
        "MODELMORA_LOG_LEVEL": log_level,
        "MODELMORA_CACHE_URL": cache,
        "MODELMORA_VECTORS_URL": vectors,
        "MODELMORA_DATA_DIR": str(made(home / "data")),
        "BENTOML_HOME": str(made(home / "bentoml")),
        "BENTOML_DO_NOT_TRACK": "True",
        **PASSIVE,
    }
    process = Process([*BENTOML, "service:ModelMora", "--port", str(http_port)], log=home / "ours.log", env=env)
    return ready(Server("ours", process, http_port, grpc_port))


def ready(server: Server, path: str = "/readyz") -> Server:
    """The same server once it is ready; one that never is, is ended."""
    try:
        took = await_ready(server.process, server.http_port, path)
    except BaseException:
        server.process.stop()
        raise
    return Server(server.party, server.process, server.http_port, server.grpc_port, took)


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
