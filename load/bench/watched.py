"""The process that `load.bench observed` measures: API worker, hop and runner in one, asked without a socket in front.

Blocks of requests alternate between what is counted and what is not, so that a machine's moods meet all parties alike;
the CPU of the whole process is what counts. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import uvloop

PARTIES = ("off", "on", "traced")
EXPORT_SPANS = 512
"""So many go to a collector in one request: the SDK's own number."""


@dataclass(slots=True)
class Switch:
    """Whether metrics are counted."""

    on: bool = True

    def put(self, module: ModuleType, *names: str) -> None:
        """Has to come before others import those functions."""
        for name in names:
            setattr(module, name, self._behind(getattr(module, name)))

    def _behind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def switched(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs) if self.on else None

        return switched


@dataclass(slots=True)
class Measured:
    """CPU microseconds a request of each block; `export_us` is what sending all the spans took."""

    us: dict[str, list[float]] = field(default_factory=lambda: {party: [] for party in PARTIES})
    requests: int = 0
    spans: int = 0
    export_us: float = 0.0


async def measure(collector: str, *, blocks: int, size: int, callers: int, ratio: float) -> Measured:
    """Texts for the no-op model, `size` in a block; each party has `blocks` of them."""
    from modelmora import telemetry, tracing  # noqa: PLC0415 - the switch comes before all others
    from modelmora.logs import configure_logging  # noqa: PLC0415

    configure_logging("info", "json", process="api")
    switch = Switch()
    switch.put(telemetry, "count_request", "count_inference", "count_cached")
    from runners.process import telemetry as runner_telemetry  # noqa: PLC0415

    switch.put(runner_telemetry, "count_batch", "count_overload", "count_halving")
    from adapters.tracing.otlp import PATH  # noqa: PLC0415
    from load.bench.within import Spans, Within  # noqa: PLC0415

    spans = Spans(f"{collector}{PATH}", ratio)
    found = Measured()
    async with Within() as asked:
        tracing.record(spans.recorder)
        await asked.requests(size, callers)
        gc.collect()
        gc.freeze()
        gc.disable()  # its pauses would fall on anybody
        for number in range(blocks):
            turns = PARTIES if number % 2 == 0 else tuple(reversed(PARTIES))
            for party in turns:
                switch.on = party != "off"
                tracing.record(spans.recorder if party == "traced" else None)
                before = time.process_time_ns()
                await asked.requests(size, callers)
                found.us[party].append((time.process_time_ns() - before) / 1e3 / size)
                gc.collect()
            found.export_us += spans.send(least=EXPORT_SPANS)
    found.export_us += spans.send(least=1)
    found.requests, found.spans = blocks * size, spans.sent
    return found


def main(told: Mapping[str, Any]) -> None:
    """`told` are the arguments of `measure`."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # as under BentoML: files that processes share
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(measure(**told))
    answer = {"us": found.us, "requests": found.requests, "spans": found.spans, "export_us": found.export_us}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
