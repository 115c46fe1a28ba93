"""Tensors as gRPC messages and back."""

from __future__ import annotations

from modelmora.client.tensors import DTYPES, Array, received
from modelmora.domain.tensors import DType, Tensor
from modelmora.proto import types_pb2

_TO_PROTO = {dtype: types_pb2.DType.Value(f"DTYPE_{dtype.upper()}") for dtype in DTYPES}
_OF_PROTO: dict[int, DType] = {int(types_pb2.DTYPE_UNSPECIFIED): "float32"}
_OF_PROTO |= {int(value): dtype for dtype, value in _TO_PROTO.items()}


def vector_of(tensor: Tensor) -> types_pb2.Vector:
    """As a message."""
    return types_pb2.Vector(data=tensor.data, dtype=_TO_PROTO[tensor.dtype], shape=tensor.shape)


def array_of(vector: types_pb2.Vector, name: str) -> Array:
    """Raises InternalError where the message is no tensor; `name` is what it says of which one."""
    dtype = _OF_PROTO.get(int(vector.dtype), str(vector.dtype))
    return received(dtype, tuple(vector.shape), vector.data, name=name)
