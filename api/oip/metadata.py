"""Models as the protocol describes them: their tensors, their configuration, the repository's index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from api.oip.datatypes import sizes_told
from modelmora.domain.models import State
from modelmora.domain.tensors import DType, TensorSpec
from modelmora.usecases.describe import Described
from modelmora.usecases.models import ModelStatus

IMAGE, TEXT, EMBEDDING = "image", "text", "embedding"
"""The tensors of an embedding model: pictures (files) or texts, one vector each."""

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository")
STATES: Mapping[State, str] = MappingProxyType(
    {
        "loaded": "READY",
        "loading": "LOADING",
        "unloading": "UNLOADING",
        "unloaded": "UNAVAILABLE",
        "failed": "UNAVAILABLE",
    }
)
_PLATFORMS = {"onnx": "onnxruntime_onnx", "tensorflow": "tensorflow_savedmodel"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A tensor as metadata: -1 is an axis of any size, and `batched` whether the first is the batch's."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    optional: bool = False
    batched: bool = False

    @property
    def dims(self) -> tuple[int, ...]:
        """As Triton's model configuration has it: without the axis of the batch."""
        return self.shape[1:] if self.batched else self.shape


def inputs_of(described: Described) -> list[Told]:
    """What the model takes; an embedding model pictures first. One that takes no tensors has none."""
    description = described.description
    if described.model.type == "embedding":
        towers = {IMAGE: description.image, TEXT: description.text}
        names = [name for name, tower in towers.items() if tower is not None]
        return [Told(name=name, dtype="bytes", shape=(-1,), optional=len(names) > 1) for name in names]
    return [_told(spec, description.batches) for spec in description.inputs]


def outputs_of(described: Described) -> list[Told]:
    """What the model gives."""
    description = described.description
    if described.model.type == "embedding":
        return [Told(name=EMBEDDING, dtype="float32", shape=(-1, description.dimension))]
    return [_told(spec, description.batches) for spec in description.outputs]


def max_batch_size(described: Described) -> int:
    """Triton's: 0 where the tensors have no axis of the batch beside those of the configuration.

    Those of an embedding model count their items themselves: any number, whatever the batches are.
    """
    description = described.description
    batched = described.model.type == "tensor" and description.batches and description.inputs
    return description.max_batch if batched else 0


def platform_of(described: Described) -> str:
    """What runs it, by Triton's name where it has one."""
    return _PLATFORMS.get(described.model.provider, f"modelmora_{described.model.provider}")


def state_of(status: ModelStatus) -> tuple[str, str]:
    """The state of the index, and the reason for it."""
    unloaded = "not in memory; the first inference loads it" if status.state == "unloaded" else ""
    return STATES[status.state], status.error or unloaded


def indexed(statuses: Sequence[ModelStatus], *, ready: bool) -> list[dict[str, str]]:
    """The repository's index, `ready`: those alone."""
    return [
        {"name": status.spec.name, "version": status.spec.version, "state": state, "reason": reason}
        for status in statuses
        for state, reason in (state_of(status),)
        if not ready or state == "READY"
    ]


def _told(spec: TensorSpec, batches: bool) -> Told:
    return Told(
        name=spec.name,
        dtype=spec.dtype,
        shape=tuple(sizes_told(spec.shape)),
        optional=spec.optional,
        batched=batches and bool(spec.shape),
    )
