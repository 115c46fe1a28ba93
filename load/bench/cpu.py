"""CPU seconds of a server's whole process tree, by role, read before and after a window."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

API_ROLE = "modelmora"
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


class ProcessEnded(RuntimeError):
    """A process of a server ended inside a window, so that its CPU time is lost and the window void."""


@dataclass(frozen=True, slots=True)
class Sample:
    """CPU seconds since their start of every process of a tree, and of the whole machine."""

    processes: Mapping[int, tuple[str, float]]
    machine_s: float


def role_of(command: Sequence[str]) -> str:
    """The BentoML service a worker runs, else `supervisor`: what starts and watches the workers."""
    if "--service-name" in command[:-1]:
        return command[list(command).index("--service-name") + 1]
    return "supervisor"


def sample(root: psutil.Process) -> Sample:
    """Raises ProcessEnded when the server itself is gone; a child that ends meanwhile is left out."""
    try:
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess as gone:
        raise ProcessEnded(f"the server (process {root.pid}) is gone; its log says why") from gone
    found: dict[int, tuple[str, float]] = {}
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            times = process.cpu_times()
            found[process.pid] = (role_of(process.cmdline()), times.user + times.system)
    return Sample(found, machine_busy_s())


def machine_busy_s() -> float:
    """CPU seconds the machine has spent since it started, those another guest of its host took included."""
    times = psutil.cpu_times()._asdict()
    return float(sum(times.get(kind, 0.0) for kind in _BUSY))


def spent(before: Sample, after: Sample) -> dict[str, float]:
    """CPU seconds by role between two samples; raises ProcessEnded when a process of the first is missing."""
    lost = before.processes.keys() - after.processes.keys()
    if lost:
        roles = ", ".join(sorted(before.processes[pid][0] for pid in lost))
        raise ProcessEnded(f"ended during the window: {roles}; the server's log says why")
    by_role: dict[str, float] = {}
    for pid, (role, seconds) in after.processes.items():
        earlier = before.processes.get(pid, (role, 0.0))[1]
        by_role[role] = by_role.get(role, 0.0) + seconds - earlier
    return by_role
