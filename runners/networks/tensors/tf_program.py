"""A SavedModel in TensorFlow: how it is loaded, and what its errors mean."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, at the import: it is raised, and told by who asked

import structlog
import tensorflow as tf
from tensorflow.python.eager import cancellation

from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed, OutOfMemory, SchemaMismatch
from runners.inputs.schema import Schema
from runners.networks.tensors.batches import TensorBatches, first_line
from runners.networks.tensors.samples import sample_of
from runners.networks.tensors.trying import tried
from runners.payload import Parcel
from runners.provider import Tell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modelmora.domain.description import Description

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class TensorFlowModel:
    """A signature and its schema; TensorFlow's threads are the process's, as many as its first model had."""

    description: Description
    weight_bytes: int
    batches: TensorBatches
    program: Program
    device: str = "cpu"
    precision: str = "fp32"

    def sample(self, task: Task) -> Parcel:
        return sample_of(self.batches.schema)

    def predict(self, batch: Sequence[Parcel], *, threads: int = 0, tell: Tell | None = None) -> Sequence[Parcel]:
        return self.batches.predict(batch)

    def close(self) -> None:
        """The memory goes with the variables."""
        self.program.root = self.program.function = None


@dataclass(slots=True)
class Program:
    """A loaded signature as a `Run`. `root` holds the variables, which go with it; `ending` ends its samples."""

    model: str
    root: Any
    function: Any
    ending: Any = field(default_factory=cancellation.CancellationManager)

    def __call__(self, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        try:
            given = self._given({name: tf.constant(one) for name, one in feeds.items()})
            return {name: given[name].numpy() for name in wanted}
        except tf.errors.ResourceExhaustedError as cause:
            raise OutOfMemory(f"{self.model}: this batch takes more memory than there is") from cause
        except tf.errors.InvalidArgumentError as cause:
            raise SchemaMismatch(
                f"{self.model} cannot compute this input: {first_line(cause)}", field="inputs"
            ) from cause

    def stop(self) -> None:
        """Ends a sample at its next operation."""
        if self.ending is not None:
            self.ending.start_cancel()

    def tried(self) -> None:
        """From now on nothing is ended."""
        self.ending = None

    def _given(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.ending is not None:
            with cancellation.CancellationManagerContext(self.ending):
                return dict(self.function(**feeds))
        try:
            return dict(self.function(**feeds))
        except tf.errors.CancelledError:
            # TensorFlow has one such context for all its threads: what ended the sample of another model ended this.
            return dict(self.function(**feeds))


def load_program(
    spec: ModelSpec, folder: Path, schema: Schema, *, signature: str, weight_bytes: int, device: str, threads: int
) -> TensorFlowModel:
    """Raises ModelLoadFailed, ArtifactCorrupt, OutOfMemory."""
    _take_threads(threads)
    if device != "cpu":
        log.warning("device_fallback", model=spec.key, declared=device, device="cpu", why="tensorflow runs on the CPU")
    program = _opened(spec, folder, signature)
    batches = tried(spec, schema, program)
    program.tried()
    return TensorFlowModel(
        description=batches.schema.description(spec, proven=True),
        weight_bytes=weight_bytes,
        batches=batches,
        program=program,
    )


def _take_threads(threads: int) -> None:
    """Before TensorFlow's first use; it keeps them for the life of the process."""
    with contextlib.suppress(RuntimeError):  # it is in use
        tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def _opened(spec: ModelSpec, folder: Path, signature: str) -> Program:
    try:
        root = tf.saved_model.load(str(folder))
        return Program(spec.key, root, root.signatures[signature])
    except tf.errors.ResourceExhaustedError as cause:
        raise OutOfMemory(f"{spec.key}: its weights take more memory than there is") from cause
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as cause:
        raise ArtifactCorrupt(f"{spec.key}: its variables are damaged: {_short(cause, folder)}") from cause
    except Exception as cause:  # TensorFlow raises whatever it stumbles over
        said = f"TensorFlow {tf.__version__} cannot load it: {_short(cause, folder)}"
        raise ModelLoadFailed(f"{spec.key}: {said}") from cause


def _short(cause: Exception, folder: Path) -> str:
    return first_line(cause).replace(str(folder), "its folder")
