"""An ONNX model in onnxruntime: how its session is made, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import structlog
from onnxruntime.capi import onnxruntime_pybind11_state as native

from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed, OutOfMemory, SchemaMismatch
from runners.inputs.schema import Schema
from runners.networks.exhaustion import is_out_of_memory
from runners.networks.tensors.batches import TensorBatches, first_line
from runners.networks.tensors.samples import sample_of
from runners.networks.tensors.trying import tried
from runners.payload import Parcel
from runners.provider import Tell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modelmora.domain.description import Description

log = structlog.get_logger(__name__)

_SILENT = 4
"""Only what ends the process is written to standard error: the rest is raised, and told by who asked."""

_AT_NODE = "while running"
_PREFACE = re.compile(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )?(Load model from .{1,4096}? failed:)?", re.DOTALL)


@dataclass(slots=True)
class OnnxModel:
    """A session and its schema. One session serves all lanes: its threads are as many as it was loaded with."""

    description: Description
    device: str
    weight_bytes: int
    batches: TensorBatches
    session: Session
    precision: str = "fp32"

    def sample(self, task: Task) -> Parcel:
        return sample_of(self.batches.schema)

    def predict(self, batch: Sequence[Parcel], *, threads: int = 0, tell: Tell | None = None) -> Sequence[Parcel]:
        return self.batches.predict(batch)

    def close(self) -> None:
        """The memory goes with the session."""
        self.session.native = None


@dataclass(slots=True)
class Session:
    """onnxruntime's session (None once it is closed) as a `Run`."""

    model: str
    native: Any
    manner: ort.RunOptions = field(default_factory=ort.RunOptions)

    def __call__(self, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        try:
            given = self.native.run(list(wanted), {name: _texts(one) for name, one in feeds.items()}, self.manner)
        except native.InvalidArgument as cause:
            said = _PREFACE.sub("", first_line(cause))
            raise SchemaMismatch(f"{self.model} cannot compute this input: {said}", field="inputs") from cause
        except Exception as cause:
            if is_out_of_memory(cause):
                raise OutOfMemory(f"{self.model}: this batch takes more memory than there is") from cause
            if isinstance(cause, native.Fail | native.RuntimeException) and _AT_NODE in str(cause):
                # What only a node of the network finds out: sizes along free axes that do not go together.
                said = _PREFACE.sub("", first_line(cause))
                raise SchemaMismatch(f"{self.model} cannot compute this input: {said}", field="inputs") from cause
            raise
        return dict(zip(wanted, map(np.asarray, given), strict=True))

    def stop(self) -> None:
        self.manner.terminate = True


def load_session(
    spec: ModelSpec, path: Path, schema: Schema, *, weight_bytes: int, device: str, threads: int
) -> OnnxModel:
    """Raises ModelLoadFailed, ArtifactCorrupt, OutOfMemory."""
    providers, device = _providers(spec, device)
    session = Session(spec.key, _opened(spec, path, _options(schema, threads), providers))
    batches = tried(spec, schema, session)
    return OnnxModel(
        description=batches.schema.description(spec, proven=True),
        device=device,
        weight_bytes=weight_bytes,
        batches=batches,
        session=session,
    )


def _options(schema: Schema, threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that spin while they wait take the cores of other lanes and of the API worker: half the throughput.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A plan is kept for every set of shapes that came, for good.
    options.enable_mem_pattern = all(isinstance(axis, int) for one in schema.inputs for axis in one.shape[1:])
    options.log_severity_level = _SILENT
    return options


def _providers(spec: ModelSpec, device: str) -> tuple[list[Any], str]:
    """What computes, the best first, and where that is."""
    there = ort.get_available_providers()
    if device.startswith("cuda") and "CUDAExecutionProvider" in there:
        index = int(device.partition(":")[2] or 0)
        return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"], f"cuda:{index}"
    if device != "cpu":
        why = "this onnxruntime has no provider for it"
        log.warning("device_fallback", model=spec.key, declared=device, device="cpu", why=why)
    return ["CPUExecutionProvider"], "cpu"


def _opened(spec: ModelSpec, path: Path, options: ort.SessionOptions, providers: list[Any]) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except native.InvalidProtobuf as cause:
        raise ArtifactCorrupt(f"{spec.key}: {path.name} is damaged or no ONNX model") from cause
    except Exception as cause:  # onnxruntime's errors have no common ancestor
        said = _PREFACE.sub("", str(cause))
        if is_out_of_memory(cause):
            raise OutOfMemory(f"{spec.key}: its weights take more memory than there is") from cause
        raise ModelLoadFailed(
            f"{spec.key}: onnxruntime {ort.__version__} cannot run {path.name}: {first_line(Exception(said))}"
        ) from cause


def _texts(array: NDArray[Any]) -> NDArray[Any]:
    """onnxruntime takes texts as Python's; what is no UTF-8 is refused before (`runners/inputs/tensors.py`)."""
    if array.dtype != np.object_:
        return array
    decoded = np.empty(array.size, dtype=object)
    decoded[:] = [one.decode("utf-8", "replace") for one in array.ravel().tolist()]
    return decoded.reshape(array.shape)
