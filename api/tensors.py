"""Tensors at the doors: of JSON and of proto messages, and back into them."""

from __future__ import annotations

import base64
import binascii
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from api.nested import RANK, elements_of, packed, tensor_of
from modelmora.domain.description import Description
from modelmora.domain.faults import SHOWN, mismatch
from modelmora.domain.tensors import DType, Tensor, TensorSpec, unpack
from modelmora.errors import Fault, SchemaMismatch
from modelmora.proto import inference_pb2, types_pb2

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES: tuple[DType, ...] = get_args(DType)
_TO_PROTO = {dtype: types_pb2.DType.Value(f"DTYPE_{dtype.upper()}") for dtype in DTYPES}
_OF_PROTO: dict[int, DType] = {int(types_pb2.DTYPE_UNSPECIFIED): "float32"}
_OF_PROTO |= {int(value): dtype for dtype, value in _TO_PROTO.items()}


def of_json(given: Mapping[str, Any], description: Description) -> dict[str, Tensor]:
    """Nested lists in the declared dtypes, or `{"dtype", "shape", "data"}` with a flat list or base64 of the bytes.

    Raises SchemaMismatch with everything that cannot be read, unknown and missing names among it.
    """
    specs = {spec.name: spec for spec in description.inputs}
    tensors, faults = dict[str, Tensor](), list[Fault]()
    for name, value in given.items():
        try:
            tensors[name] = _one(value, _declared(name, specs), f"inputs.{name[:80]}")
        except SchemaMismatch as error:
            faults.append(error.as_fault())
        if len(faults) > SHOWN:
            break
    if faults:
        missing = [spec for spec in specs.values() if spec.name not in given and not spec.optional]
        raise mismatch([*faults, *map(_missing, missing)])
    return tensors


def to_json(tensor: Tensor, spec: TensorSpec | None, encoding: str) -> dict[str, Any]:
    """`{"dtype", "shape", "data"}`, and `labels` with the best one a row where the model names the last axis."""
    data = base64.b64encode(tensor.data).decode("ascii") if encoding == "base64" else _nested(tensor)
    shown = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data": data}
    labels = _best(tensor, spec.labels) if spec is not None else None
    return shown if labels is None else {**shown, "labels": labels.tolist()}


def of_proto(named: Iterable[inference_pb2.NamedTensor]) -> dict[str, Tensor]:
    """Raises SchemaMismatch with every name that is there twice and every dtype that is none."""
    tensors, faults = dict[str, Tensor](), list[Fault]()
    for place, one in enumerate(named):
        dtype = _OF_PROTO.get(one.tensor.dtype)
        if one.name in tensors:
            faults.append(_fault(f"inputs[{place}]", "is there twice", found=one.name[:80], expected="each input once"))
        elif dtype is None:
            field, found = f"inputs[{place}].tensor.dtype", str(one.tensor.dtype)
            faults.append(_fault(field, "is no dtype", found=found, expected=", ".join(DTYPES)))
        elif len(one.tensor.shape) > RANK:
            found, expected = f"{len(one.tensor.shape)} axes", f"at most {RANK}"
            faults.append(_fault(f"inputs[{place}].tensor.shape", "has too many axes", found=found, expected=expected))
        else:
            tensors[one.name] = Tensor(dtype=dtype, shape=tuple(one.tensor.shape), data=one.tensor.data)
        if len(faults) > SHOWN:
            break
    if faults:
        raise mismatch(faults)
    return tensors


def to_proto(name: str, tensor: Tensor, spec: TensorSpec | None) -> inference_pb2.NamedTensor:
    """As a message, with the best label of each row where the model names the last axis."""
    best = _best(tensor, spec.labels) if spec is not None else None
    labels = () if best is None else best.ravel().tolist()
    return inference_pb2.NamedTensor(name=name, tensor=vector_of(tensor), labels=labels)


def vector_of(tensor: Tensor) -> types_pb2.Vector:
    """As a message without its name."""
    return types_pb2.Vector(data=tensor.data, dtype=_TO_PROTO[tensor.dtype], shape=tensor.shape)


def array_of(tensor: Tensor) -> NDArray[Any]:
    """A view of a tensor of numbers or booleans."""
    return np.frombuffer(tensor.data, np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape)


def _declared(name: str, specs: Mapping[str, TensorSpec]) -> TensorSpec:
    if name in specs:
        return specs[name]
    near = difflib.get_close_matches(name[:80], specs, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SchemaMismatch(
        f"the model has no input {name[:80]!r}{hint}",
        field=f"inputs.{name[:80]}",
        found=name[:80],
        expected=", ".join(specs) or "no inputs",
    )


def _missing(spec: TensorSpec) -> Fault:
    said = f"the input {spec.name!r} is missing"
    return Fault(SchemaMismatch.code, said, field=f"inputs.{spec.name}", found="nothing", expected=spec.dtype)


def _fault(field: str, said: str, *, found: str, expected: str) -> Fault:
    return Fault(SchemaMismatch.code, f"{field}: {found!r} {said}", field=field, found=found, expected=expected)


def _one(value: Any, spec: TensorSpec, field: str) -> Tensor:
    """A dictionary is a tensor that says its shape itself, unless it is the bytes of a single element."""
    if not isinstance(value, dict) or value.keys() == {"b64"}:
        return tensor_of(value, spec.dtype, field, gaps=spec.gaps)
    if not {"shape", "data"} <= value.keys() <= {"dtype", "shape", "data"}:
        raise SchemaMismatch(
            f"{field} is an object, but no tensor",
            field=field,
            found=", ".join(sorted(value))[:80],
            expected="nested lists, or shape, data and perhaps dtype",
        )
    dtype, shape = _dtype(value.get("dtype", spec.dtype), field), _shape(value["shape"], field)
    return Tensor(dtype=dtype, shape=shape, data=_data(value["data"], dtype, shape, f"{field}.data", gaps=spec.gaps))


def _dtype(value: Any, field: str) -> DType:
    for dtype in DTYPES:
        if value == dtype:
            return dtype
    raise SchemaMismatch(
        f"{field}.dtype is none", field=f"{field}.dtype", found=str(value)[:40], expected=", ".join(DTYPES)
    )


def _shape(value: Any, field: str) -> tuple[int, ...]:
    if isinstance(value, list) and len(value) <= RANK and all(type(one) is int and 0 <= one < 2**32 for one in value):
        return tuple(value)
    raise SchemaMismatch(
        f"{field}.shape is none",
        field=f"{field}.shape",
        found=str(value)[:40],
        expected=f"a list of at most {RANK} sizes",
    )


def _data(value: Any, dtype: DType, shape: tuple[int, ...], field: str, *, gaps: bool) -> bytes:
    if not isinstance(value, str):
        elements = elements_of(value, field)
        found, due = len(elements.flat), math.prod(shape)
        if found != due:
            raise SchemaMismatch(
                f"{field} has {found} elements; the shape {list(shape)} takes {due}",
                field=field,
                found=f"{found} elements",
                expected=f"{due} elements",
            )
        return packed(elements, dtype, gaps=gaps)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as cause:
        raise SchemaMismatch(
            f"{field}: not base64: {cause}", field=field, found=value[:24], expected="base64"
        ) from cause


def _nested(tensor: Tensor) -> Any:
    """For `render.to_json`: arrays of numbers as they are, texts in lists; bytes that are no text as `{"b64": ...}`."""
    if tensor.dtype != "bytes":
        array = array_of(tensor)
        return array if array.ndim else array.item()
    elements = np.empty(tensor.elements, dtype=np.object_)
    elements[:] = [_text(one) for one in unpack(tensor.data)]
    return elements.reshape(tensor.shape).tolist()


def _text(element: bytes) -> str | dict[str, str]:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(element).decode("ascii")}


def _best(tensor: Tensor, labels: Sequence[str]) -> NDArray[np.object_] | None:
    """The label of the greatest value along the last axis; None where the labels are not of that axis."""
    if tensor.dtype in ("bytes", "bool") or not labels or tensor.shape[-1:] != (len(labels),):
        return None
    places = np.argmax(array_of(tensor), axis=-1)
    return np.take(np.array(labels, dtype=np.object_), np.atleast_1d(places)).reshape(np.shape(places))
