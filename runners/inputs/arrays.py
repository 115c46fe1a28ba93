"""Tensors as values and as numpy's arrays."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from modelmora.domain.tensors import DType, Tensor, pack, unpack

if TYPE_CHECKING:
    from numpy.typing import NDArray


def to_array(tensor: Tensor) -> NDArray[Any]:
    """An array over the tensor's own bytes (read-only); `bytes` become an array of objects.

    Raises ValueError where bytes and shape do not fit.
    """
    return array_of(tensor.dtype, tensor.shape, tensor.data)


def to_tensor(array: NDArray[Any]) -> Tensor:
    """The array as a value."""
    return Tensor(dtype=dtype_of(array), shape=array.shape, data=bytes_of(array))


def array_of(dtype: str, shape: tuple[int, ...], data: bytes) -> NDArray[Any]:
    """See `to_array`."""
    if dtype != "bytes":
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape)
    elements = unpack(data)
    if len(elements) != prod(shape):
        raise ValueError(f"{len(elements)} elements where a shape of {list(shape)} has {prod(shape)}")
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def dtype_of(array: NDArray[Any]) -> DType:
    """The dtype's name; arrays of objects and of texts are `bytes`."""
    return "bytes" if array.dtype.kind in "OSU" else cast(DType, array.dtype.name)


def bytes_of(array: NDArray[Any]) -> bytes:
    """Row-major, little-endian."""
    if array.dtype.kind in "OSU":
        return pack(_encoded(one) for one in array.ravel().tolist())
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _encoded(element: Any) -> bytes:
    return element if isinstance(element, bytes) else str(element).encode()
