"""What a tensor model's inputs are made of where callers send pictures or the columns of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from modelmora.domain.preprocess import Preprocess
from modelmora.domain.tensors import DType

Channels = Literal["RGB", "BGR", "L"]
"""Colours in either order, or grey: luma by ITU-R BT.601, as Pillow's mode L."""

Layout = Literal["NCHW", "NHWC"]
"""Whether the channels stand before the sides or after them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The tensor `tensor` of dtype `dtype`, made of picture files that come as `input`: `bytes` of shape [batch].

    Each is fitted as `how` says; then `(pixel * scale - mean) / std`, channel by channel.
    """

    input: str
    tensor: str
    dtype: DType
    how: Preprocess
    channels: Channels = "RGB"
    layout: Layout = "NCHW"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """A column of numbers: what is missing becomes `impute` (None: nothing may be), then `(x - center) / spread`."""

    name: str
    dtype: DType
    impute: float | None = None
    center: float = 0.0
    spread: float = 1.0

    @property
    def width(self) -> int:
        """Places of the table's row that it fills."""
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Categories:
    """A column of `texts` or whole `numbers`: one place for each, 1 where it is what came and 0 elsewhere.

    What is missing becomes the place `impute` (None: nothing may be). What is none of them is refused, or with `ignore`
    zeros everywhere.
    """

    name: str
    texts: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    impute: int | None = None
    unknown: Literal["refuse", "ignore"] = "refuse"

    @property
    def width(self) -> int:
        """Places of the table's row that it fills."""
        return len(self.texts or self.numbers)


Column: TypeAlias = Numbers | Categories


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The tensor `tensor` of shape [batch, width], made of columns side by side; each comes as an input of [batch]."""

    tensor: str
    dtype: DType
    columns: tuple[Column, ...]

    @property
    def width(self) -> int:
        """Places of a row."""
        return sum(column.width for column in self.columns)


Prepared: TypeAlias = Pictures | Table
