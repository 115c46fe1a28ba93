"""What an inference asks for, told in the same values by both protocols, and what it is answered."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from api.oip.datatypes import glimpse
from modelmora.domain.inference import Call, Timings
from modelmora.domain.models import ModelSpec
from modelmora.domain.tensors import Tensor
from modelmora.errors import LimitExceeded, ValidationFailed

Parameters = Mapping[str, object]
"""Of a request, an input or an output; those that nobody here knows are ignored."""

TIMEOUT_US = range(1, 2**53)

SMALL = 65_536
"""Elements written out in so many bytes are read on the loop (1 ms); a hop to a thread would cost more."""

LARGE = 1_048_576
"""Tensors in binary form of so many bytes are read on the loop."""

TENSORS = 4_096
"""Inputs, or outputs, of one request at most."""


@dataclass(frozen=True, slots=True)
class Raw:
    """The bytes of the only input, without its name and shape."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One inference. `inputs` and `outputs` are in the order given; no outputs: all."""

    inputs: Mapping[str, Tensor] | Raw
    outputs: tuple[str, ...] = ()
    parameters: Parameters = field(default_factory=dict)

    def bounds(self, call: Call) -> Call:
        """The call with what the parameters say of it: `timeout` (microseconds, as Triton has it) and `truncate`.

        Raises ValidationFailed.
        """
        timeout, truncate = self.parameters.get("timeout", 0), self.parameters.get("truncate", call.truncate)
        if type(timeout) is not int or (timeout and timeout not in TIMEOUT_US):
            raise _wrong("timeout", timeout, "a number of microseconds")
        if type(truncate) is not bool:
            raise _wrong("truncate", truncate, "true or false")
        until = min(call.deadline, time.monotonic() + timeout / 1e6) if timeout else call.deadline
        return replace(call, deadline=until, truncate=truncate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferred:
    """The outputs asked for, in order, and which version gave them."""

    model: ModelSpec
    outputs: Mapping[str, Tensor]
    timings: Timings
    total_ms: float

    @property
    def size(self) -> int:
        """Bytes of the outputs."""
        return sum(len(tensor.data) for tensor in self.outputs.values())


def check_tensor_parameters(parameters: Parameters, field: str) -> None:
    """Raises ValidationFailed on what changes the meaning of a tensor and is not offered here."""
    for name, instead in (
        ("shared_memory_region", "the data in the request: there is no shared memory with callers"),
        ("classification", "the output as it is, or POST /v1/classify for labels and scores"),
    ):
        if name in parameters:
            raise ValidationFailed(f"{name} is not offered", field=f"{field}.parameters", found=name, expected=instead)


def check_count(count: int, field: str) -> None:
    """Raises LimitExceeded."""
    if count > TENSORS:
        raise LimitExceeded(
            f"{count} {field} in one request", field=field, found=str(count), expected=f"at most {TENSORS}"
        )


def check_load_parameters(parameters: Iterable[str]) -> None:
    """Raises ValidationFailed on a configuration or files in place of the declared ones."""
    wrong = next((name for name in parameters if name == "config" or name.startswith("file:")), None)
    if wrong is not None:
        raise ValidationFailed(
            "a model is loaded as the registry declares it: no other configuration or files are taken",
            field="parameters",
            found=wrong[:80],
            expected="none of config and file:...",
        )


def ref_of(name: str, version: str | None) -> str:
    """`name` or `name@version`; raises ValidationFailed where both name a version and they differ."""
    if not version:
        return name
    plain, at, told = name.partition("@")
    if at and told != version:
        raise ValidationFailed(
            "the model's name and the version differ", field="version", found=version[:80], expected=told[:80]
        )
    return f"{plain}@{version}"


def _wrong(name: str, found: object, expected: str) -> ValidationFailed:
    return ValidationFailed(
        f"the parameter {name} is wrong", field=f"parameters.{name}", found=glimpse(found), expected=expected
    )
