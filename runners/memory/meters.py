"""How much memory this process takes on a device, now and at its peak, and whether a measurement was alone."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from runners import devices


class Meter(Protocol):
    """The memory of one device as this process uses it, in bytes."""

    def used(self) -> int:
        """Now."""
        ...

    def start(self) -> int | None:
        """Forgets the peak so far; what is in use now, or None where no peak can be had."""
        ...

    def finish(self) -> tuple[int, int]:
        """The peak since `start`, and what stayed in use."""
        ...


class HostMeter:
    """RAM of one's own: pages of files (libraries, mapped weights) can be dropped by the system and do not count.

    On Linux the kernel keeps the peak and forgets it when 5 is written to /proc/self/clear_refs; elsewhere
    there is none.
    """

    def used(self) -> int:
        facts = _status()
        return facts["VmRSS"] - facts.get("RssFile", 0) if facts else devices.resident()

    def start(self) -> int | None:
        devices.trim()  # what the heap keeps would be used again by the batch, and hide it
        try:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")
        except OSError:
            return None
        return self.used() if "VmHWM" in _status() else None

    def finish(self) -> tuple[int, int]:
        facts = _status()
        peak = facts["VmHWM"] - facts.get("RssFile", 0)
        devices.trim()
        return peak, self.used()


class CudaMeter:
    """What torch's allocator holds on one GPU."""

    def __init__(self, device: str) -> None:
        self._device = device

    def used(self) -> int:
        return int(_cuda().memory_allocated(self._device))

    def start(self) -> int | None:
        _cuda().reset_peak_memory_stats(self._device)
        return self.used()

    def finish(self) -> tuple[int, int]:
        return int(_cuda().max_memory_allocated(self._device)), self.used()


def meter_of(device: str) -> Meter:
    """The meter of a device by name; MPS uses the host's memory."""
    return CudaMeter(device) if device.startswith("cuda") else HostMeter()


class Bustle:
    """Who works at the moment, so that a measurement knows whether it was alone. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = threading.local()
        self._running = 0
        self._begun = 0

    @contextlib.contextmanager
    def busy(self) -> Iterator[Callable[[], bool]]:
        """Counts the block as work; what it gives tells whether nothing else has worked since the block began.

        A block within one of the same thread is part of it, and never alone.
        """
        if getattr(self._inside, "block", False):
            yield lambda: False
            return
        self._inside.block = True
        with self._lock:
            quiet = self._running == 0
            self._running += 1
            self._begun += 1
            mine = self._begun
        try:
            yield lambda: quiet and self._begun == mine
        finally:
            self._inside.block = False
            with self._lock:
                self._running -= 1


def _cuda() -> Any:
    """torch.cuda: only asked for once a model of a GPU was loaded, so torch is there."""
    return sys.modules["torch"].cuda


def _status() -> dict[str, int]:
    """The sizes in /proc/self/status, in bytes; empty where there is no such file."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            rows = [line.split() for line in file if line.startswith(("Vm", "Rss"))]
    except OSError:
        return {}
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}
