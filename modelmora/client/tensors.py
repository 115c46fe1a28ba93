"""Tensors as a caller has them: lists, numpy's arrays or `Tensor`, and those of an answer as lists or arrays."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from modelmora.domain.tensors import ITEM_BYTES, DType, Tensor, pack, unpack
from modelmora.errors import InternalError, ValidationFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    Given: TypeAlias = Tensor | ArrayLike

DTYPES: tuple[DType, ...] = get_args(DType)
_FORMATS: Mapping[DType, str] = {
    "bool": "?",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "float16": "e",
    "float32": "f",
    "float64": "d",
}
_DEPTH = 32
"""More axes than that no array has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Array(Tensor):
    """A tensor of an answer; `numpy.asarray(array)` makes a read-only view, `tolist()` needs no numpy."""

    def tolist(self) -> Any:
        """Nested lists of Python's values; the single value of a tensor without axes. `bytes` stay bytes."""
        return _nested(iter(self._elements()), self.shape)

    def to_array(self) -> NDArray[Any]:
        """Of numpy, read-only; `bytes` become an array of objects."""
        import numpy as np  # noqa: PLC0415 - numpy is an extra; only who calls this has it

        if self.dtype == "bytes":
            elements = np.empty(self.elements, dtype=np.object_)
            elements[:] = unpack(self.data)
            elements.setflags(write=False)
            return elements.reshape(self.shape)
        return np.frombuffer(self.data, np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        import numpy as np  # noqa: PLC0415 - as above

        return np.array(self.to_array(), dtype=dtype, copy=copy)

    def _elements(self) -> Sequence[Any]:
        if self.dtype == "bytes":
            return unpack(self.data)
        return struct.unpack(f"<{self.elements}{_FORMATS[self.dtype]}", self.data)


def tensor(values: Any, dtype: DType | None = None) -> Tensor:
    """Of nested lists (a number, a truth value, a text or bytes an element), or of an array.

    Untold, whole numbers of lists are int64, numbers with a point among them float32, texts and bytes `bytes`; an array
    keeps its dtype. Raises ValidationFailed: ragged lists, elements that are not of one kind or do not fit the dtype.
    """
    if hasattr(values, "__array__"):
        return _of_array(values, dtype)
    flat, shape = _flattened(values)
    if any(hasattr(one, "__array__") for one in flat):  # numpy's own numbers, or a list of arrays
        return _of_array(values, dtype)
    kind = dtype or _natural(flat)
    if kind not in DTYPES:
        raise ValidationFailed("no such dtype", field="dtype", found=str(kind)[:40], expected=", ".join(DTYPES))
    try:
        if kind == "bytes":
            return Tensor(dtype=kind, shape=shape, data=pack(map(_as_bytes, flat)))
        if kind == "bool" and not all(isinstance(one, bool) for one in flat):
            raise TypeError("an element is no truth value")
        return Tensor(dtype=kind, shape=shape, data=struct.pack(f"<{len(flat)}{_FORMATS[kind]}", *flat))
    except (struct.error, TypeError, OverflowError, UnicodeEncodeError) as cause:
        raise ValidationFailed(f"an element is no {kind}: {cause}", field="dtype", expected=kind) from cause


def tensor_of(name: str, given: Any) -> Tensor:
    """What a caller gave as the input of a name; raises ValidationFailed naming it."""
    try:
        return _checked(given) if isinstance(given, Tensor) else tensor(given)
    except ValidationFailed as error:
        field = f"inputs.{name[:80]}"
        raise ValidationFailed(
            f"{field}: {error.detail}", field=field, found=error.found, expected=error.expected
        ) from error


def received(dtype: str, shape: Sequence[int], data: bytes, *, name: str) -> Array:
    """A tensor that a server sent; raises InternalError where its bytes are not those of its dtype and shape."""
    known = next((one for one in DTYPES if one == dtype), None)
    if known is None:
        raise InternalError(
            f"the server sent {name!r} as {dtype[:40]!r}, which is no dtype", field=name, found=dtype[:40]
        )
    found, due = len(data), prod(shape) * ITEM_BYTES.get(known, 0)
    if known == "bytes":
        found, due = _count(data), prod(shape)
    if found != due or min(shape, default=0) < 0:
        said = f"the server sent {name!r} as {known} {list(shape)} with another number of elements"
        raise InternalError(said, field=name, found=str(found), expected=str(due))
    return Array(dtype=known, shape=tuple(shape), data=data)


def _checked(given: Tensor) -> Tensor:
    """That it can be sent; whether it is what its dtype and shape say is the server's to tell."""
    if given.dtype not in DTYPES:
        raise ValidationFailed("no such dtype", field="dtype", found=str(given.dtype)[:40], expected=", ".join(DTYPES))
    if not all(isinstance(size, int) and 0 <= size < 2**32 for size in given.shape):
        raise ValidationFailed("no shape", field="shape", found=str(given.shape)[:40], expected="sizes of axes")
    return given


def _count(data: bytes) -> int:
    """Of the elements; -1 where the lengths do not fit the data."""
    try:
        return len(unpack(data))
    except ValueError:
        return -1


def _of_array(given: Any, dtype: DType | None) -> Tensor:
    """Whoever holds an array has imported numpy, or what can make one."""
    import numpy as np  # noqa: PLC0415 - numpy is an extra; only who calls this has it

    try:
        array = np.asarray(given, dtype=None if dtype == "bytes" else dtype)
    except (TypeError, ValueError, RuntimeError) as cause:  # ragged, of no such dtype, on a device
        raise ValidationFailed(f"no array can be made of it: {cause}", field="values", expected="an array") from cause
    if array.dtype.kind in "OSU":
        return Tensor(dtype="bytes", shape=array.shape, data=tensor(array.ravel().tolist(), "bytes").data)
    known = next((one for one in DTYPES if one == array.dtype.name), None)
    if known is None:
        expected = ", ".join(DTYPES)
        raise ValidationFailed("no such dtype", field="dtype", found=array.dtype.name[:40], expected=expected)
    little = np.asarray(array, dtype=array.dtype.newbyteorder("<"))
    return Tensor(dtype=known, shape=array.shape, data=little.tobytes())


def _flattened(values: Any) -> tuple[list[Any], tuple[int, ...]]:
    """The elements row by row, and the shape; raises ValidationFailed where the lists are ragged."""
    level, shape = [values], list[int]()
    while level and any(isinstance(one, list | tuple) for one in level):
        sizes = {len(one) if isinstance(one, list | tuple) else -1 for one in level}
        if len(sizes) > 1 or len(shape) == _DEPTH:
            expected = "lists of one length along each axis"
            raise ValidationFailed("the lists are ragged", field="values", found=_told(sizes), expected=expected)
        shape.append(sizes.pop())
        level = [element for one in level for element in one]
    return level, tuple(shape)


def _told(sizes: set[int]) -> str:
    return ", ".join("no list" if size < 0 else f"a list of {size}" for size in sorted(sizes)[:3])


def _natural(flat: Sequence[Any]) -> DType:
    kinds = {type(one) for one in flat}
    if kinds == {bool}:
        return "bool"
    if kinds == {int}:
        return "int64"
    if kinds <= {int, float}:
        return "float32"
    if kinds <= {str, bytes}:
        return "bytes"
    found = ", ".join(sorted(kind.__name__ for kind in kinds))[:80]
    raise ValidationFailed(
        "the elements are of no kind that can be sent",
        field="values",
        found=found,
        expected="one kind: " + ", ".join(_KINDS),
    )


_KINDS = ("numbers", "truth values", "texts or bytes")


def _as_bytes(element: Any) -> bytes:
    if isinstance(element, str):
        return element.encode()
    if isinstance(element, bytes):
        return element
    raise TypeError(f"{type(element).__name__} is neither a text nor bytes")


def _nested(elements: Iterator[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return next(elements)
    if len(shape) == 1:
        return list(islice(elements, shape[0]))
    return [_nested(elements, shape[1:]) for _ in range(shape[0])]
