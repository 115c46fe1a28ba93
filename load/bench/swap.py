"""A hot swap under load: what the callers feel before it, while the new version is loaded, and after it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load.bench import control, pictures
from load.bench.callers import Load
from load.bench.driver import measure
from load.bench.processes import Trouble
from load.bench.results import Window
from load.bench.servers import Server, start_ours
from load.bench.subjects import Subject
from load.bench.verdicts import Line, Report

CALLERS = 32
WINDOW_S = 30.0
AHEAD_S = 5.0
"""The swap begins so long after its window opens."""
MOST_AFTER, MOST_DURING = 2.0, 4.0
NAME, VERSIONS = "swapped", ("1.0.0", "2.0.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Three windows of the same load; the swap is in the second, and took `swap_s`."""

    before: Window
    during: Window
    after: Window
    swap_s: float

    @property
    def left_s(self) -> float:
        """Of the window, when the swap was done."""
        return self.during.wall_s - AHEAD_S - self.swap_s

    def named(self) -> tuple[tuple[str, Window], ...]:
        return ("before", self.before), ("during", self.during), ("after", self.after)


def swap(subject: Subject, folder: Path, *, quick: bool, say: Callable[[str], None]) -> Report:
    """Two versions of the same weights are registered; the name goes from one to the other under load."""
    images = folder / "pictures"
    pictures.draw(images)
    ours = start_ours(subject, folder)
    with ours.process:
        for version in VERSIONS:
            _register(ours, subject, version)
            say(f"{NAME}@{version} is registered and valid")
        load = Load(
            party="ours", face="http", port=ours.http_port, model=NAME, callers=CALLERS,
            lead_s=3.0, window_s=8.0 if quick else WINDOW_S, pictures=str(images),
        )  # fmt: skip
        before = measure(ours, load, logs=folder)
        with ThreadPoolExecutor(1) as threads:
            swapping = threads.submit(_swap, ours, load.lead_s + AHEAD_S)
            during = measure(ours, load, logs=folder)
            took = swapping.result()
        say(f"the swap took {took:.1f} s")
        after = measure(ours, load, logs=folder)
    return report(subject.name, Phases(before=before, during=during, after=after, swap_s=took), quick=quick)


def report(model: str, seen: Phases, *, quick: bool = False) -> Report:
    """Each p99 beside that before."""
    rows = [_row(name, window) for name, window in seen.named()]
    failed = sum(window.failed for _, window in seen.named())
    limits = (("during", seen.during, MOST_DURING), ("after", seen.after, MOST_AFTER))
    return Report(
        title=f"Hot swap: {model}, {CALLERS} callers over HTTP, {seen.swap_s:.1f} s until the old one is unloaded",
        head=("phase", "items/s", "p50 ms", "p99 ms", "failed"),
        rows=rows,
        lines=[
            *(_slower(name, seen.before, window, most) for name, window, most in limits),
            Line(said=f"{failed} requests failed", held=failed == 0),
            Line(said=f"the swap ended {seen.left_s:.1f} s before its window", held=seen.left_s > 0),
        ],
        quick=quick,
        facts={"swap_s": seen.swap_s, **{name: asdict(window) for name, window in seen.named()}},
    )


def _slower(name: str, before: Window, window: Window, most: float) -> Line:
    usual, found = before.p99_ms or 0.0, window.p99_ms or 0.0
    said = f"p99 {name} the swap {found:.0f} ms, before it {usual:.0f} ms, at most {most:g}x"
    return Line(said=said, held=found <= most * usual, timed=True)


def _row(name: str, window: Window) -> Sequence[str]:
    latencies = (f"{value or 0:.0f}" for value in (window.p50_ms, window.p99_ms))
    return [name, f"{window.per_s:.1f}", *latencies, str(window.failed)]


def _swap(ours: Server, after_s: float) -> float:
    """Seconds it took."""
    time.sleep(after_s)
    started = time.monotonic()
    control.send(ours.http_port, "PUT", f"/api/v1/models/{NAME}/current", {"version": VERSIONS[1]})
    return time.monotonic() - started


def _register(ours: Server, subject: Subject, version: str) -> None:
    """Waits until it is valid; raises Trouble."""
    folder = subject.folder
    if folder is None:
        raise Trouble(f"{subject.name} has no files")
    files = [_put(ours, path, str(path.relative_to(folder))) for path in sorted(folder.rglob("*")) if path.is_file()]
    if version == VERSIONS[0]:
        control.send(ours.http_port, "POST", "/api/v1/models", {"name": NAME, "type": "embedding"})
    asked = {"version": version, "files": files, "provider": subject.provider, "warmup": True}
    control.send(ours.http_port, "POST", f"/api/v1/models/{NAME}/versions", asked)
    path = f"/api/v1/models/{NAME}/versions/{version}"
    while (entry := control.ask(ours.http_port, "GET", path))["state"] == "registered":
        time.sleep(0.5)
    if entry["state"] not in ("approved", "deployed"):
        raise Trouble(f"{NAME}@{version} is {entry['state']}: {entry['failure']}")


def _put(ours: Server, path: Path, name: str) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        file.seek(0)
        control.put(ours.http_port, f"/api/v1/artifacts/{digest}", file, size)
    return {"path": name, "bytes": size, "sha256": digest}
