"""What is asked of models: vectors, classes, masks, tensors, and how they take their input."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from modelmora.domain.classification import Scores
from modelmora.domain.description import Description
from modelmora.domain.inference import Call, Content, Embedded, Image, Timings
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Outcome
from modelmora.domain.progress import Step
from modelmora.domain.segmentation import Everything, MaskOptions, Prompt, Segmented
from modelmora.domain.tensors import Tensor

Watch: TypeAlias = Callable[[int, Step], None]
"""Told how far the item of an index is; called on the event loop, must be quick and must not raise."""


class Describer(Protocol):
    """Says how models take their input and what comes out."""

    async def describe(self, model: ModelSpec, *, deadline: float) -> Description:
        """From the model's configuration; it need not be in memory. Raises what is wrong with it (ModelLoadFailed,
        ModelLoading), DependencyUnavailable, DeadlineExceeded."""
        ...


class Embedder(Protocol):
    """Turns pictures or texts into vectors."""

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Embedded]]:
        """One outcome per item, same order; never raises for an item, only when all are lost.

        An item whose deadline passes fails with `deadline_exceeded`; a cancelled caller's items are
        dropped before compute. `watch` costs messages; without it progress costs nothing.
        """
        ...


class Capacity(Protocol):
    """How many items may be under way at once."""

    def permit(self, items: int) -> AbstractContextManager[None]:
        """Room for so many until the block ends; raises Overloaded at once where there is none."""
        ...


class Pictures(Protocol):
    """Brings pictures that lie elsewhere."""

    async def fetch(self, urls: Sequence[str], *, call: Call) -> list[Outcome[bytes]]:
        """The bytes behind each URL, one outcome per URL, same order; never raises for a URL.

        Where it is not allowed to look, it does not: what may be asked is an operator's decision.
        """
        ...


class Classifier(Protocol):
    """Gives pictures scores of the labels a model knows."""

    async def classify(
        self, model: ModelSpec, items: Sequence[Image], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Scores]]:
        """The logits of the description's labels, one outcome per item, same order; as `Embedder.embed` otherwise."""
        ...


class Segmenter(Protocol):
    """Cuts out of a picture what prompts point at."""

    def segment(
        self,
        model: ModelSpec,
        image: Image,
        asked: Sequence[Prompt] | Everything,
        *,
        options: MaskOptions,
        call: Call,
        watch: Watch | None = None,
    ) -> AsyncGenerator[tuple[int, Outcome[Segmented]], None]:
        """Each prompt's outcome with its index, as they come; of everything one mask after the other, the best first.

        The picture is encoded once for all prompts, and remembered by content. Raises what concerns the picture as a
        whole. Closing the generator drops what was not computed yet.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """A tensor model's outputs by name, and what they cost."""

    outputs: Mapping[str, Tensor]
    timings: Timings


class Predictor(Protocol):
    """Runs tensors through a model."""

    async def predict(
        self, model: ModelSpec, inputs: Mapping[str, Tensor], *, outputs: Sequence[str] = (), call: Call
    ) -> Predicted:
        """The named outputs (none: all). Where the model takes batches, the first axis is their size: rows of several
        callers are computed together. Raises SchemaMismatch with every fault in the inputs."""
        ...
