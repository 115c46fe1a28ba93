"""What `config` of a tensor model may say, as YAML reads it: strictly, and every fault told at once."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from pydantic_core import ErrorDetails

from modelmora.domain.features import Channels
from modelmora.domain.models import ModelSpec
from modelmora.domain.preprocess import Interpolation, Resize
from modelmora.domain.tensors import DType
from modelmora.errors import Fault, ModelLoadFailed

LARGEST = 2**31 - 1
_AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


def _axis(value: object) -> int | str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if (
        value is None
        or (whole and 1 <= cast(int, value) <= LARGEST)
        or (isinstance(value, str) and _AXIS.fullmatch(value))
    ):
        return cast("int | str | None", value)
    raise ValueError("takes a size from 1, a name for one that may differ, or null")


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("takes a number")
    return float(value)


def _per_channel(value: object) -> tuple[float, ...]:
    try:
        return tuple(_number(one) for one in (value if isinstance(value, list) and value else [value]))
    except ValueError:
        raise ValueError("takes a number, or a list of one for each channel") from None


def _one_hot(value: object) -> tuple[str, ...] | tuple[int, ...]:
    kinds = {type(one) for one in value} if isinstance(value, list) else set()
    if kinds not in ({str}, {int}):
        raise ValueError("takes a list of texts (YAML reads yes, no and numbers as such unless quoted) or of integers")
    if len(set(cast("list[str]", value))) < len(cast("list[str]", value)):
        raise ValueError("takes every category once")
    return tuple(cast("list[str]", value))


def _impute(value: object) -> str | float:
    return value if isinstance(value, str | int) and not isinstance(value, bool) else _number(value)


def _range(value: object) -> tuple[float | None, float | None]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("takes [least, largest], null where there is none")
    low, high = (None if one is None else _number(one) for one in value)
    if low is not None and high is not None and low > high:
        raise ValueError("takes [least, largest], the least first")
    return low, high


Name = Annotated[str, Field(min_length=1, max_length=200)]
Size = Annotated[int, Field(ge=1, le=LARGEST)]
Axis_ = Annotated[int | str | None, PlainValidator(_axis)]
Number = Annotated[float, PlainValidator(_number)]
PerChannel = Annotated[tuple[float, ...], PlainValidator(_per_channel)]
Range = Annotated[tuple[float | None, float | None], PlainValidator(_range)]
OneHot = Annotated[tuple[str, ...] | tuple[int, ...], PlainValidator(_one_hot)]
Impute = Annotated[str | float, PlainValidator(_impute)]


class Strict(BaseModel):
    """Values as YAML reads them, no conversion, no other keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DeclaredTensor(Strict):
    """An input or output of the model: sizes of axes, names of those that may differ, null for any size."""

    name: Name
    dtype: DType
    shape: Annotated[list[Axis_], Field(max_length=32)]
    range: Range = (None, None)
    labels: Annotated[list[Name], Field(min_length=1)] = []
    optional: bool = False


class DeclaredImage(Strict):
    """How a picture file becomes a tensor; `height` and `width` are the tensor's where it has them fixed."""

    resize: Resize = "shortest"
    height: Size | None = None
    width: Size | None = None
    shortest: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    interpolation: Interpolation = "bicubic"
    fill: Annotated[int, Field(ge=0, le=255)] = 0
    pad: bool = True
    channels: Channels = "RGB"
    layout: Literal["NCHW", "NHWC"] | None = None
    scale: Number | None = None
    mean: PerChannel = (0.0,)
    std: PerChannel = (1.0,)


class DeclaredScale(Strict):
    """Standard scores, `(x - mean) / std`, or the range to 0..1, `(x - min) / (max - min)`."""

    mean: Number | None = None
    std: Number | None = None
    min: Number | None = None
    max: Number | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        given = [name for name in ("mean", "std", "min", "max") if getattr(self, name) is not None]
        if given not in (["mean", "std"], ["min", "max"]):
            raise ValueError("takes mean and std, or min and max")
        if self.spread <= 0:
            raise ValueError("takes a std above 0, or a max above min")
        return self

    @property
    def center(self) -> float:
        """What is subtracted."""
        return self.mean if self.mean is not None else self.min or 0.0

    @property
    def spread(self) -> float:
        """What is divided by."""
        return self.std if self.std is not None else (self.max or 0.0) - (self.min or 0.0)


class DeclaredColumn(Strict):
    """A column of numbers, or of categories (`one_hot`); `impute` stands for what is missing."""

    name: Name
    dtype: Literal["float32", "float64", "int64"] | None = None
    impute: Impute | None = None
    range: Range = (None, None)
    scale: DeclaredScale | None = None
    one_hot: OneHot | None = None
    unknown: Literal["refuse", "ignore"] | None = None

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.one_hot is None:
            self._check_numbers()
        else:
            self._check_categories(self.one_hot)
        return self

    def _check_numbers(self) -> None:
        if self.unknown is not None:
            raise ValueError("takes unknown only beside one_hot")
        if isinstance(self.impute, str):
            raise ValueError("takes a number to impute")

    def _check_categories(self, one_hot: Sequence[str | int]) -> None:
        wrong = sorted(self.model_fields_set & {"dtype", "range", "scale"})
        if wrong:
            raise ValueError(f"takes {' and '.join(wrong)} only of numbers, not beside one_hot")
        if self.impute is not None and self.impute not in one_hot:
            raise ValueError("takes one of one_hot to impute")


class DeclaredPreparation(Strict):
    """An input of the model, made of a picture file (`image`) or of the columns of a table (`columns`)."""

    tensor: Name
    input: Name | None = None
    image: DeclaredImage | None = None
    columns: Annotated[list[DeclaredColumn], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.image is None) == (self.columns is None):
            raise ValueError("takes image or columns")
        if self.columns is not None and self.input is not None:
            raise ValueError("takes input only beside image: each column is an input of its own name")
        return self


class Declared(Strict):
    """All of it; families have keys besides."""

    inputs: list[DeclaredTensor] = []
    outputs: list[DeclaredTensor] = []
    preprocess: list[DeclaredPreparation] = []
    sample: dict[str, Size] = {}


_TAKES = re.compile(r"^(Value error, |Input should be )(takes )?|^(\w+ )?should ")
_KEYS = sorted(
    {
        key
        for shape in (DeclaredTensor, DeclaredImage, DeclaredScale, DeclaredColumn, DeclaredPreparation, Declared)
        for key in shape.model_fields
    }
)


def read_declared(spec: ModelSpec, also: Sequence[str]) -> Declared:
    """`also` are keys that the family reads itself. Raises ModelLoadFailed with everything that is wrong."""
    try:
        declared = Declared.model_validate({key: value for key, value in spec.config.items() if key not in also})
    except ValidationError as cause:
        raise refused(spec, [_fault(error, also) for error in cause.errors(include_url=False)]) from None
    faults = [*_twice("inputs", declared.inputs), *_twice("outputs", declared.outputs)]
    if faults:
        raise refused(spec, faults)
    return declared


def refused(spec: ModelSpec, faults: Sequence[Fault]) -> ModelLoadFailed:
    """The error of a configuration: all of its faults, each with its place."""
    first, told = faults[0], "; ".join(f"{fault.field}: {fault.detail}" for fault in faults)
    many = f"the configuration has {len(faults)} faults: " if len(faults) > 1 else ""
    return ModelLoadFailed(
        f"{spec.key}: {many}{told}", field=first.field, found=first.found, expected=first.expected, faults=faults
    )


def fault(field: str, detail: str, *, found: object = None, expected: str | None = None) -> Fault:
    """Of a place in `config`."""
    shown = None if found is None else str(found)[:120]
    return Fault(ModelLoadFailed.code, detail, field=field, found=shown, expected=expected)


def _fault(error: ErrorDetails, also: Sequence[str]) -> Fault:
    place = "config" + "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in error["loc"])
    found = error.get("input")
    match error["type"]:
        case "missing":
            return fault(place, "is missing")
        case "extra_forbidden":
            near = difflib.get_close_matches(str(error["loc"][-1]), [*_KEYS, *also], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return fault(place, f"there is no such key{hint}", found=error["loc"][-1])
        case _:
            said = _TAKES.sub("takes ", error["msg"])
            shown = repr(found) if len(repr(found)) <= 60 else f"{repr(found)[:60]}..."
            return fault(place, f"{said}; found {shown}", found=found, expected=said.removeprefix("takes "))


def _twice(where: str, tensors: Sequence[DeclaredTensor]) -> Iterator[Fault]:
    names = [one.name for one in tensors]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield fault(f"config.{where}[{index}].name", f"{name!r} is declared twice", found=name)
