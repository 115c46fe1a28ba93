"""How much memory the processes of a server take while it is under load."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

import psutil

from load.bench.cpu import family
from load.bench.stats import percentile

_PERIOD_S = 0.25


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process: `resident` in all, and its `own`, without pages of files (weights, libraries), which the
    system drops when it needs room."""

    resident: int = 0
    own: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.resident + other.resident, self.own + other.own)


Sizes: TypeAlias = Mapping[tuple[str, int], Memory]
"""By role and process id."""


def sizes(root: psutil.Process) -> dict[tuple[str, int], Memory]:
    """Of every process of a tree; one that ends meanwhile is left out."""
    found: dict[tuple[str, int], Memory] = {}
    for process, role in family(root).items():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            told = process.memory_info()
            found[role, process.pid] = Memory(told.rss, told.rss - getattr(told, "shared", 0))
    return found


def of_role(sample: Sizes, prefix: str) -> Memory:
    """Of all processes whose role begins so, together."""
    return sum((size for (role, _), size in sample.items() if role.startswith(prefix)), Memory())


class Sampler:
    """Looks four times a second, in a thread, from entering to leaving the block."""

    def __init__(self, root: psutil.Process, *, period_s: float = _PERIOD_S) -> None:
        self.samples: list[Sizes] = []
        self._root = root
        self._period_s = period_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def peak(self, prefix: str) -> Memory:
        """The most that processes of such a role took together, resident and of their own."""
        found = [of_role(sample, prefix) for sample in self.samples]
        resident, own = max((one.resident for one in found), default=0), max((one.own for one in found), default=0)
        return Memory(resident, own)

    def medians(self) -> dict[tuple[str, int], float]:
        """Resident bytes of each process, over the samples that have it."""
        known = {key for sample in self.samples for key in sample}
        return {key: percentile([one[key].resident for one in self.samples if key in one], 0.5) for key in known}

    def _look(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # the server is gone: its callers say so
            while not self._over.wait(self._period_s):
                self.samples.append(sizes(self._root))
