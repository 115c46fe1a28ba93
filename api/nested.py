"""Nested lists of JSON as tensors of a declared dtype: strictly, and what does not fit is told with its place."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from modelmora.domain.tensors import FLOATS, DType, Tensor, pack
from modelmora.errors import SchemaMismatch

RANK = 32
"""Lists in lists in lists, so deep at most."""

_TEXT = 'a text, or {"b64": ...} with the base64 of bytes'
_KINDS: Mapping[str, tuple[str, frozenset[type]]] = MappingProxyType(
    {
        "bool": ("true or false", frozenset({bool})),
        "bytes": (_TEXT, frozenset({str, dict})),
        **dict.fromkeys(FLOATS, ("a number", frozenset({int, float}))),
    }
)
_MISSING: Mapping[str, Any] = MappingProxyType({"bytes": "", **dict.fromkeys(FLOATS, math.nan)})
_INTEGER = ("an integer", frozenset({int}))


@dataclass(frozen=True, slots=True)
class Elements:
    """A tensor's elements row by row, in the shape in which they came; `field` is where: `inputs.x`."""

    flat: Sequence[Any]
    shape: tuple[int, ...]
    field: str

    def refuse(self, index: int, detail: str, expected: str) -> NoReturn:
        """Raises SchemaMismatch of the `index`th element, told by its place: `inputs.x[3][1]`."""
        place = self.place(index)
        raise SchemaMismatch(f"{place}: {detail}", field=place, found=_shown(self.flat[index]), expected=expected)

    def place(self, index: int) -> str:
        places = list[int]()
        for size in reversed(self.shape):
            index, place = divmod(index, size)
            places.append(place)
        return self.field + "".join(f"[{place}]" for place in reversed(places))


def tensor_of(value: Any, dtype: DType, field: str, *, gaps: bool = False) -> Tensor:
    """`value` in the shape that it has; raises SchemaMismatch. With `gaps` null is a value that is missing."""
    elements = elements_of(value, field)
    return Tensor(dtype=dtype, shape=elements.shape, data=packed(elements, dtype, gaps=gaps))


def elements_of(value: Any, field: str) -> Elements:
    """The lists taken apart, level by level; raises SchemaMismatch where those of one level differ in length."""
    level, shape = [value], tuple[int, ...]()
    while list in (kinds := set(map(type, level))):
        if len(kinds) > 1 or len(set(map(len, level))) > 1:
            _ragged(Elements(level, shape, field))
        if len(shape) == RANK:
            raise SchemaMismatch(f"{field}: lists more than {RANK} deep", field=field, expected=f"at most {RANK} axes")
        shape = (*shape, len(level[0]))
        level = level[0] if len(level) == 1 else list(chain.from_iterable(level))
    return Elements(level, shape, field)


def packed(elements: Elements, dtype: DType, *, gaps: bool = False) -> bytes:
    """Little-endian. What only nearly fits is refused (SchemaMismatch): a text or a boolean is no number, 2.0 no
    integer. Of a missing value NaN or an empty text."""
    if gaps and dtype in _MISSING:
        elements = replace(elements, flat=[_MISSING[dtype] if one is None else one for one in elements.flat])
    flat = elements.flat
    expected, kinds = _KINDS.get(dtype, _INTEGER)
    if not kinds.issuperset(map(type, flat)):
        wrong = next(i for i, one in enumerate(flat) if type(one) not in kinds)
        elements.refuse(wrong, f"{_shown(flat[wrong])} where {expected} is due", expected)
    if dtype == "bytes":
        return pack(_content(elements, index) for index in range(len(flat)))
    if dtype == "bool":
        return np.array(flat, np.bool_).tobytes()
    return _floats(elements, dtype, gaps) if dtype in FLOATS else _integers(elements, dtype)


def _floats(elements: Elements, dtype: DType, gaps: bool) -> bytes:
    with np.errstate(over="ignore"):
        array = np.array(elements.flat, np.float64).astype(np.dtype(dtype).newbyteorder("<"))
    good = np.isfinite(array) | np.isnan(array) if gaps else np.isfinite(array)
    if not good.all():
        wrong = int(np.argmin(good))
        value = elements.flat[wrong]
        said = f"out of the range of {dtype}" if math.isfinite(value) else "no finite number"
        limit = float(np.finfo(dtype).max)
        elements.refuse(wrong, f"{value} is {said}", f"a number from {-limit:g} to {limit:g} ({dtype})")
    return array.tobytes()


def _integers(elements: Elements, dtype: DType) -> bytes:
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    flat = elements.flat
    if flat and not (low <= min(flat) and max(flat) <= high):
        wrong = next(i for i, one in enumerate(flat) if not low <= one <= high)
        said = f"{flat[wrong]} is out of the range of {dtype}"
        elements.refuse(wrong, said, f"an integer from {low} to {high} ({dtype})")
    return np.array(flat, np.dtype(dtype).newbyteorder("<")).tobytes()


def _content(elements: Elements, index: int) -> bytes:
    """Of a text its UTF-8, of `{"b64": ...}` what it stands for."""
    one = elements.flat[index]
    if isinstance(one, str):
        return one.encode()
    if one.keys() != {"b64"} or not isinstance(one["b64"], str):
        elements.refuse(index, f"{_shown(one)} where {_TEXT} is due", _TEXT)
    try:
        return base64.b64decode(one["b64"], validate=True)
    except (binascii.Error, ValueError) as cause:
        elements.refuse(index, f"not base64: {cause}", "base64")


def _ragged(level: Elements) -> NoReturn:
    """Of the first that is unlike the first of its level."""
    like = level.flat[0]
    wrong = next(i for i, one in enumerate(level.flat) if _length(one) != _length(like))
    detail = f"{_shown(level.flat[wrong])} beside {_shown(like)}: the lists of a tensor have equal lengths"
    level.refuse(wrong, detail, f"{_shown(like)}, as at {level.place(0)}")


def _length(one: Any) -> int | None:
    return len(one) if isinstance(one, list) else None


def _shown(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {value[:30]!r}"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
    return str(value)[:40]
