"""Declared preprocessing made into values: which inputs of the model it fills, and what callers send instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import cast

from modelmora.domain.features import Categories, Column, Layout, Numbers, Pictures, Prepared, Table
from modelmora.domain.preprocess import Preprocess
from modelmora.domain.tensors import FLOATS, Axis, TensorSpec
from modelmora.errors import Fault
from runners.inputs.declared import DeclaredColumn, DeclaredImage, DeclaredPreparation, fault

_CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}


class Preparing:
    """`inputs` are the model's own; what is wrong is collected in `faults`."""

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self.faults: list[Fault] = []
        self.prepared: dict[str, Prepared] = {}
        self._inputs = {spec.name: spec for spec in inputs}
        self._sent: dict[str, list[TensorSpec]] = {}

    def taken(self) -> tuple[TensorSpec, ...]:
        """What callers send, in the order of the model's inputs; a name that stands twice is a fault."""
        taken = [one for name, spec in self._inputs.items() for one in self._sent.get(name, [spec])]
        names = [one.name for one in taken]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.faults.append(fault("config.preprocess", f"callers would send {name!r} twice", found=name))
        return tuple(taken)

    def add(self, index: int, declared: DeclaredPreparation) -> None:
        """One entry of `config.preprocess`."""
        place, spec = f"config.preprocess[{index}]", self._inputs.get(declared.tensor)
        if spec is None:
            self.faults.append(_unknown(place, declared.tensor, list(self._inputs)))
        elif spec.name in self.prepared:
            self.faults.append(fault(f"{place}.tensor", f"{spec.name!r} is made twice", found=spec.name))
        elif declared.image is not None:
            self._add_pictures(f"{place}.image", declared.input or "image", declared.image, spec)
        else:
            self._add_table(place, declared.columns or [], spec)

    def _add_pictures(self, place: str, name: str, declared: DeclaredImage, spec: TensorSpec) -> None:
        faults = [*_picture_faults(place, declared, spec)]
        self.faults += faults
        if faults:
            return
        layout = declared.layout or _layout(spec, _CHANNELS[declared.channels])
        sides = [spec.shape[axis] for axis in ((2, 3) if layout == "NCHW" else (1, 2))]
        height, width = (
            wanted or (side if isinstance(side, int) else 0)
            for wanted, side in zip((declared.height, declared.width), sides, strict=True)
        )
        how = Preprocess(
            resize=declared.resize,
            height=height,
            width=width,
            interpolation=declared.interpolation,
            fill=declared.fill,
            shortest=declared.shortest,
            pad=declared.pad,
        )
        self.faults += _size_faults(place, how, sides)
        self.prepared[spec.name] = Pictures(
            input=name,
            tensor=spec.name,
            dtype=spec.dtype,
            how=how,
            channels=declared.channels,
            layout=layout,
            scale=declared.scale if declared.scale is not None else 1.0 if spec.dtype == "uint8" else 1 / 255,
            mean=declared.mean,
            std=declared.std,
        )
        self._sent[spec.name] = [TensorSpec(name=name, dtype="bytes", shape=spec.shape[:1])]

    def _add_table(self, place: str, declared: Sequence[DeclaredColumn], spec: TensorSpec) -> None:
        columns = tuple(_column(one) for one in declared)
        table = Table(tensor=spec.name, dtype=spec.dtype, columns=columns)
        self.faults += _table_faults(place, table, spec)
        self.prepared[spec.name] = table
        self._sent[spec.name] = [
            _sent(one, column, spec.shape[:1]) for one, column in zip(declared, columns, strict=True)
        ]


def _unknown(place: str, name: str, there: Sequence[str]) -> Fault:
    near = difflib.get_close_matches(name, there, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return fault(
        f"{place}.tensor", f"the model has no input {name!r}{hint}", found=name, expected=", ".join(there) or "none"
    )


def _layout(spec: TensorSpec, channels: int) -> Layout:
    return "NHWC" if spec.shape[3] == channels and spec.shape[1] != channels else "NCHW"


def _picture_faults(place: str, declared: DeclaredImage, spec: TensorSpec) -> Iterator[Fault]:
    if len(spec.shape) != 4 or spec.dtype not in (*FLOATS, "uint8"):
        expected = "four axes (batch, channels and two sides) of floats or uint8"
        yield fault(place, f"{spec.name!r} cannot be a picture", found=_shown(spec), expected=expected)
        return
    channels = _CHANNELS[declared.channels]
    layout = declared.layout or _layout(spec, channels)
    there = spec.shape[1 if layout == "NCHW" else 3]
    if isinstance(there, int) and there != channels:
        said = f"{declared.channels} has {channels} channels, {spec.name!r} of layout {layout} has {there}"
        yield fault(f"{place}.channels", said, found=declared.channels)
    for key, values in (("mean", declared.mean), ("std", declared.std)):
        if len(values) not in (1, channels):
            yield fault(f"{place}.{key}", f"takes 1 number or {channels}; found {len(values)}", found=list(values))
    if any(value <= 0 for value in declared.std):
        yield fault(f"{place}.std", "takes numbers above 0", found=list(declared.std))
    plain = declared.scale in (None, 1.0) and set(declared.mean) == {0.0} and set(declared.std) == {1.0}
    if spec.dtype == "uint8" and not plain:
        yield fault(place, f"{spec.name!r} is of uint8: scale, mean and std would be lost", found="scale, mean, std")


def _size_faults(place: str, how: Preprocess, sides: Sequence[Axis]) -> Iterator[Fault]:
    for key, size, side in zip(("height", "width"), (how.height, how.width), sides, strict=True):
        if how.resize == "none" or (how.resize == "longest" and not how.pad):
            if isinstance(side, int):
                yield fault(f"{place}.resize", f"pictures would not all get the {key} of {side}", found=how.resize)
        elif not size:
            yield fault(f"{place}.{key}", "is missing, and the model takes any")
        elif isinstance(side, int) and side != size:
            yield fault(f"{place}.{key}", f"the model takes {side}", found=size, expected=str(side))


def _table_faults(place: str, table: Table, spec: TensorSpec) -> Iterator[Fault]:
    if len(spec.shape) != 2 or spec.dtype not in FLOATS:
        yield fault(place, f"{spec.name!r} cannot be a table", found=_shown(spec), expected="two axes of floats")
    elif isinstance(spec.shape[1], int) and spec.shape[1] != table.width:
        said = f"the columns fill {table.width} places of a row, {spec.name!r} has {spec.shape[1]}"
        yield fault(f"{place}.columns", said, found=table.width, expected=str(spec.shape[1]))


def _column(one: DeclaredColumn) -> Column:
    if one.one_hot is None:
        return Numbers(
            name=one.name,
            dtype=one.dtype or "float64",
            impute=None if one.impute is None else float(one.impute),
            center=one.scale.center if one.scale else 0.0,
            spread=one.scale.spread if one.scale else 1.0,
        )
    texts = isinstance(one.one_hot[0], str)
    return Categories(
        name=one.name,
        texts=cast("tuple[str, ...]", one.one_hot) if texts else (),
        numbers=() if texts else cast("tuple[int, ...]", one.one_hot),
        impute=None if one.impute is None else list(one.one_hot).index(one.impute),
        unknown=one.unknown or "refuse",
    )


def _sent(one: DeclaredColumn, column: Column, shape: tuple[Axis, ...]) -> TensorSpec:
    """What a caller sends for a column."""
    low, high = one.range
    missing = column.impute is not None
    if isinstance(column, Numbers):
        gaps = missing and column.dtype in FLOATS
        return TensorSpec(
            name=one.name, dtype=column.dtype, shape=shape, low=low, high=high, optional=missing, gaps=gaps
        )
    if column.numbers:
        return TensorSpec(name=one.name, dtype="int64", shape=shape, optional=missing)
    labels = column.texts if column.unknown == "refuse" else ()
    return TensorSpec(
        name=one.name, dtype="bytes", shape=shape, labels=labels, optional=missing, gaps=missing, text=True
    )


def _shown(spec: TensorSpec) -> str:
    return f"{spec.dtype} {shape_text(spec.shape)}"


def shape_text(shape: Sequence[Axis]) -> str:
    """As it is written in messages: [batch, 3, any]."""
    return f"[{', '.join('any' if axis is None else str(axis) for axis in shape)}]"
