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


def role_of(command: Sequence[str], *, parent: str = "supervisor") -> str:
    """The BentoML service a worker runs, LitServe's `server` or `worker`; else what its parent is."""
    if "--service-name" in command[:-1]:
        return command[list(command).index("--service-name") + 1]
    if "--multiprocessing-fork" in command:
        return "worker"
    return "server" if "load.bench.rivals.litserve_service" in command else parent


def family(root: psutil.Process) -> dict[psutil.Process, str]:
    """The living processes of a tree and their roles; raises psutil.NoSuchProcess when its root is gone.

    What a worker starts belongs to it: a process without a role of its own has its parent's.
    """
    roles: dict[int, str] = {}
    found: dict[psutil.Process, str] = {}
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            role = role_of(process.cmdline(), parent=roles.get(process.ppid(), "supervisor"))
            roles[process.pid] = found[process] = role
    return found


def sample(root: psutil.Process) -> Sample:
    """Raises ProcessEnded when the server itself is gone; a child that ends meanwhile is left out."""
    try:
        tree = family(root)
    except psutil.NoSuchProcess as gone:
        raise ProcessEnded(f"the server (process {root.pid}) is gone; its log says why") from gone
    found: dict[int, tuple[str, float]] = {}
    for process, role in tree.items():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            times = process.cpu_times()
            found[process.pid] = (role, times.user + times.system)
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
