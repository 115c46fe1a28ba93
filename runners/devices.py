"""What this worker may use of the machine: threads, memory, devices."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import psutil

from modelmora.domain.models import GroupSpec

_M_ARENA_MAX, _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -8, -3, -1
"""The numbers that glibc's malloc.h gives the settings."""

_KEPT_BYTES = 1 << 30
"""Tensors below it come from the heap, and so much free memory stays at the heap's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One worker's part: compute threads, bytes for models by device, the visible GPU's index (None: no GPU).

    `budget_bytes` is the host's RAM (0: no limit), `budgets` are declared ones of other devices; a GPU without one
    gives `gpu_fraction` of its memory.
    """

    threads: int
    budget_bytes: int
    budgets: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    gpu: int | None = None
    gpu_fraction: float = 0.6

    def budget(self, device: str) -> int:
        """Bytes for models in the memory of `device` (0: no limit)."""
        if device == "cpu":
            return self.budget_bytes
        declared = self.budgets.get(device)
        return int(memory_of(device) * self.gpu_fraction) if declared is None else declared


def share_of(group: GroupSpec, groups: Sequence[GroupSpec], index: int, *, memory_fraction: float) -> Share:
    """What worker `index` (0-based) of a group gets: BentoML honours none of it locally, so we do.

    Memory: what the group declares over its workers, of the GPU in a group with GPUs and of the host in any other;
    what is not declared is an equal part of `memory_fraction` of the machine over all workers of all groups, and
    of each GPU over the workers on it. Threads: the group's cores (else all there are) over its workers.
    """
    gpu = _gpu_of(group, index)
    own = group.memory_bytes // group.workers if group.memory_bytes else None
    workers = sum(g.workers for g in groups) or 1
    beside = sum(_gpu_of(g, i) == gpu for g in groups for i in range(g.workers)) or 1
    own_cores = group.cpu if group.cpu is not None else cores()
    return Share(
        threads=max(1, int(own_cores / group.workers)),
        budget_bytes=own if own and gpu is None else int(total_memory() * memory_fraction / workers),
        budgets=MappingProxyType({f"cuda:{gpu}": own} if own and gpu is not None else {}),
        gpu=gpu,
        gpu_fraction=memory_fraction / beside,
    )


def _gpu_of(group: GroupSpec, index: int) -> int | None:
    return group.gpus[index % len(group.gpus)] if group.gpus else None


@dataclass(frozen=True, slots=True)
class Place:
    """The device a model goes to, and why it is not the one that was declared (None: it is)."""

    device: str
    why: str | None = None


def found() -> tuple[str, ...] | None:
    """The devices of this machine, best first: cuda:0 ..., mps, cpu; None before torch is imported."""
    torch = _torch()
    if torch is None:
        return None
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return (*gpus, *mps, "cpu")


def place(declared: str, gpu: int | None, there: Collection[str] | None) -> Place:
    """Where a model goes that declares `device: <declared>`, in a worker with this GPU, among the devices there are.

    `auto` is the worker's GPU, else MPS, else the CPU. What is not there falls back to the CPU. While the devices
    are not known (no torch: the family does not use it) the wish stands.
    """
    own = f"cuda:{gpu or 0}"
    if declared == "auto" and gpu is None:
        return Place("mps" if there and "mps" in there else "cpu")
    wanted = own if declared in ("auto", "cuda") else declared
    if there is None or wanted in there:
        return Place(wanted)
    return Place("cpu", f"there is no {wanted}, only {', '.join(there)}")


def memory_home(device: str) -> str:
    """Whose memory a device uses: MPS has none of its own."""
    return "cpu" if device == "mps" else device


def memory_of(device: str) -> int:
    """Bytes of a GPU's memory; 0 while torch, which is asked, is not imported."""
    torch = _torch()
    if torch is None or not torch.cuda.is_available():
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory)


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
    """Returns freed memory to the system: collects, then trims the C heap and torch's cache on a GPU."""
    gc.collect()
    trim()
    torch = _torch()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def trim() -> None:
    """Returns what the C heap keeps (glibc holds on to it)."""
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if malloc_trim is not None:
            malloc_trim(0)


def one_heap() -> None:
    """Threads that begin from now on share one heap, where the C library is glibc.

    Of the heaps of threads it trims no end: up to 64 MB each stay after an eviction, or after a stream of pictures.
    """
    _mallopt((_M_ARENA_MAX, 1))


def keep_heap() -> None:
    """One heap, which keeps what a batch used for the next one until `trim`, where the C library is glibc.

    Else each activation of some megabytes is given back when it is freed, and the kernel clears its pages again for
    the next layer: 4 to 5 % of the CPU of CLIP ViT-B/32.
    """
    _mallopt((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _KEPT_BYTES), (_M_TRIM_THRESHOLD, _KEPT_BYTES))


def _mallopt(*settings: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for name, value in settings:
            mallopt(name, value)


def before_torch(threads: int) -> None:
    """Sets what OpenMP reads once, when torch is imported: waiting threads sleep instead of spinning.

    Spinning threads beside a busy API worker fall below the speed of one thread.
    """
    one_heap()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # Asking whether there is a GPU must not initialise CUDA: it would not survive the fork of the engine.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")


def _torch() -> Any:
    """torch if a family imported it, whole: this module never does."""
    torch = sys.modules.get("torch")
    half = torch is not None and getattr(torch.__spec__, "_initializing", False)
    return None if half else torch


def _cgroup(name: str) -> str:
    try:
        with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
