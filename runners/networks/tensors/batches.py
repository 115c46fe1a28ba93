"""Batches of tensors, whatever library runs them: rows of several callers stacked, run, and parted again."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from modelmora.domain.models import ModelSpec
from modelmora.domain.tensors import TensorSpec
from modelmora.errors import InternalError, ModelLoadFailed, OutOfMemory
from runners.inputs.preparing import shape_text
from runners.inputs.schema import Schema
from runners.payload import Parcel

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")

TRY_S = 60.0
"""So long a sample of two rows may take. A graph that never ends must not keep the thread that loads models."""


class Run(Protocol):
    """One forward of a library."""

    def __call__(self, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """The wanted outputs of the model's inputs."""
        ...

    def stop(self) -> None:
        """Ends what runs, where the library can; nothing is run afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class TensorBatches:
    """A model's forward for many callers."""

    schema: Schema
    run: Run

    def predict(self, batch: Sequence[Parcel]) -> list[Parcel]:
        """One parcel an item, with the outputs that it asked for; a model that takes no batches runs each alone."""
        if self.schema.batches:
            return self._together(batch)
        return [one for parcel in batch for one in self._together([parcel])]

    def sample(self, rows: int = 1) -> Parcel:
        """Zeros, or the least that is allowed; texts and pictures where there are bytes."""
        inputs = [spec for spec in self.schema.inputs if not spec.optional]
        tensors = {spec.name: _filled(spec, self.schema.sample_shape(spec)) for spec in inputs}
        return Parcel(
            tensors={name: np.concatenate([one] * rows) for name, one in tensors.items()} if rows > 1 else tensors,
            rows=rows,
        )

    def try_out(self, spec: ModelSpec) -> None:
        """Runs a sample, of two rows where they can be; raises ModelLoadFailed where it fails or is not as declared."""
        sample = self.sample(rows=2 if self.schema.batches else 1)
        try:
            (given,) = _in_time(lambda: self.predict([sample]), TRY_S)
        except TimeoutError as cause:
            self.run.stop()
            raise ModelLoadFailed(f"{spec.key}: it has not come back from a sample for {TRY_S:.0f} s") from cause
        except InternalError as error:
            raise ModelLoadFailed(f"{spec.key}: {error.detail}", field="config.outputs") from error
        except OutOfMemory:
            raise
        except Exception as cause:
            shapes = ", ".join(f"{name} {shape_text(one.shape)}" for name, one in sample.tensors.items())
            raise ModelLoadFailed(
                f"{spec.key}: it does not run on a sample of {shapes}: {first_line(cause)}; where only other sizes are "
                "possible, config.sample gives the sizes of named axes",
                field="config.sample",
                found=shapes,
            ) from cause
        self._check(spec, given)

    def _together(self, batch: Sequence[Parcel]) -> list[Parcel]:
        names = [one.name for one in self.schema.outputs]
        asked = [parcel.options.get("outputs", names) for parcel in batch]
        wanted = [name for name in names if any(name in one for one in asked)]
        given = self.run(_stacked(batch), wanted)
        if len(batch) == 1 and not self.schema.batches:
            return [Parcel(tensors={name: given[name] for name in wanted})]
        ends = np.cumsum([_rows(parcel) for parcel in batch]).tolist()
        for name in wanted:
            shape = given[name].shape
            if shape[:1] != (ends[-1],):
                said = f"its output {name!r} has the shape {shape_text(shape)} for {ends[-1]} rows"
                raise InternalError(f"{said}; declare shapes whose first axis is not called batch")
        starts = [0, *ends[:-1]]
        return [
            Parcel(tensors={name: given[name][start:end] for name in wanted if name in own}, rows=end - start)
            for own, start, end in zip(asked, starts, ends, strict=True)
        ]

    def _check(self, spec: ModelSpec, given: Parcel) -> None:
        """Whether the outputs are as the schema has them."""
        for one in self.schema.outputs:
            array = given.tensors[one.name]
            found = "bytes" if array.dtype.kind in "OSU" else array.dtype.name
            fits = len(array.shape) == len(one.shape) and all(
                not isinstance(axis, int) or axis == size for axis, size in zip(one.shape, array.shape, strict=True)
            )
            if found != one.dtype or not fits:
                said = f"gives {found} {shape_text(array.shape)}, not {one.dtype} {shape_text(one.shape)}"
                raise ModelLoadFailed(f"{spec.key}: its output {one.name!r} {said}", field="config.outputs")


def first_line(cause: BaseException) -> str:
    """What a library says, short."""
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]


def refuse_precision(spec: ModelSpec) -> None:
    """Raises ModelLoadFailed for any but the file's own."""
    if spec.precision not in ("fp32", "auto"):
        said = f"a model of provider {spec.provider} runs in the precision of its file; leave precision out"
        raise ModelLoadFailed(f"{spec.key}: {said}", field="precision", found=spec.precision)


def _in_time(work: Callable[[], T], seconds: float) -> T:
    """In a thread that is left behind when it does not come back; raises what the work raises, and TimeoutError."""
    future = Future[T]()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as cause:
            future.set_exception(cause)

    threading.Thread(target=run, name="sample", daemon=True).start()
    return future.result(seconds)


def _stacked(batch: Sequence[Parcel]) -> Mapping[str, NDArray[Any]]:
    first = batch[0].tensors
    if len(batch) == 1:
        return first
    return {name: np.concatenate([parcel.tensors[name] for parcel in batch]) for name in first}


def _rows(parcel: Parcel) -> int:
    return len(next(iter(parcel.tensors.values())))


def _filled(spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    if spec.dtype == "bytes":
        array = np.empty(shape, dtype=object)
        array.fill(spec.labels[0].encode() if spec.labels else b"a" if spec.text else _picture())
        return array
    return np.full(
        shape, max(spec.low or 0, 0) if spec.high is None else min(max(spec.low or 0, 0), spec.high), spec.dtype
    )


@cache
def _picture() -> bytes:
    """A file: where a model takes bytes that are no text, they are most often a picture's."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    return file.getvalue()
