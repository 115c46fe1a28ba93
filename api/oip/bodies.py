"""Inferences in HTTP bodies: a JSON object, and after it the tensors that come or go in binary form."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from api import render
from api.oip.asked import LARGE, SMALL, Asked, Inferred, Parameters, Raw, check_count, check_tensor_parameters
from api.oip.datatypes import DATATYPES, dtype_of, glimpse, kind, shape_of, tensor_of
from api.oip.elements import list_of, tensor_of_list
from modelmora.domain.tensors import Tensor
from modelmora.errors import InvalidInput, ValidationFailed

HEADER_LENGTH = "inference-header-content-length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the caller wants the answer: its id again, and which outputs in binary form (`binary`: those not named)."""

    id: str | None = None
    binary: bool = False
    named: Mapping[str, bool] = field(default_factory=dict)


class _Tail:
    """What follows the JSON object, taken tensor by tensor."""

    def __init__(self, rest: memoryview) -> None:
        self._rest = rest

    def take(self, size: object, place: str) -> bytes:
        """Raises ValidationFailed (no size), InvalidInput (not so many left)."""
        where = f"{place}.parameters.binary_data_size"
        if type(size) is not int or size < 0:
            raise ValidationFailed(
                "binary_data_size is no size", field=where, found=glimpse(size), expected="an integer >= 0"
            )
        if size > len(self._rest):
            raise InvalidInput(
                f"the tensor has {size} bytes after the JSON object; {len(self._rest)} are left",
                field=where,
                found=str(size),
                expected=f"at most {len(self._rest)}",
            )
        taken, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return taken

    def end(self) -> None:
        if self._rest:
            raise InvalidInput(
                f"{len(self._rest)} bytes are left over after the last tensor",
                field="body",
                expected="a body that ends with its tensors",
            )


async def read(body: bytes, header_length: str | None) -> tuple[Asked, Form]:
    """An inference. Where the header says that the JSON object has 0 bytes, the body is the only input's.

    Raises InvalidInput (not JSON, bytes missing or left over), SchemaMismatch, ValidationFailed, LimitExceeded.
    """
    length = _length(header_length, len(body))
    if length == 0 and header_length is not None:
        return Asked(inputs=Raw(body)), Form(binary=True)
    small = length <= SMALL and len(body) <= LARGE
    return _read(body, length) if small else await asyncio.to_thread(_read, body, length)


def _read(body: bytes, length: int) -> tuple[Asked, Form]:
    told, tail = object_of(body[:length]), _Tail(memoryview(body)[length:])
    parameters = parameters_of(told, "")
    inputs = _inputs(told.get("inputs"), tail)
    tail.end()
    named = _outputs(told.get("outputs"))
    form = Form(
        id=_id(told.get("id")),
        binary=flag_of(parameters, "binary_data_output", "parameters") or False,
        named={name: binary for name, binary in named.items() if binary is not None},
    )
    return Asked(inputs=inputs, outputs=tuple(named), parameters=parameters), form


def object_of(body: bytes) -> dict[str, Any]:
    """A JSON object; an empty body is an empty one. Raises InvalidInput, ValidationFailed."""
    try:
        told = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as cause:
        raise InvalidInput(f"the body is not JSON: {cause}", field="body") from cause
    if not isinstance(told, dict):
        raise ValidationFailed("the body is no object", field="body", found=kind(told), expected="an object")
    return told


def written(inferred: Inferred, form: Form) -> tuple[bytes, int | None]:
    """The body of the answer, and how long its JSON object is where tensors follow it."""
    rows, tail = list[dict[str, Any]](), list[bytes]()
    for name, tensor in inferred.outputs.items():
        row: dict[str, Any] = {"name": name, "datatype": DATATYPES[tensor.dtype], "shape": tensor.shape}
        if form.named.get(name, form.binary):
            row["parameters"] = {"binary_data_size": len(tensor.data)}
            tail.append(tensor.data)
        else:
            row["data"] = list_of(tensor, name)
        rows.append(row)
    told = {"model_name": inferred.model.name, "model_version": inferred.model.version, "outputs": rows}
    head = render.to_json(told if form.id is None else {"id": form.id, **told})
    return b"".join((head, *tail)), len(head) if tail else None


def _length(told: str | None, has: int) -> int:
    if told is None:
        return has
    if not told.isascii() or not told.isdigit() or len(told) > 18 or int(told) > has:
        raise InvalidInput(
            "the header does not say how long the JSON object is",
            field=HEADER_LENGTH,
            found=told[:40],
            expected=f"a number of bytes, at most the body's {has}",
        )
    return int(told)


def _inputs(value: Any, tail: _Tail) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    for index, told in enumerate(_objects(value, "inputs")):
        place = f"inputs[{index}]"
        name = _name(told, place, inputs)
        inputs[name] = _input(told, place, tail)
    if not inputs:
        raise ValidationFailed("there are no inputs", field="inputs", found="none", expected="at least one")
    return inputs


def _input(told: dict[str, Any], place: str, tail: _Tail) -> Tensor:
    parameters = parameters_of(told, place)
    check_tensor_parameters(parameters, place)
    dtype = dtype_of(told.get("datatype"), f"{place}.datatype")
    shape = shape_of(told.get("shape"), f"{place}.shape")
    if "binary_data_size" in parameters:
        if "data" in told:
            raise ValidationFailed("the data comes twice: in binary form and as JSON", field=f"{place}.data")
        return tensor_of(tail.take(parameters["binary_data_size"], place), dtype, shape, f"{place}.data")
    base64 = parameters.get("content_type") == "base64"
    return tensor_of_list(told.get("data"), dtype, shape, f"{place}.data", base64=base64)


def _outputs(value: Any) -> dict[str, bool | None]:
    """Each output's name, and whether it shall be binary (None: not said)."""
    named: dict[str, bool | None] = {}
    for index, told in enumerate(_objects(value, "outputs")):
        place = f"outputs[{index}]"
        parameters = parameters_of(told, place)
        check_tensor_parameters(parameters, place)
        name = _name(told, place, named)
        named[name] = flag_of(parameters, "binary_data", f"{place}.parameters")
    return named


def _objects(value: Any, field: str) -> Sequence[dict[str, Any]]:
    if value is None:
        return []
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        check_count(len(value), field)
        return value
    raise ValidationFailed(f"{field} is no list of objects", field=field, found=kind(value), expected="a list")


def _name(told: dict[str, Any], place: str, taken: Mapping[str, Any]) -> str:
    name = told.get("name")
    if not isinstance(name, str) or not name:
        raise ValidationFailed("a tensor has no name", field=f"{place}.name", found=kind(name), expected="a string")
    if name in taken:
        raise ValidationFailed(f"{name[:80]!r} comes twice", field=f"{place}.name", found=name[:80])
    return name


def parameters_of(told: Mapping[str, Any], place: str) -> Parameters:
    """Of a request (no place), an input or an output; raises ValidationFailed."""
    value = told.get("parameters")
    if value is None or isinstance(value, dict):
        return value or {}
    raise ValidationFailed(
        "parameters is no object",
        field=f"{place}.parameters".lstrip("."),
        found=kind(value),
        expected="an object",
    )


def flag_of(parameters: Parameters, name: str, place: str) -> bool | None:
    """None where it is not said; raises ValidationFailed."""
    value = parameters.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise ValidationFailed(
        f"{name} is no boolean", field=f"{place}.{name}".lstrip("."), found=glimpse(value), expected="true or false"
    )


def _id(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ValidationFailed("id is no string", field="id", found=kind(value), expected="a string")
