"""What seeing costs: requests that nobody counts, requests as they come, and one in ten traced, in turns."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import NormalDist, median, stdev
from typing import Any

from load.bench import machine
from load.bench.callers import HOST
from load.bench.processes import ROOT, Trouble, free_ports
from load.bench.servers import NOWHERE
from load.bench.subjects import prepare
from load.bench.tables import table

MAX_ON_US, MAX_TRACED_US = 8.0, 20.0
LONGEST_S = 1_800


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`blocks` of `size` requests for each party, `callers` at once; `ratio` of the traced party's are drawn."""

    blocks: int = 200
    size: int = 100
    callers: int = 32
    ratio: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """As `load.bench.watched` measured it: CPU microseconds a request, block by block."""

    machine: Mapping[str, Any]
    options: Options
    us: Mapping[str, Sequence[float]]
    requests: int
    spans: int
    export_us: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A median of paired differences, and 1.96 times its standard error."""

    us: float
    give_or_take: float

    def __str__(self) -> str:
        return f"{self.us:.1f} ± {self.give_or_take:.1f}"


def observed(options: Options, folder: Path) -> Seen:
    """In a process of its own; raises Trouble with what it said last."""
    (folder / "registry.yaml").write_text(prepare("noop", folder).registry(0))
    http_port, grpc_port = free_ports(2)
    env = {
        "PATH": "/usr/bin:/bin",
        "MODELMORA_HTTP_PORT": str(http_port),
        "MODELMORA_GRPC_PORT": str(grpc_port),
        "MODELMORA_DATA_DIR": str(folder / "data"),
        "MODELMORA_REGISTRY": str(folder / "registry.yaml"),
        "MODELMORA_CACHE_URL": NOWHERE,
        "MODELMORA_VECTORS_URL": NOWHERE,
    }
    asked = {"blocks": options.blocks, "size": options.size, "callers": options.callers, "ratio": options.ratio}
    with _collector() as collector:
        (folder / "asked.json").write_text(json.dumps({"collector": collector, **asked}))
        command = [sys.executable, "-m", "load.bench.watched", str(folder / "asked.json")]
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=LONGEST_S
        )
    if done.returncode:
        raise Trouble(f"the measured process failed:\n{done.stderr[-2000:]}")
    return Seen(machine=machine.facts(), options=options, **json.loads(done.stdout.splitlines()[-1]))


def markdown(seen: Seen) -> str:
    """The table, and what was promised."""
    rows = [[party, str(seen.requests), f"{median(us):.0f}"] for party, us in seen.us.items()]
    metrics, traces = (_difference(seen.us[a], seen.us[b]) for a, b in (("off", "on"), ("on", "traced")))
    sending = seen.export_us / seen.requests
    return (
        f"### What seeing costs: no-op model, API worker, hop and runner, blocks of {seen.options.size} requests\n\n"
        f"{table(('party', 'requests', 'CPU us/request'), rows)}\n\n"
        f"Metrics and logs: {metrics} us of CPU a request; at most {MAX_ON_US:.0f}.\n"
        f"Traces of {seen.options.ratio:.0%}: {traces} us, and {sending:.1f} to send {seen.spans} spans; "
        f"at most {MAX_TRACED_US:.0f} together.\n"
    )


def _difference(less: Sequence[float], more: Sequence[float]) -> Difference:
    """Of neighbours. The median's standard error is 1.25 times the mean's."""
    each = [b - a for a, b in zip(less, more, strict=True)]
    middle = sorted(each)[len(each) // 10 : len(each) - len(each) // 10]  # what else ran is no noise of ours
    error = 1.25 * stdev(middle) / len(middle) ** 0.5 if len(middle) > 1 else 0.0
    return Difference(median(each), NormalDist().inv_cdf(0.975) * error)


@contextmanager
def _collector() -> Iterator[str]:
    """Takes spans and forgets them, in this process, which counts for nobody."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
