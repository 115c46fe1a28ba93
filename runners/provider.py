"""What a model family must do to be served: describe itself, load, run a batch, let go.

A family's models do one or several of four things, each a small protocol of its own: `Embeds`, `Classifies`,
`Segments`, `Predicts`. Which of them follows from the family's tasks (`runners/capabilities.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, runtime_checkable

from modelmora.domain.description import Description
from modelmora.domain.layout import Layout
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Outcome
from modelmora.errors import ModelLoadFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from runners.payload import Parcel, Payload

Tell: TypeAlias = Callable[[int, int], None]
"""Told `(done, total)` from the thread that works: bytes while loading, layers while computing; may be ignored."""


class Loaded(Protocol):
    """A model in memory. Its forward may be called from several threads at once, each with its own batch.

    In every forward `threads` is how many cores of the CPU the batch may use (0: as the model was loaded). It may raise
    anything: the batcher splits the batch until the bad item stands alone. It raises OutOfMemory where the batch is too
    large for the memory there is: the batcher halves it. What is not finite fails alone.
    """

    @property
    def description(self) -> Description: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def weight_bytes(self) -> int:
        """What it holds for good, its own caches full."""
        ...

    def sample(self, task: Task) -> Payload:
        """A valid input of one item, for warm-up, as the task's forward takes it."""
        ...

    def close(self) -> None:
        """Frees the memory; nothing is run afterwards."""
        ...


@runtime_checkable
class Embeds(Loaded, Protocol):
    """Pictures, texts or both to vectors of one space: `embed_image`, `embed_text`."""

    def embed(
        self, task: Task, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        """(items, dimension) float32, L2-normalised, same order.

        An input is uint8 (height, width, 3) pixels, int32 (context,) token ids or uint8 (n,) raw bytes, as the
        description says; all of one batch have one shape (raw bytes may differ in length).
        """
        ...


@runtime_checkable
class Tokenizes(Loaded, Protocol):
    """What a model with `tokenizer: runner` does besides."""

    def tokenize(self, text: str, *, truncate: bool) -> NDArray[np.generic]:
        """The token ids of a text; raises ValidationFailed when it is too long."""
        ...


@runtime_checkable
class Classifies(Loaded, Protocol):
    """Pictures to scores of the description's labels: `classify`."""

    def classify(
        self, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        """(items, labels) float32 logits, same order, of uint8 (height, width, 3) pixels of one shape."""
        ...


@runtime_checkable
class Segments(Loaded, Protocol):
    """A picture and prompts to masks: `segment`."""

    def segment(
        self, batch: Sequence[Parcel], *, threads: int = 0, tell: Tell | None = None
    ) -> Sequence[Outcome[Parcel]]:
        """One outcome an item, same order; what the parcels hold is in `runners/inputs/prompts.py`."""
        ...


@runtime_checkable
class Predicts(Loaded, Protocol):
    """Tensors to tensors: `predict`."""

    def predict(self, batch: Sequence[Parcel], *, threads: int = 0, tell: Tell | None = None) -> Sequence[Parcel]:
        """The description's outputs for its inputs, one parcel an item, same order.

        The items of a batch have the same names, dtypes and sizes but for the first axis, which is their rows.
        """
        ...


L_co = TypeVar("L_co", bound=Loaded, covariant=True)


class Provider(Protocol[L_co]):
    """One file in this folder per model family, named as the registry's `provider`, with a `PROVIDER` of this type.

    `PROVIDER: Provider[Embeds] = ...` has mypy check that the models do what the family says.
    """

    def tasks(self) -> frozenset[Task]:
        """What models of this family can do."""
        ...

    def layout(self) -> Layout | None:
        """The files of a hub's repository that models of this family need (None: nothing comes from there)."""
        ...

    def needs_files(self) -> bool:
        """Whether a model is nothing without its folder."""
        ...

    def describe(self, spec: ModelSpec, folder: Path | None) -> Description:
        """From configuration files alone, no weights; raises ModelLoadFailed saying what is missing."""
        ...

    def prepare(self) -> None:
        """Imports what loading needs, so that a model's measured footprint is the model's alone."""
        ...

    def load(
        self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
    ) -> L_co:
        """Loads from `folder` (None for families without files).

        Raises ModelLoadFailed (missing, not fitting, not available), ArtifactCorrupt (damaged), OutOfMemory.
        Nothing executable is read: safetensors, or `torch.load(weights_only=True)`.
        """
        ...


AnyProvider: TypeAlias = Provider[Loaded]
"""A family of which only the tasks are known."""


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
