"""A request's tensors held against what the model declares: everything that is wrong is told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from modelmora.domain.description import Description
from modelmora.domain.faults import mismatch
from modelmora.domain.features import Categories, Table
from modelmora.domain.tensors import FLOATS, ITEM_BYTES, Tensor, TensorSpec
from modelmora.errors import Fault, SchemaMismatch
from runners.inputs.arrays import to_array
from runners.inputs.preparing import shape_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LONG = 80
"""Characters of a name or text that came, as messages show it."""


def checked(inputs: Mapping[str, Tensor], description: Description) -> dict[str, NDArray[Any]]:
    """The arrays of a request, over its own bytes; raises SchemaMismatch with every fault."""
    specs = {spec.name: spec for spec in description.inputs}
    faults = [*_names(inputs, specs, description.model)]
    sizes, known = _Sizes(), _known(description)
    arrays: dict[str, NDArray[Any]] = {}
    for name, spec in specs.items():
        if name in inputs:
            wrong = [*_form(inputs[name], spec), *sizes.differences(inputs[name], spec)]
            array = None if wrong else _array(inputs[name], spec, wrong)
            faults += wrong
            if array is not None:
                arrays[name] = array
                faults += [*_values(array, spec), *_categories(array, spec, known.get(name))]
    if not inputs and not faults:
        faults.append(_fault("", "the request has no inputs", expected=", ".join(specs)))
    if faults:
        raise mismatch(faults)
    return arrays


def rows_of(inputs: Mapping[str, Tensor], description: Description) -> int:
    """The size of the batch that a checked request is; 1 of a model that takes none."""
    return next(iter(inputs.values())).shape[0] if description.batches else 1


@dataclass(slots=True)
class _Sizes:
    """The axes with names that were seen: each has one size throughout a request."""

    seen: dict[str, tuple[int, str]] = field(default_factory=dict)

    def differences(self, tensor: Tensor, spec: TensorSpec) -> Iterator[Fault]:
        for axis, size in zip(spec.shape, tensor.shape, strict=False):
            if not isinstance(axis, str) or len(spec.shape) != len(tensor.shape):
                continue
            before, where = self.seen.setdefault(axis, (size, spec.name))
            if before != size:
                said = f"{spec.name!r} has {size} where {where!r} has {before}: axis {axis!r} is the same in both"
                yield _fault(spec.name, said, found=shape_text(tensor.shape), expected=f"{axis} = {before}")


def _names(inputs: Mapping[str, Tensor], specs: Mapping[str, TensorSpec], model: str) -> Iterator[Fault]:
    for name in inputs:
        if name not in specs:
            near = difflib.get_close_matches(name[:_LONG], specs, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            said = f"{model} has no input {name[:_LONG]!r}{hint}"
            yield _fault(name, said, found=name[:_LONG], expected=", ".join(specs) or "no inputs")
    for name, spec in specs.items():
        if name not in inputs and not spec.optional:
            yield _fault(name, f"the input {name!r} is missing", found="nothing", expected=_declared(spec))


def _form(tensor: Tensor, spec: TensorSpec) -> Iterator[Fault]:
    if tensor.dtype != spec.dtype:
        said = f"{spec.name!r} is of {tensor.dtype}, not {spec.dtype}"
        yield _fault(spec.name, said, found=tensor.dtype, expected=spec.dtype)
    fits = len(tensor.shape) == len(spec.shape) and all(
        not isinstance(axis, int) or axis == size for axis, size in zip(spec.shape, tensor.shape, strict=True)
    )
    found, expected = shape_text(tensor.shape), shape_text(spec.shape)
    if not fits:
        yield _fault(spec.name, f"{spec.name!r} has the shape {found}, not {expected}", found=found, expected=expected)
    elif any(size < 1 for size in tensor.shape):
        said = f"{spec.name!r} is empty: its shape is {found}"
        yield _fault(spec.name, said, found=found, expected="at least 1 along every axis")


def _array(tensor: Tensor, spec: TensorSpec, wrong: list[Fault]) -> NDArray[Any] | None:
    """The tensor's values; None, and what is `wrong`, where its bytes are not as many as its shape says."""
    if tensor.dtype != "bytes" and len(tensor.data) != (due := prod(tensor.shape) * ITEM_BYTES[tensor.dtype]):
        said = f"{spec.name!r} has {len(tensor.data)} bytes; {tensor.dtype} {shape_text(tensor.shape)} takes {due}"
        wrong.append(_fault(spec.name, said, found=f"{len(tensor.data)} bytes", expected=f"{due} bytes"))
        return None
    try:
        return to_array(tensor)
    except ValueError as cause:
        said = f"{spec.name!r} cannot be read: {cause}"
        wrong.append(_fault(spec.name, said, expected="each element after its length in 4 bytes"))
        return None


def _values(array: NDArray[Any], spec: TensorSpec) -> Iterator[Fault]:
    if spec.dtype == "bytes":
        yield from _texts(array, spec)
    elif spec.dtype == "bool":
        if (wrong := array.view(np.uint8) > 1).any():
            yield _value(array.view(np.uint8), wrong, spec, "booleans that are neither 0 nor 1", "0 or 1")
    else:
        yield from _numbers(array, spec)


def _known(description: Description) -> dict[str, Sequence[int]]:
    """The categories of the columns of integers that take no others; those of texts are their labels."""
    columns = [column for one in description.prepared if isinstance(one, Table) for column in one.columns]
    return {
        column.name: column.numbers
        for column in columns
        if isinstance(column, Categories) and column.numbers and column.unknown == "refuse"
    }


def _categories(array: NDArray[Any], spec: TensorSpec, known: Sequence[int] | None) -> Iterator[Fault]:
    """Here and not slice by slice: nothing is computed of a table with a row that is refused."""
    wrong = np.False_ if known is None else ~np.isin(array, known)
    if known is not None and np.any(wrong):
        expected = ", ".join(map(str, known[:20])) + (", ..." if len(known) > 20 else "")
        yield _value(array, wrong, spec, "integers that are none of its categories", expected)


def _numbers(array: NDArray[Any], spec: TensorSpec) -> Iterator[Fault]:
    missing = np.False_
    if spec.dtype in FLOATS:
        missing = np.isnan(array) if spec.gaps else np.False_
        strange = ~(np.isfinite(array) | missing)
        if strange.any():
            yield _value(array, strange, spec, "values that are not finite", "finite numbers")
            missing = missing | strange
    low, high = spec.low, spec.high
    with np.errstate(over="ignore"):  # a bound beyond the dtype is infinity there
        outside = np.False_ if low is None else array < low
        outside = (outside if high is None else outside | (array > high)) & ~missing
    if np.any(outside):
        expected = f"{'any' if low is None else f'{low:g}'} to {'any' if high is None else f'{high:g}'}"
        yield _value(array, outside, spec, f"values outside {expected}", expected)


def _texts(array: NDArray[Any], spec: TensorSpec) -> Iterator[Fault]:
    if not spec.text and not spec.labels:
        return
    known, unreadable, unknown = frozenset(spec.labels), list[bool](), list[bool]()
    for element in array.ravel().tolist():
        text = _read(element)
        unreadable.append(text is None)
        unknown.append(text is not None and bool(known) and text not in known and not (spec.gaps and not text))
    if any(unreadable):
        yield _value(array, np.reshape(unreadable, array.shape), spec, "texts that are not UTF-8", "UTF-8")
    if any(unknown):
        expected = ", ".join(spec.labels[:20]) + (", ..." if len(spec.labels) > 20 else "")
        yield _value(array, np.reshape(unknown, array.shape), spec, "texts that the model does not know", expected)


def _read(element: bytes) -> str | None:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return None


def _value(
    array: NDArray[Any], wrong: NDArray[np.bool_] | np.bool_, spec: TensorSpec, what: str, expected: str
) -> Fault:
    """How many values are wrong, and the first of them with its place."""
    place = np.unravel_index(int(np.argmax(wrong)), array.shape) if array.ndim else ()
    at = "".join(f"[{index}]" for index in place)
    value = array[place]
    shown = _quoted(value) if isinstance(value, bytes) else str(value)
    share = f"{np.count_nonzero(wrong)} of {array.size}"
    said = f"{spec.name!r} has {what} ({share}); the first is {shown}{f' at {at}' if at else ''}"
    return Fault(SchemaMismatch.code, said, field=f"inputs.{spec.name}{at}", found=shown, expected=expected)


def _quoted(element: bytes) -> str:
    text = _read(element)
    return repr(element[:_LONG] if text is None else text[:_LONG])


def _fault(name: str, said: str, *, found: str | None = None, expected: str | None = None) -> Fault:
    place = f"inputs.{name[:_LONG]}" if name else "inputs"
    return Fault(SchemaMismatch.code, said, field=place, found=found, expected=expected)


def _declared(spec: TensorSpec) -> str:
    return f"{spec.dtype} {shape_text(spec.shape)}"
