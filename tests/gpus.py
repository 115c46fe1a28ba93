"""Memory and GPUs in numbers only: what the code that asks for them can be tested with where there are none."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

GIB = 2**30


class FakeCuda:
    """So many GPUs of so much memory; `allocated` and `peak` are what torch's allocator would say."""

    def __init__(self, count: int, memory: int) -> None:
        self.count = count
        self.memory = memory
        self.allocated = 0
        self.peak = 0
        self.emptied = 0

    def is_available(self) -> bool:
        return self.count > 0

    def device_count(self) -> int:
        return self.count

    def get_device_properties(self, device: str) -> SimpleNamespace:
        assert int(device.removeprefix("cuda:")) < self.count
        return SimpleNamespace(total_memory=self.memory)

    def take(self, size: int) -> None:
        self.allocated += size
        self.peak = max(self.peak, self.allocated)

    def memory_allocated(self, device: str) -> int:
        return self.allocated

    def max_memory_allocated(self, device: str) -> int:
        return self.peak

    def reset_peak_memory_stats(self, device: str) -> None:
        self.peak = self.allocated

    def empty_cache(self) -> None:
        self.emptied += 1


class FakeMeter:
    """One device's memory, in numbers: what is taken and given back, and its meter. A `blind` one sees no peak."""

    def __init__(self) -> None:
        self.blind = False
        self.taken = 0
        self.most = 0
        self.measured = 0

    def take(self, size: int) -> None:
        self.taken += size
        self.most = max(self.most, self.taken)

    def give(self, size: int) -> None:
        self.taken -= size

    def used(self) -> int:
        return self.taken

    def start(self) -> int | None:
        self.most = self.taken
        self.measured += 1
        return None if self.blind else self.taken

    def finish(self) -> tuple[int, int]:
        return self.most, self.taken


def pretend(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, memory: int = 10 * GIB, mps: bool = False) -> FakeCuda:
    """From now on torch is imported and has these devices."""
    torch, cuda = ModuleType("torch"), FakeCuda(gpus, memory)
    torch.cuda = cuda  # type: ignore[attr-defined] # a module of the test's making
    torch.backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps))  # type: ignore[attr-defined] # as above
    monkeypatch.setitem(sys.modules, "torch", torch)
    return cuda
