"""Each of them started with folders and ports of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from load.bench.plan import Party
from load.bench.processes import PASSIVE, ROOT, Process, Trouble, free_ports
from load.bench.servers import BENTOML, Server, made, ready
from load.bench.subjects import Subject
from runners.devices import cores

MAX_BATCH, BATCH_S = 16, 0.05
"""As LitServe's service has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """`threads` 0: what each takes by itself. `tuned`: they do not spin while they wait, as ours does not, and form
    batches as large as the others'; else OpenMP waits as it comes, and batches are what is usual there."""

    threads: int = 0
    tuned: bool = True

    def environment(self) -> dict[str, str]:
        threads = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        return {**(PASSIVE if self.tuned else {}), **threads}


def start(party: Party, subject: Subject, folder: Path, how: How) -> Server:
    """One of the rivals with that model, ready; raises Trouble with the end of its log, and KeyError for ours."""
    return _STARTS[party](subject, folder, how)


def bentoml(subject: Subject, folder: Path, how: How) -> Server:
    """The plain BentoML service."""
    home = made(folder / "bentoml-plain")
    (http_port,) = free_ports(1)
    env = {
        "PLAIN_CLIP_FOLDER": str(subject.folder),
        "PLAIN_CLIP_THREADS": str(how.threads),
        "BENTOML_HOME": str(made(home / "bentoml")),
        "BENTOML_DO_NOT_TRACK": "True",
        **how.environment(),
    }
    service = ("load.bench.rivals.plain_service:PlainClip", "--working-dir", str(ROOT))
    command = [*BENTOML, *service, "--host", "127.0.0.1", "--port", str(http_port)]
    return ready(Server("bentoml", Process(command, log=home / "bentoml.log", env=env), http_port, 0))


def litserve(subject: Subject, folder: Path, how: How) -> Server:
    """LitServe as it comes: one worker with the threads that torch takes, which spin while they wait."""
    return _litserve("litserve", subject, folder, workers=1, threads=how.threads, env={})


def litserve_tuned(subject: Subject, folder: Path, how: How) -> Server:
    """LitServe with a worker of one thread for each core, which does not."""
    return _litserve("litserve-tuned", subject, folder, workers=how.threads or cores(), threads=1, env=PASSIVE)


def _litserve(
    party: Party, subject: Subject, folder: Path, *, workers: int, threads: int, env: Mapping[str, str]
) -> Server:
    (http_port,) = free_ports(1)
    own = {
        "LITSERVE_CLIP_FOLDER": str(subject.folder),
        "LITSERVE_CLIP_PORT": str(http_port),
        "LITSERVE_CLIP_WORKERS": str(workers),
        "LITSERVE_CLIP_THREADS": str(threads),
    }
    command = [sys.executable, "-m", "load.bench.rivals.litserve_service"]
    log = made(folder / party) / f"{party}.log"
    return ready(Server(party, Process(command, log=log, env={**own, **env}), http_port, 0))


def mlserver(subject: Subject, folder: Path, how: How) -> Server:
    """MLServer with our runtime of its guide's kind, in its own environment."""
    home = made(folder / "mlserver")
    ports = free_ports(3)
    named = dict(zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True))
    settings = {**named, "host": "127.0.0.1", "parallel_workers": 0}
    model = {
        "name": subject.name,
        "implementation": "load.bench.rivals.mlserver_runtime.Clip",
        "max_batch_size": MAX_BATCH,
        "max_batch_time": BATCH_S,
        "parameters": {"extra": {"folder": str(subject.folder)}},
    }
    (home / "settings.json").write_text(json.dumps(settings))
    (home / "model-settings.json").write_text(json.dumps(model))
    command = [_tool("mlserver", "mlserver"), "start", str(home)]
    env = {"PYTHONPATH": str(ROOT), **how.environment()}
    process = Process(command, log=home / "mlserver.log", env=env)
    return ready(Server("mlserver", process, ports[0], 0), "/v2/health/ready")


def infinity(subject: Subject, folder: Path, how: How) -> Server:
    """infinity by its command line, in its own environment, of the same weights in transformers' form."""
    from load.bench.rivals import as_transformers  # noqa: PLC0415 (torch)

    if subject.folder is None:
        raise Trouble("infinity serves models of pictures")
    model = as_transformers.write(subject.folder, subject.folder.with_name(f"{subject.folder.name}-transformers"))
    (http_port,) = free_ports(1)
    command = [
        _tool("infinity", "infinity_emb"), "v2", "--model-id", str(model), "--served-model-name", subject.name,
        "--engine", "torch", "--device", "cpu", "--host", "127.0.0.1", "--port", str(http_port),
        *(("--batch-size", str(MAX_BATCH)) if how.tuned else ()),
    ]  # fmt: skip
    env = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", **how.environment()}
    process = Process(command, log=made(folder / "infinity") / "infinity.log", env=env)
    return ready(Server("infinity", process, http_port, 0), "/health")


def _tool(environment: str, name: str) -> str:
    """A program of a rival's own environment; raises Trouble where that is not made."""
    tool = ROOT / f".venv-{environment}" / "bin" / name
    if not tool.exists():
        raise Trouble(f"{tool} is not there: make rivals")
    return str(tool)


_STARTS: Mapping[Party, Callable[[Subject, Path, How], Server]] = {
    "bentoml": bentoml,
    "litserve": litserve,
    "litserve-tuned": litserve_tuned,
    "mlserver": mlserver,
    "infinity": infinity,
}
