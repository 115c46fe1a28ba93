"""The two servers under load, each started with folders and ports of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from load.bench.plan import Face, Party
from load.bench.processes import PASSIVE, ROOT, Process, await_ready, free_ports
from load.bench.subjects import Subject

BENTOML = (sys.executable, "-m", "bentoml", "serve")


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


def start_ours(subject: Subject, folder: Path, *, threads: int = 0) -> Server:
    """Our service with this model alone, ready; raises Trouble with the end of its log."""
    home = _fresh(folder / "ours")
    registry = home / "ModelRegistry.yaml"
    registry.write_text(subject.registry(threads))
    http_port, grpc_port = free_ports(2)
    env = {
        "MODELMORA_HTTP_PORT": str(http_port),
        "MODELMORA_GRPC_PORT": str(grpc_port),
        "MODELMORA_REGISTRY": str(registry),
        "MODELMORA_DATA_DIR": str(_fresh(home / "data")),
        "BENTOML_HOME": str(_fresh(home / "bentoml")),
        "BENTOML_DO_NOT_TRACK": "True",
        **PASSIVE,
    }
    process = Process([*BENTOML, "service:ModelMora", "--port", str(http_port)], log=home / "ours.log", env=env)
    return _ready(Server("ours", process, http_port, grpc_port))


def start_bentoml(subject: Subject, folder: Path, *, threads: int = 0, passive: bool = True) -> Server:
    """The plain BentoML service of the same weights, ready; raises Trouble with the end of its log.

    It has the wait policy ours has, which helps it; without `passive` OpenMP's own, as it comes.
    """
    home = _fresh(folder / "bentoml-plain")
    (http_port,) = free_ports(1)
    env = {
        "PLAIN_CLIP_FOLDER": str(subject.folder),
        "PLAIN_CLIP_THREADS": str(threads),
        "BENTOML_HOME": str(_fresh(home / "bentoml")),
        "BENTOML_DO_NOT_TRACK": "True",
        **(PASSIVE if passive else {}),
    }
    service = ("load.bench.plain_service:PlainClip", "--working-dir", str(ROOT))
    command = [*BENTOML, *service, "--host", "127.0.0.1", "--port", str(http_port)]
    return _ready(Server("bentoml", Process(command, log=home / "bentoml.log", env=env), http_port, 0))


def _ready(server: Server) -> Server:
    """The same server once it is ready; one that never is, is ended."""
    try:
        took = await_ready(server.process, server.http_port)
    except BaseException:
        server.process.stop()
        raise
    return Server(server.party, server.process, server.http_port, server.grpc_port, took)


def _fresh(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
