"""What models take of a device's memory: weights and the peak of a batch, measured here or told by earlier workers."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelmora.domain.models import ModelSpec, Task
from modelmora.ports import Footprint


def guess(spec: ModelSpec, folder: Path) -> int:
    """What the weights of a model may take, by its files: those of the heaviest kind, halved for half precision."""
    kinds: Counter[str] = Counter()
    with contextlib.suppress(OSError):  # what is wrong with the folder is the family's to say
        for file in folder.iterdir():
            if file.is_file():
                kinds[file.suffix] += file.stat().st_size
    heaviest = max(kinds.values(), default=0)
    return heaviest // 2 if spec.precision in ("bf16", "fp16") else heaviest


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A batch that ran alone: its peak above what was in use before it, and what stayed in use after it, in bytes."""

    task: Task
    items: int
    peak: int = 0
    kept: int = 0


@dataclass(slots=True)
class Size:
    """One model on one device. `full` is the size of a full batch of each task that the model can do.

    `kept` is what batches left in use for good, `peak` the most that was in use above the weights.
    """

    weights: int = 0
    kept: int = 0
    peak: int = 0
    seen: dict[Task, int] = field(default_factory=dict)
    full: Mapping[Task, int] = field(default_factory=dict)
    told: int = 0

    @property
    def bytes(self) -> int:
        """The footprint: what was measured; what was told is the least until every full batch has been measured."""
        measured = self.weights + self.peak
        whole = bool(self.full) and all(self.seen.get(task, 0) >= items for task, items in self.full.items())
        return measured if whole else max(measured, self.told)

    @property
    def unknown(self) -> Mapping[Task, int]:
        """The full batches that nobody has measured, here or before."""
        return {} if self.told else {task: n for task, n in self.full.items() if self.seen.get(task, 0) < n}

    def opened(self, weights: int, full: Mapping[Task, int]) -> None:
        """The model was loaded and its weights measured; batches of an earlier stay still count."""
        self.weights, self.full, self.kept = weights, full, 0

    def learn(self, batch: Measured) -> None:
        """A batch was measured."""
        self.seen[batch.task] = max(batch.items, self.seen.get(batch.task, 0))
        self.peak = max(self.peak, self.kept + batch.peak)
        self.kept += batch.kept


class Sizes:
    """The sizes of all models, by model and device; they outlive the models' stay in memory."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[str, str], Size] = {}
        self._told: dict[tuple[str, str, str], int] = {}

    def of(self, spec: ModelSpec, device: str) -> Size:
        """The size of a model on a device, empty when nothing is known."""
        size = self._sizes.setdefault((spec.key, device), Size())
        size.told = self._told.get((spec.key, device, spec.form), 0)
        return size

    def tell(self, footprints: Iterable[Footprint]) -> None:
        """What earlier workers measured, by model, device and the form that the model declares."""
        for footprint in footprints:
            self._told[footprint.model, footprint.device, footprint.precision] = footprint.bytes

    def curious(self, model: str, device: str, task: Task, items: int) -> bool:
        """Whether a batch of so many is larger than any that was measured, but not than a full one. Thread-safe."""
        size = self._sizes.get((model, device))
        return size is not None and size.seen.get(task, 0) < items <= size.full.get(task, items)
