"""Tensors as values: a dtype, a shape and little-endian bytes; and what a model says of those it takes and gives."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from types import MappingProxyType
from typing import Literal

DType = Literal[
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "bytes",
]
"""numpy's names; `bytes` is a text or a file an element."""

ITEM_BYTES: Mapping[DType, int] = MappingProxyType(
    {
        "bool": 1,
        "uint8": 1,
        "uint16": 2,
        "uint32": 4,
        "uint64": 8,
        "int8": 1,
        "int16": 2,
        "int32": 4,
        "int64": 8,
        "float16": 2,
        "float32": 4,
        "float64": 8,
    }
)
"""What an element takes; `bytes` has no fixed size."""

_LENGTH = struct.Struct("<I")

FLOATS: frozenset[DType] = frozenset({"float16", "float32", "float64"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A dense tensor, row-major, little-endian.

    An element of `bytes` is its length as an unsigned 32-bit number, then its content (the binary form of the Open
    Inference Protocol).
    """

    dtype: DType
    shape: tuple[int, ...]
    data: bytes

    @property
    def elements(self) -> int:
        return prod(self.shape)


Axis = int | str | None
"""The size of an axis, the name of one that may differ (equal names have equal sizes in a request), or None: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """What a model takes or gives under a name. The first axis of a model that takes batches is their size.

    `low` and `high` are the least and the largest value that is taken. `labels` name the places of the last axis; those
    of an input of `bytes` are the texts it may hold. With `gaps` single values may be missing: NaN, or an empty text;
    one that is `optional` may be left out. The `bytes` of a `text` are UTF-8.
    """

    name: str
    dtype: DType
    shape: tuple[Axis, ...]
    low: float | None = None
    high: float | None = None
    labels: tuple[str, ...] = ()
    optional: bool = False
    gaps: bool = False
    text: bool = False


def pack(elements: Iterable[bytes]) -> bytes:
    """Elements of `bytes` as they stand in `Tensor.data`."""
    contents = list(elements)
    lengths = map(_LENGTH.pack, map(len, contents))
    return b"".join(chain.from_iterable(zip(lengths, contents, strict=True)))


def unpack(data: bytes) -> list[bytes]:
    """The elements of a `bytes` tensor; raises ValueError where the lengths do not fit the data."""
    elements, at, end = list[bytes](), 0, len(data)
    while at < end:
        begin = at + 4
        if begin > end:
            raise ValueError(f"{end - at} bytes are left where a length of 4 bytes is due")
        (length,) = _LENGTH.unpack_from(data, at)
        at = begin + length
        if at > end:
            raise ValueError(f"an element says it has {length} bytes; {end - begin} are left")
        elements.append(data[begin:at])
    return elements
