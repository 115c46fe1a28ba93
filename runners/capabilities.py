"""Which protocol fulfils a task, and a batch run through it."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InternalError, ModelLoadFailed
from runners.payload import Body, Parcel, Payload
from runners.provider import Classifies, Embeds, Loaded, Predicts, Segments, Tell

if TYPE_CHECKING:
    from numpy.typing import NDArray

BY_TASK: Mapping[Task, type[Any]] = MappingProxyType(
    {
        "embed_image": Embeds,
        "embed_text": Embeds,
        "classify": Classifies,
        "segment": Segments,
        "predict": Predicts,
    }
)

Given: TypeAlias = "NDArray[np.float32] | Sequence[Outcome[Parcel]]"
"""What a forward gives: rows, or an outcome for each parcel."""


def check(spec: ModelSpec, tasks: Collection[Task], loaded: Loaded) -> None:
    """Raises ModelLoadFailed when the model lacks what its family says it can do."""
    for task in sorted(tasks):
        protocol = BY_TASK[task]
        if not isinstance(loaded, protocol):
            said = f"provider {spec.provider} says it can {task}, but {type(loaded).__name__} is no {protocol.__name__}"
            raise ModelLoadFailed(f"{spec.key}: {said} (see runners/provider.py)", field="provider")


def forward(loaded: Loaded, task: Task, batch: Sequence[Payload], *, threads: int, tell: Tell | None = None) -> Given:
    """Runs a batch through the protocol of its task; raises what the model raises."""
    match task:
        case "embed_image" | "embed_text":
            return cast(Embeds, loaded).embed(task, cast(Any, batch), threads=threads, tell=tell)
        case "classify":
            return cast(Classifies, loaded).classify(cast(Any, batch), threads=threads, tell=tell)
        case "segment":
            return cast(Segments, loaded).segment(cast(Any, batch), threads=threads, tell=tell)
        case "predict":
            parcels = cast(Predicts, loaded).predict(cast(Any, batch), threads=threads, tell=tell)
            return [Ok(parcel) for parcel in parcels]


def rows(given: Given) -> NDArray[np.float32]:
    """The rows of a task that gives rows."""
    return cast("NDArray[np.float32]", given)


def judged(loaded: Loaded, given: Given) -> list[Outcome[Body]]:
    """One outcome an item. What is not finite fails alone: it says nothing about its neighbours."""
    if isinstance(given, np.ndarray):
        finite = np.logical_and.reduce(np.isfinite(given), axis=1)
        return [
            Ok(row.tobytes()) if good else _not_finite(loaded, "vector")
            for row, good in zip(given, finite, strict=True)
        ]
    return [one if isinstance(one, Failed) else _judged_parcel(loaded, one.value) for one in given]


def _judged_parcel(loaded: Loaded, parcel: Parcel) -> Outcome[Body]:
    for name, array in parcel.tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return _not_finite(loaded, f"tensor {name!r}")
    return Ok(parcel)


def _not_finite(loaded: Loaded, what: str) -> Failed:
    return Failed(InternalError(f"{loaded.description.model} gave a {what} that is not finite for this item"))


def kin(task: Task, payload: Payload) -> Hashable:
    """Inputs of equal kin may share a batch: arrays that differ in the last axis at most (raw bytes of any length),
    tensors that differ in their rows, questions about one picture to segment: those that bring it, since it may have to
    be encoded, which takes long, and those that do not."""
    if not isinstance(payload, Parcel):
        return payload.shape[:-1]
    if task == "segment":
        digest = payload.tensors.get("digest")
        return b"" if digest is None else digest.tobytes(), "pixels" in payload.tensors
    return tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(payload.tensors.items()))
