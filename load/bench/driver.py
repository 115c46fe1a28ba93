"""Measures one window of one party: load on, CPU read when the window opens and when it closes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load.bench import cpu
from load.bench.callers import Load
from load.bench.plan import Point
from load.bench.processes import PASSIVE, Process, Talker, Trouble
from load.bench.results import Window
from load.bench.servers import Server

_ANSWER_S = 120.0


@dataclass(slots=True)
class _Meter:
    """CPU of a server, of its callers and of the machine, at both ends of a window."""

    server: Process
    callers: Process
    ends: list[tuple[cpu.Sample, cpu.Sample]]

    def read(self) -> None:
        self.ends.append((cpu.sample(self.server.tree()), cpu.sample(self.callers.tree())))

    def spent(self) -> tuple[dict[str, float], float]:
        """By role of the server's processes, and what neither server nor callers used."""
        (server_0, callers_0), (server_1, callers_1) = self.ends
        by_role = cpu.spent(server_0, server_1)
        known = sum(by_role.values()) + sum(cpu.spent(callers_0, callers_1).values())
        return by_role, max(0.0, server_1.machine_s - server_0.machine_s - known)


def measure(server: Server, load: Load, *, logs: Path, pair: int | None = None) -> Window:
    """Raises Trouble when no window came about, ProcessEnded when a process of the server ended in it."""
    with Talker(load.command(), log=logs / "callers.log") as callers:
        meter = _Meter(server.process, callers, [])
        while (heard := callers.hear(load.longest_s))["event"] != "result":
            meter.read()
    if len(meter.ends) != 2:
        raise Trouble(f"{load.party} at {load.face}:{load.callers}: {heard['failed']} failed: {heard['errors']}")
    return _window(load, heard, meter, pair)


def _window(load: Load, heard: dict[str, Any], meter: _Meter, pair: int | None) -> Window:
    by_role, foreign = meter.spent()
    return Window(
        party=load.party,
        point=Point(load.face, load.callers),
        pair=pair,
        items=heard["items"],
        wall_s=heard["wall_s"],
        cpu_s=by_role,
        failed=heard["failed"],
        refused=heard["refused"],
        errors=tuple(heard["errors"]),
        p50_ms=heard["p50_ms"],
        p95_ms=heard["p95_ms"],
        p99_ms=heard["p99_ms"],
        foreign_cores=foreign / heard["wall_s"],
    )


class ReferenceLoop:
    """The harness's end of the reference process."""

    def __init__(self, weights: Path, pictures: Path, *, logs: Path, threads: int = 0) -> None:
        command = [sys.executable, "-m", "load.bench.reference", str(weights), str(pictures), str(threads)]
        self.process = Talker(command, log=logs / "reference.log", env=PASSIVE)

    def describe(self) -> dict[str, Any]:
        """Its threads and versions; answers once the model is loaded."""
        return self._ask({"do": "describe"}, _ANSWER_S)

    def embed(self, count: int) -> list[list[float]]:
        """The embeddings of the first pictures."""
        vectors: list[list[float]] = self._ask({"do": "embed", "count": count}, _ANSWER_S)["vectors"]
        return vectors

    def best_batch(self, sizes: Sequence[int], *, seconds: float) -> tuple[int, float, dict[int, float]]:
        """The size that embeds most a second, the seconds one batch of it takes, and all sizes' pictures a second."""
        tried = {size: self._ask(_command(size, seconds, 3), seconds * 4 + _ANSWER_S) for size in sizes}
        speeds = {size: got["items"] / got["wall_s"] for size, got in tried.items()}
        best = max(speeds, key=lambda size: speeds[size])
        return best, best / speeds[best], speeds

    def measure(self, point: Point, *, batch: int, window_s: float, pair: int | None) -> Window:
        """A window beside those of a point; the loop knows no callers, and latencies only of one picture alone."""
        before, began = cpu.machine_busy_s(), time.monotonic()
        got = self._ask(_command(batch, window_s, 0), window_s * 4 + _ANSWER_S)
        used, took_s = cpu.machine_busy_s() - before, time.monotonic() - began
        own = got["cpu_s"] * (1 + batch / got["items"])  # the loop runs one batch more than it counts
        return Window(
            party="reference",
            point=point,
            pair=pair,
            items=got["items"],
            wall_s=got["wall_s"],
            cpu_s={"reference": got["cpu_s"]},
            **({name: got[name] for name in ("p50_ms", "p95_ms", "p99_ms")} if batch == 1 else {}),
            foreign_cores=max(0.0, used - own) / took_s,
        )

    def _ask(self, command: dict[str, Any], within_s: float) -> dict[str, Any]:
        self.process.tell(command)
        return self.process.hear(within_s)


def _command(batch: int, seconds: float, batches: int) -> dict[str, Any]:
    return {"do": "window", "batch": batch, "seconds": seconds, "batches": batches}
