"""Batches of tensors, whatever library runs them: rows of several callers stacked, run, and parted again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import structlog

from modelmora.domain.models import ModelSpec
from modelmora.errors import InternalError, ModelLoadFailed, OutOfMemory
from runners import devices
from runners.inputs.preparing import shape_text
from runners.inputs.schema import Schema
from runners.payload import Parcel

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = structlog.get_logger(__name__)


class Run(Protocol):
    """One forward of a library."""

    @property
    def model(self) -> str:
        """Its `name@version`, for messages."""
        ...

    def __call__(self, feeds: Mapping[str, NDArray[Any]], wanted: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """The wanted outputs of the model's inputs."""
        ...

    def stop(self) -> None:
        """Ends what runs, where the library can; nothing is run afterwards."""
        ...


@dataclass(slots=True)
class Fits:
    """How many rows the memory took after it was too small for more (None: it never was)."""

    rows: int | None = None


@dataclass(frozen=True, slots=True)
class TensorBatches:
    """A model's forward for many callers."""

    schema: Schema
    run: Run
    fits: Fits = field(default_factory=Fits)

    def predict(self, batch: Sequence[Parcel]) -> list[Parcel]:
        """One parcel an item, with the outputs that it asked for; a model that takes no batches runs each alone.

        Of several items OutOfMemory is raised, and who asked parts them; one item of several rows is parted here.
        """
        if not self.schema.batches:
            return [self._alone(parcel) for parcel in batch]
        if len(batch) > 1:
            return self._together(batch)
        before = self.fits.rows
        try:
            return [self._in_parts(batch[0])]
        except (OutOfMemory, MemoryError):  # not the number of rows was at fault
            self.fits.rows = before
            raise

    def _in_parts(self, parcel: Parcel) -> Parcel:
        """The whole, or what does not fit into the memory in parts that do; they are remembered."""
        rows, fits = _rows(parcel), self.fits.rows
        if fits is None or rows <= fits:
            try:
                return self._together([parcel])[0]
            except (OutOfMemory, MemoryError):
                if rows == 1:
                    raise
            # After the block: what the failed forward held is free by now.
            devices.release()
            fits = self.fits.rows = (rows + 1) // 2
            log.warning("batch_too_large", model=self.run.model, items=1, rows=rows, fits=fits)
        return _joined([self._in_parts(part) for part in _parts(parcel, fits)])

    def _alone(self, parcel: Parcel) -> Parcel:
        wanted = self._wanted([self._asked(parcel)])
        given = self.run(parcel.tensors, wanted)
        return Parcel(tensors={name: given[name] for name in wanted})

    def _together(self, batch: Sequence[Parcel]) -> list[Parcel]:
        asked = [self._asked(parcel) for parcel in batch]
        wanted = self._wanted(asked)
        given = self.run(_stacked(batch), wanted)
        ends = np.cumsum([_rows(parcel) for parcel in batch]).tolist()
        for name in wanted:
            shape = given[name].shape
            if shape[:1] != (ends[-1],):
                said = f"its output {name!r} has the shape {shape_text(shape)} for {ends[-1]} rows"
                raise InternalError(f"{self.run.model}: {said}; declare shapes whose first axis is not called batch")
        starts = [0, *ends[:-1]]
        return [
            Parcel(tensors={name: given[name][start:end] for name in wanted if name in own}, rows=end - start)
            for own, start, end in zip(asked, starts, ends, strict=True)
        ]

    def _asked(self, parcel: Parcel) -> Sequence[str]:
        asked: Sequence[str] | None = parcel.options.get("outputs")
        return [one.name for one in self.schema.outputs] if asked is None else asked

    def _wanted(self, asked: Sequence[Sequence[str]]) -> list[str]:
        """What anybody asks for, in the order of the model."""
        return [one.name for one in self.schema.outputs if any(one.name in own for own in asked)]


def first_line(cause: BaseException) -> str:
    """What a library says, short."""
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]


def refuse_precision(spec: ModelSpec) -> None:
    """Raises ModelLoadFailed for any but the file's own."""
    if spec.precision not in ("fp32", "auto"):
        said = f"a model of provider {spec.provider} runs in the precision of its file; leave precision out"
        raise ModelLoadFailed(f"{spec.key}: {said}", field="precision", found=spec.precision)


def _stacked(batch: Sequence[Parcel]) -> Mapping[str, NDArray[Any]]:
    first = batch[0].tensors
    if len(batch) == 1:
        return first
    return {name: np.concatenate([parcel.tensors[name] for parcel in batch]) for name in first}


def _parts(parcel: Parcel, size: int) -> list[Parcel]:
    """So many rows each."""
    rows = _rows(parcel)
    return [
        Parcel(
            tensors={name: array[first : first + size] for name, array in parcel.tensors.items()},
            options=parcel.options,
            rows=min(size, rows - first),
        )
        for first in range(0, rows, size)
    ]


def _joined(parts: Sequence[Parcel]) -> Parcel:
    tensors = {name: np.concatenate([part.tensors[name] for part in parts]) for name in parts[0].tensors}
    return Parcel(tensors=tensors, rows=sum(part.rows for part in parts))


def _rows(parcel: Parcel) -> int:
    return len(next(iter(parcel.tensors.values())))
