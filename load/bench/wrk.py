"""`wrk`, where it is installed, for what Python cannot drive fast enough."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load.bench.processes import Trouble

MISSING = (
    "!!! wrk is not installed (Debian, Ubuntu: apt-get install wrk). Python callers are used instead; "
    "they take CPU from the server and show fewer requests a second than it can do."
)
_MARK = "bench-result "
# Each thread of wrk counts for itself from a start of its own, so that no text is sent twice.
_SCRIPT = """
local model = "%s"
local threads = 0
function setup(thread) thread:set("first", threads * 100000000); threads = threads + 1 end
function init(args)
  number = tonumber(first)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end
function request()
  number = number + 1
  return wrk.format(nil, nil, nil, string.format('{"texts":["text %%09d"],"model":"%%s"}', number, model))
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('%s{"items": %%d, "wall_s": %%f, "refused": %%d, "broken": %%d, ' ..
    '"p50_ms": %%f, "p95_ms": %%f, "p99_ms": %%f}\\n', summary.requests, summary.duration / 1e6, e.status,
    e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What wrk counted from its first request to its last answer."""

    items: int
    wall_s: float
    failed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


def installed() -> bool:
    return shutil.which("wrk") is not None


def drive(url: str, *, model: str, callers: int, seconds: int, folder: Path) -> Result:
    """Texts to `url` on so many connections; raises Trouble when wrk gives no result."""
    script = folder / "texts.lua"
    script.write_text(_SCRIPT % (model, _MARK))
    command = ["wrk", "-t1", f"-c{callers}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 120)
    return parse(done.stdout, done.stderr)


def parse(output: str, errors: str = "") -> Result:
    """The line our script writes at the end; raises Trouble when it is not there."""
    lines = [line.removeprefix(_MARK) for line in output.splitlines() if line.startswith(_MARK)]
    if not lines:
        raise Trouble(f"wrk gave no result:\n{output[-1000:]}{errors[-1000:]}")
    said: dict[str, Any] = json.loads(lines[-1])
    refused, broken = said.pop("refused"), said.pop("broken")
    return Result(**said | {"items": said["items"] - refused, "failed": refused + broken})
