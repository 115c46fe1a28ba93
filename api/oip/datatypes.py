"""The protocol's names of element types, and shapes as it writes them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, TypeGuard

from modelmora.domain.tensors import ITEM_BYTES, Axis, DType, Tensor
from modelmora.errors import ValidationFailed

DTYPES: Mapping[str, DType] = MappingProxyType(
    {
        "BOOL": "bool",
        "UINT8": "uint8",
        "UINT16": "uint16",
        "UINT32": "uint32",
        "UINT64": "uint64",
        "INT8": "int8",
        "INT16": "int16",
        "INT32": "int32",
        "INT64": "int64",
        "FP16": "float16",
        "FP32": "float32",
        "FP64": "float64",
        "BYTES": "bytes",
    }
)
DATATYPES: Mapping[DType, str] = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})
"""The same the other way round."""

CONFIG_TYPES: Mapping[DType, str] = MappingProxyType(
    {dtype: "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}" for dtype, name in DATATYPES.items()}
)
"""What Triton's model configuration calls them."""

RANK = 32
"""Axes at most."""


def dtype_of(datatype: object, field: str) -> DType:
    """Raises ValidationFailed on a datatype that is none, and on BF16."""
    dtype = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is not None:
        return dtype
    detail = "BF16 is not taken; send FP32 or FP16" if datatype == "BF16" else "no such datatype"
    raise ValidationFailed(detail, field=field, found=glimpse(datatype), expected=", ".join(DTYPES))


def shape_of(value: object, field: str) -> tuple[int, ...]:
    """Raises ValidationFailed on anything but a list of sizes."""
    if not _sizes(value):
        raise ValidationFailed(
            "the shape is no list of sizes", field=field, found=glimpse(value), expected=f"at most {RANK} integers >= 0"
        )
    return tuple(value)


def _sizes(value: object) -> TypeGuard[Sequence[int]]:
    return isinstance(value, list) and len(value) <= RANK and all(type(size) is int and size >= 0 for size in value)


def sizes_told(shape: Sequence[Axis]) -> list[int]:
    """A declared shape; -1 is an axis of any size."""
    return [axis if isinstance(axis, int) else -1 for axis in shape]


def tensor_of(raw: bytes, dtype: DType, shape: tuple[int, ...], field: str) -> Tensor:
    """A tensor of its binary form; the lengths within one of BYTES are not looked at.

    Raises ValidationFailed where the number of bytes is not that of the shape, or a BOOL is neither 0 nor 1.
    """
    due = prod(shape) * ITEM_BYTES.get(dtype, 4)
    if len(raw) < due or (len(raw) > due and dtype != "bytes"):
        raise ValidationFailed(
            f"the data has {len(raw)} bytes; {DATATYPES[dtype]} {list(shape)} has {due}",
            field=field,
            found=f"{len(raw)} bytes",
            expected=f"{due} bytes" + (" or more: 4 for each element's length" if dtype == "bytes" else ""),
        )
    if dtype == "bool" and (others := raw.translate(None, b"\0\1")):
        raise ValidationFailed("a BOOL is neither 0 nor 1", field=field, found=str(others[0]), expected="0 or 1")
    return Tensor(dtype=dtype, shape=shape, data=raw)


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def glimpse(value: object) -> str:
    """A value as an error shows it, however large it is."""
    return reprlib.repr(value)[:80]
