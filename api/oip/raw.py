"""A request that is nothing but the bytes of the model's only input (Triton's "raw binary request")."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from api.oip.asked import Raw
from api.oip.datatypes import tensor_of
from modelmora.domain.description import Description
from modelmora.domain.tensors import ITEM_BYTES, Tensor, TensorSpec, pack
from modelmora.errors import SchemaMismatch, ValidationFailed


def only_input(raw: Raw, description: Description) -> Mapping[str, Tensor]:
    """The input by its name. At most one axis may be of any size; an element of BYTES comes without its length.

    Raises SchemaMismatch.
    """
    if len(description.inputs) != 1:
        raise SchemaMismatch(
            f"{description.model} has {len(description.inputs)} inputs; raw bytes are of one",
            field="inputs",
            expected=", ".join(spec.name for spec in description.inputs),
        )
    (spec,) = description.inputs
    return {spec.name: _element(raw.data, spec) if spec.dtype == "bytes" else _numbers(raw.data, spec)}


def _element(data: bytes, spec: TensorSpec) -> Tensor:
    if prod(_known(spec)) != 1:
        raise _not_raw(spec, "one element")
    return Tensor(dtype="bytes", shape=(1,) * len(spec.shape), data=pack([data]))


def _numbers(data: bytes, spec: TensorSpec) -> Tensor:
    known = _known(spec)
    row, anys = ITEM_BYTES[spec.dtype] * prod(known), len(spec.shape) - len(known)
    if anys > 1 or (anys and (not row or len(data) % row)):
        raise _not_raw(spec, f"a multiple of {row} bytes, and one axis of any size at most")
    shape = tuple(axis if isinstance(axis, int) else len(data) // row for axis in spec.shape)
    try:
        return tensor_of(data, spec.dtype, shape, spec.name)
    except ValidationFailed as error:
        raise SchemaMismatch(error.detail, field=error.field, found=error.found, expected=error.expected) from error


def _known(spec: TensorSpec) -> list[int]:
    return [axis for axis in spec.shape if isinstance(axis, int)]


def _not_raw(spec: TensorSpec, expected: str) -> SchemaMismatch:
    return SchemaMismatch(f"the shape of {spec.name} cannot be told from raw bytes", field=spec.name, expected=expected)
