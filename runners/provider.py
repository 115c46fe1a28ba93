"""What a model family must do to be served: describe itself, load, run a batch, let go."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.preprocess import Description
from modelmora.errors import ModelLoadFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Tell: TypeAlias = Callable[[int, int], None]
"""Told `(done, total)` from the thread that works: bytes while loading, layers while computing; may be ignored."""


class Loaded(Protocol):
    """A model in memory. `run` may be called from several threads at once, each with its own batch."""

    description: Description
    device: str
    precision: str
    weight_bytes: int

    def sample(self, task: Task) -> NDArray[np.generic]:
        """A valid input of one item, for warm-up; uint8 (height, width, 3) pixels, int32 (context,) tokens
        or uint8 (n,) raw bytes, as `description` says."""
        ...

    def tokenize(self, text: str, *, truncate: bool) -> NDArray[np.generic]:
        """Only for `tokenizer: runner`: the token ids of a text; raises ValidationFailed when it is too long."""
        ...

    def run(
        self, task: Task, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        """(items, dimension) float32, L2-normalised, same order. Inputs all have one shape.

        `threads` is how many cores of the CPU this batch may use (0: as the model was loaded).

        May raise anything; the batcher splits the batch until the bad item stands alone. Raises OutOfMemory where
        the batch is too large for the memory there is: the batcher halves it. A row that is not finite fails alone.
        """
        ...

    def close(self) -> None:
        """Frees the memory; `run` is not called afterwards."""
        ...


class Provider(Protocol):
    """One file in this folder per model family, named as the registry's `provider`, with a `PROVIDER` of this type."""

    def tasks(self) -> frozenset[Task]:
        """What models of this family can do."""
        ...

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        """From configuration files alone, no weights; raises ModelLoadFailed saying what is missing."""
        ...

    def prepare(self) -> None:
        """Imports what loading needs, so that a model's measured footprint is the model's alone."""
        ...

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> Loaded:
        """Loads from `folder` (None for families without files).

        Raises ModelLoadFailed (missing, not fitting, not available), ArtifactCorrupt (damaged), OutOfMemory.
        Nothing executable is read: safetensors, or `torch.load(weights_only=True)`.
        """
        ...


def refuse_unknown(spec: ModelSpec, known: Sequence[str]) -> None:
    """Raises ModelLoadFailed when `spec.config` has a key that the provider does not know, naming the nearest."""
    for key in spec.config:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known)}"
            raise ModelLoadFailed(
                f"{spec.key}: config of provider {spec.provider} has no key {key!r}; {hint}",
                field=f"config.{key}",
                found=key,
                expected=", ".join(known),
            )
