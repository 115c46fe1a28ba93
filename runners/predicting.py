"""The API's side of tensor models: checks a request, prepares it here, computes it there slice by slice."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from modelmora.domain.description import Description
from modelmora.domain.faults import SHOWN, mismatch
from modelmora.domain.inference import Call, Timings
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed
from modelmora.domain.tensors import Tensor
from modelmora.errors import Fault, InternalError, SchemaMismatch
from modelmora.ports import Predicted
from modelmora.proto import runner_pb2 as pb
from runners.hop import wire
from runners.hop.errands import Errand, Errands
from runners.inputs.arrays import to_tensor
from runners.inputs.features import prepare
from runners.inputs.tensors import checked, rows_of
from runners.payload import Answer, Parcel

if TYPE_CHECKING:
    from numpy.typing import NDArray

AT_ONCE = 4
"""Slices of one request in flight: enough for the lanes, and a long table does not fill the queue for all others."""

SMALL = 16_384
"""Requests of so many bytes are checked on the loop: a hop to a thread would cost more."""


LARGE = 1_048_576
"""Outputs of so many bytes are put together on the loop; texts take as long as `TEXT` bytes each."""
TEXT = 1_024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of a request that go to a runner together: so many from `first` on."""

    first: int
    rows: int


class RunnerPredictor:
    """Implements the port Predictor over a fleet of runner workers."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands

    async def predict(
        self, model: ModelSpec, inputs: Mapping[str, Tensor], *, outputs: Sequence[str] = (), call: Call
    ) -> Predicted:
        with self._errands.permit(1):
            bulk, small = call.priority == "bulk", sum(len(tensor.data) for tensor in inputs.values()) <= SMALL
            description = await self._errands.describe(model, deadline=call.deadline)
            wanted = _wanted(outputs, description)
            if not description.proven:  # what is wrong in any case loads no model
                loose = _loose(description)
                await self._here(lambda: checked(inputs, loose), bulk=bulk, small=small)
                description = await self._errands.prove(model, deadline=call.deadline)
            arrays = await self._here(lambda: checked(inputs, description), bulk=bulk, small=small)
            work = _Request(Errand(model, "predict", description, call), arrays, wanted, small)
            rows = rows_of(inputs, description)
            with self._errands.permit(_at_once(rows, description) - 1):
                answers = await self._all(work, rows)
            return await self._here(lambda: _together(answers, wanted), bulk=bulk, small=_small(answers))

    async def _here(self, prepare: Callable[[], T], *, bulk: bool, small: bool) -> T:
        """On the loop what is quickly done, else in the decode threads."""
        return prepare() if small else await self._errands.in_turn(bulk, prepare)

    async def _all(self, work: _Request, rows: int) -> list[Answer]:
        """One answer a slice, in their order; the first that fails ends the others."""
        parts = _slices(rows, work.errand.description.max_batch)
        answers: dict[int, Answer] = {}

        async def in_turn() -> None:
            for part in parts:
                left = part
                while left.rows:
                    answers[left.first], done = await self._one(work, left)
                    left = Slice(left.first + done, left.rows - done)

        lanes = [asyncio.create_task(in_turn()) for _ in range(_at_once(rows, work.errand.description))]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
        return [answers[first] for first in sorted(answers)]

    async def _one(self, work: _Request, part: Slice) -> tuple[Answer, int]:
        """The answer to as many rows as there was room for. Prepared when its turn comes: only slices in flight take
        the memory of pictures."""
        limit, done = self._errands.settings.max_pixels, part.rows
        small = work.small and not work.errand.description.prepared

        async def fill(message: pb.Work) -> None:
            nonlocal done
            parcel = await self._here(
                lambda: wire.parcel_to_wire(work.parcel(part, max_pixels=limit)), bulk=message.bulk, small=small
            )
            message.parcel.CopyFrom(parcel)
            done = parcel.rows

        outcome = await self._errands.run(work.errand, fill)
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome.value, done


@dataclass(frozen=True, slots=True)
class _Request:
    """What the slices of one request have in common; a `small` one is looked at on the loop."""

    errand: Errand
    arrays: Mapping[str, NDArray[Any]]
    outputs: Sequence[str]
    small: bool

    def parcel(self, part: Slice, *, max_pixels: int) -> Parcel:
        """The model's inputs of these rows, or of the first of them; raises SchemaMismatch for what cannot be prepared,
        LimitExceeded."""
        description, arrays = self.errand.description, self.arrays
        if description.batches:
            arrays = {name: array[part.first : part.first + part.rows] for name, array in arrays.items()}
        tensors, rows = prepare(
            arrays,
            description.prepared,
            first=part.first,
            rows=part.rows,
            max_pixels=max_pixels,
            whole=not description.batches,
        )
        every = len(self.outputs) == len(description.outputs)
        return Parcel(tensors=tensors, rows=rows, options={} if every else {"outputs": list(self.outputs)})


def _loose(description: Description) -> Description:
    """As far as it is certain before it is proven: that the first axes are one batch is not."""
    return replace(description, inputs=tuple(replace(one, shape=(None, *one.shape[1:])) for one in description.inputs))


def _slices(rows: int, most: int) -> Iterator[Slice]:
    return (Slice(first, min(most, rows - first)) for first in range(0, rows, most))


def _at_once(rows: int, description: Description) -> int:
    """Slices in flight of a request of so many rows."""
    return min(AT_ONCE, -(-rows // description.max_batch))


def _wanted(outputs: Sequence[str], description: Description) -> tuple[str, ...]:
    """The outputs asked for, all where none is; raises SchemaMismatch with the names there are not."""
    there = [spec.name for spec in description.outputs]
    faults = list[Fault]()
    for name in dict.fromkeys(outputs):
        if len(faults) > SHOWN:
            break
        if name not in there:
            near = difflib.get_close_matches(name[:80], there, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            said = f"{description.model} has no output {name[:80]!r}{hint}"
            faults.append(Fault(SchemaMismatch.code, said, field="outputs", found=name[:80], expected=", ".join(there)))
    if faults:
        raise mismatch(faults)
    return tuple(dict.fromkeys(outputs)) or tuple(there)


def _together(answers: Sequence[Answer], wanted: Sequence[str]) -> Predicted:
    """The slices' outputs one below the other, and the longest of each stage."""
    parcels = [cast(Parcel, answer.body) for answer in answers]
    try:
        outputs = {name: to_tensor(_joined([parcel.tensors[name] for parcel in parcels])) for name in wanted}
    except (KeyError, ValueError) as cause:
        raise InternalError(f"the model's outputs for parts of the request do not fit together: {cause}") from cause
    timings = [answer.timings for answer in answers]
    return Predicted(
        outputs=outputs,
        timings=Timings(
            queue_ms=max(one.queue_ms for one in timings),
            preprocess_ms=max(one.preprocess_ms for one in timings),
            inference_ms=max(one.inference_ms for one in timings),
        ),
    )


def _small(answers: Sequence[Answer]) -> bool:
    """Whether the outputs are quickly put together."""
    arrays = [array for answer in answers for array in cast(Parcel, answer.body).tensors.values()]
    return sum(array.size * TEXT if array.dtype == np.object_ else array.nbytes for array in arrays) <= LARGE


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
