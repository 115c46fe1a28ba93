"""What this worker may use of the machine: threads, memory, devices."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import os
import sys
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One worker's part: compute threads, bytes for models, the visible GPU's index (None: CPU)."""

    threads: int
    budget_bytes: int
    gpu: int | None = None


def cores() -> int:
    """The cores this process may run on (affinity and cgroup quota, not the machine's)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        allowed = min(allowed, max(1, round(int(quota[0]) / int(quota[1]))))
    return allowed


def total_memory() -> int:
    """Bytes of RAM of the cgroup, or of the machine."""
    limit = _cgroup("memory.max")
    machine = psutil.virtual_memory().total
    return min(machine, int(limit)) if limit.isdigit() else machine


def resident() -> int:
    """This process's resident set, in bytes."""
    return int(psutil.Process().memory_info().rss)


def release() -> None:
    """Returns freed memory to the system: collects, then trims the C heap (glibc keeps it otherwise)."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def before_torch(threads: int) -> None:
    """Sets what OpenMP reads once, when torch is imported: waiting threads sleep instead of spinning.

    Spinning threads beside a busy API worker fall below the speed of one thread.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _cgroup(name: str) -> str:
    try:
        with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
