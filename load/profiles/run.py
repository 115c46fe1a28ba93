"""One profile, run: locust in this process, what users met and what the server's processes used, second by second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
import psutil
from locust import LoadTestShape
from locust.env import Environment
from locust.html import get_html_report

from load.bench.cpu import family
from load.profiles.recording import Request, Usage
from load.profiles.stages import Profile
from load.profiles.users import KINDS, Supplies

SAMPLE_S = 1.0
COME_PER_S = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A deployment: its addresses, and the process to watch where it is on this machine."""

    url: str
    grpc: str
    pid: int | None = None


@dataclass(slots=True)
class Met:
    """All that was seen; `html` is locust's own report."""

    requests: list[Request] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)
    html: str = ""


def run(profile: Profile, kind: str, target: Target, *, pictures: Path, models: Sequence[str]) -> Met:
    """Until the profile is over; what still waits for an answer then is not counted."""
    Supplies.load(pictures)
    Supplies.models[:] = models
    Supplies.grpc_target = target.grpc
    met = Met()
    environment = Environment(user_classes=list(KINDS[kind]), host=target.url, shape_class=_shape(profile))
    environment.parsed_options = None
    started = time.monotonic()
    environment.events.request.add_listener(_recorder(met, started))
    runner = environment.create_local_runner()
    watching = gevent.spawn(_watch, met, target.pid, started) if target.pid else None
    runner.start_shape()
    runner.shape_greenlet.join()
    runner.quit()
    if watching is not None:
        watching.kill()
    met.html = get_html_report(environment, show_download_link=False)
    return met


def _shape(profile: Profile) -> LoadTestShape:
    class Shape(LoadTestShape):
        def tick(self) -> tuple[int, float] | None:
            place = profile.at(self.get_run_time())
            return None if place is None else (profile.stages[place].users, COME_PER_S)

    return Shape()


def _recorder(met: Met, started: float) -> Callable[..., None]:
    def record(*, name: str, response_time: float, exception: BaseException | None, **_: Any) -> None:
        code = "" if exception is None else _code(exception)
        met.requests.append(Request(time.monotonic() - started, name, response_time, code))

    return record


def _code(exception: BaseException) -> str:
    said = str(exception)
    return said if said and len(said) <= 40 else type(exception).__name__


def _watch(met: Met, pid: int, started: float) -> None:
    """Each process of the server's tree, once a second; who is gone meanwhile is left out."""
    before: dict[int, float] = {}
    asked_at = time.monotonic()
    while True:
        gevent.sleep(SAMPLE_S)
        now = time.monotonic()
        try:
            tree = family(psutil.Process(pid))
        except psutil.NoSuchProcess:
            return
        for process, role in tree.items():
            try:
                times, resident = process.cpu_times(), process.memory_info().rss
            except psutil.Error:
                continue
            spent = times.user + times.system
            if process.pid in before:
                cores = (spent - before[process.pid]) / (now - asked_at)
                met.usage.append(Usage(round(now - started), role, process.pid, cores, resident))
            before[process.pid] = spent
        asked_at = now
