"""A small model family that misbehaves as told: it raises, answers too little, hangs, fails to load, is too large."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.preprocess import TextPreprocess
from modelmora.errors import OutOfMemory
from runners.provider import Tell

GIB = 2**30
PATIENCE_S = 30.0


def row_of(content: bytes) -> list[float]:
    """The "embedding" of an item: its length and the sum of its bytes."""
    return [float(len(content)), float(sum(content))]


class Gate:
    """A place where a thread waits until it is let through; open unless closed."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        self._open.set()

    def close(self) -> None:
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        self.reached.set()
        if not self._open.wait(PATIENCE_S):
            raise TimeoutError("the test never opened the gate")


@dataclass(slots=True)
class Family:
    """What was asked of its models, and how they shall behave.

    An item that contains a key of `bad` makes its batch raise that error, one of `strange` gets a row that is not
    finite; batches larger than `short` lose a row, those larger than `room` run out of memory; `weights` are
    footprints by model name; `load_errors` are raised by the next loads.
    """

    bad: dict[bytes, Exception] = field(default_factory=dict)
    strange: set[bytes] = field(default_factory=set)
    short: int | None = None
    room: int | None = None
    weights: dict[str, int] = field(default_factory=dict)
    load_errors: list[Exception] = field(default_factory=list)
    running: Gate = field(default_factory=Gate)
    loading: Gate = field(default_factory=Gate)
    closing: Gate = field(default_factory=Gate)
    batches: list[list[bytes]] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    in_memory: set[str] = field(default_factory=set)
    together: int = 0
    most_together: int = 0

    def tasks(self) -> frozenset[Task]:
        return frozenset({"embed_text"})

    def layout(self) -> None:
        return None

    def needs_files(self) -> bool:
        return False

    def prepare(self) -> None:
        """Nothing to import."""

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        text = TextPreprocess(tokenizer="bytes", context_length=0)
        return Description(model=spec.key, dimension=2, text=text, max_batch=spec.batching.max_batch or 16)

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> Model:
        self.loads.append(spec.name)
        if tell is not None:
            tell(1, 2)
        self.loading.pass_through()
        if self.load_errors:
            raise self.load_errors.pop(0)
        self.in_memory.add(spec.name)
        return Model(self, spec, self.describe(spec, folder), device)

    @property
    def computed(self) -> list[bytes]:
        """Every item that a batch was run with."""
        return [content for batch in self.batches for content in batch]


class Model:
    """One loaded model of the family."""

    precision = "fp32"

    def __init__(self, family: Family, spec: ModelSpec, description: Description, device: str) -> None:
        self._family = family
        self._name = spec.name
        self.description = description
        self.device = device
        self.weight_bytes = family.weights.get(spec.name, 0)

    def sample(self, task: Task) -> NDArray[np.generic]:
        return np.frombuffer(b"sample", np.uint8)

    def tokenize(self, text: str, *, truncate: bool) -> NDArray[np.generic]:
        return np.frombuffer(text.encode(), np.uint8)

    def embed(
        self, task: Task, batch: Sequence[NDArray[Any]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        contents = [item.tobytes() for item in batch]
        self._family.threads.append(threads)
        if tell is not None:
            tell(1, 2)
            tell(2, 2)
        self._family.batches.append(contents)
        self._family.together += 1
        self._family.most_together = max(self._family.most_together, self._family.together)
        try:
            self._family.running.pass_through()
            return self._answer(contents)
        finally:
            self._family.together -= 1

    def _answer(self, contents: list[bytes]) -> NDArray[np.float32]:
        for marker, error in self._family.bad.items():
            if any(marker in content for content in contents):
                raise error
        if self._family.room is not None and len(contents) > self._family.room:
            raise OutOfMemory(f"{len(contents)} items do not fit")
        rows = np.array([row_of(content) for content in contents], np.float32)
        rows[[any(marker in content for marker in self._family.strange) for content in contents]] = np.nan
        lost = self._family.short is not None and len(contents) > self._family.short
        return rows[1:] if lost else rows

    def close(self) -> None:
        self._family.closing.pass_through()
        self._family.closed.append(self._name)
        self._family.in_memory.discard(self._name)
