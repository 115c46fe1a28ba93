"""Elements written out one by one, as JSON lists or typed contents, and tensors; and the elements of BYTES."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from struct import unpack_from
from typing import Any

import numpy as np

from api.nested import Elements, elements_of, packed
from api.oip.datatypes import kind
from api.tensors import array_of
from modelmora.domain.tensors import FLOATS, DType, Tensor, unpack
from modelmora.errors import InvalidInput, SchemaMismatch


def tensor_of_list(data: object, dtype: DType, shape: tuple[int, ...], field: str, *, base64: bool = False) -> Tensor:
    """A tensor of a list, flat or nested as the shape is; `base64`: so each element of BYTES is written.

    Raises SchemaMismatch on elements of another kind, out of the dtype's range, too many or too few.
    """
    if not isinstance(data, list):
        raise SchemaMismatch("data is missing or no list", field=field, found=kind(data), expected="a list")
    elements = elements_of(data, field)
    if len(elements.shape) > 1 and elements.shape != shape:
        raise SchemaMismatch(
            f"{field} is nested otherwise than its shape",
            field=field,
            found=str(list(elements.shape)),
            expected=f"{list(shape)}, or flat",
        )
    check_size(len(elements.flat), shape, field)
    if base64 and dtype == "bytes":
        flat = [{"b64": one} if isinstance(one, str) else one for one in elements.flat]
        elements = Elements(flat, elements.shape, field)
    return Tensor(dtype=dtype, shape=shape, data=packed(elements, dtype))


def tensor_of_numbers(flat: Sequence[Any], dtype: DType, shape: tuple[int, ...], field: str) -> Tensor:
    """A tensor of typed contents; raises SchemaMismatch as above. NaN is left to who knows whether it is allowed."""
    check_size(len(flat), shape, field)
    if dtype in FLOATS:
        return Tensor(dtype=dtype, shape=shape, data=np.array(flat, np.dtype(dtype).newbyteorder("<")).tobytes())
    return Tensor(dtype=dtype, shape=shape, data=packed(Elements(flat, (len(flat),), field), dtype))


def list_of(tensor: Tensor, field: str) -> Any:
    """The elements for JSON, flat: an array, or strings. Raises SchemaMismatch on bytes that are no text."""
    if tensor.dtype != "bytes":
        array = array_of(tensor).reshape(-1)
        return array.astype("f4") if tensor.dtype == "float16" else array
    try:
        return [element.decode() for element in unpack(tensor.data)]
    except UnicodeDecodeError as cause:
        raise SchemaMismatch(
            f"the output {field[:80]} has bytes that are no UTF-8, which JSON cannot hold",
            field="outputs",
            found=field[:80],
            expected="parameters.binary_data: true",
        ) from cause


def elements_within(tensor: Tensor, field: str) -> list[bytes]:
    """The elements of BYTES, exactly as many as its shape has; raises InvalidInput."""
    data, at, elements = tensor.data, 0, list[bytes]()
    for index in range(tensor.elements):
        left = len(data) - at - 4
        length = unpack_from("<I", data, at)[0] if left >= 0 else 0
        if length > left:
            raise InvalidInput(
                f"element {index} is cut off: it has {length} bytes, and {max(left, 0)} are left",
                field=f"{field}[{index}]",
                expected="each element after its length in 4 bytes, little-endian",
            )
        elements.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(data):
        raise InvalidInput(
            f"{len(data) - at} bytes are left over after {len(elements)} elements",
            field=field,
            expected=f"elements of {list(tensor.shape)}",
        )
    return elements


def check_size(count: int, shape: tuple[int, ...], field: str) -> None:
    """Raises SchemaMismatch."""
    if count != prod(shape):
        raise SchemaMismatch(
            f"{field} has {count} elements; the shape {list(shape)} takes {prod(shape)}",
            field=field,
            found=f"{count} elements",
            expected=f"{prod(shape)} elements",
        )
