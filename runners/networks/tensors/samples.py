"""Inputs that a tensor model is tried on, made of what it declares."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from modelmora.domain.tensors import FLOATS, TensorSpec
from runners.inputs.schema import Schema
from runners.payload import Parcel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COLOURS = ("black", "orange", "navy")


def sample_of(schema: Schema) -> Parcel:
    """One row of zeros, or of the least that is allowed; texts and pictures where there are bytes."""
    return Parcel(tensors={spec.name: _filled(spec, schema.sample_shape(spec)) for spec in _needed(schema)})


def rows_unlike(schema: Schema) -> list[Sequence[Parcel]]:
    """Two rows that differ in all that they hold; and two that differ in their floats alone, for those who take only
    few of an integer's values, such as a table of one row."""
    specs = _needed(schema)
    every = (True, False) if any(spec.dtype in FLOATS for spec in specs) else (True,)
    return [[_varied(schema, seed, integers=integers) for seed in (1, 2)] for integers in every]


def _needed(schema: Schema) -> list[TensorSpec]:
    return [spec for spec in schema.inputs if not spec.optional]


def _varied(schema: Schema, seed: int, *, integers: bool) -> Parcel:
    random = np.random.default_rng(seed)
    tensors = dict[str, "NDArray[Any]"]()
    for spec in _needed(schema):
        shape = schema.sample_shape(spec)
        if spec.dtype in FLOATS:
            tensors[spec.name] = _floats(spec, random.random(shape))
        elif integers:
            tensors[spec.name] = _filled(spec, shape, step=seed)
        else:
            tensors[spec.name] = _filled(spec, shape)
    return Parcel(tensors=tensors)


def _floats(spec: TensorSpec, shares: NDArray[np.float64]) -> NDArray[Any]:
    """Between the bounds, and within one of the lower where there is room: positive unless declared otherwise, since
    of a logarithm's NaN nothing is seen."""
    low = spec.low if spec.low is not None else 0.0 if spec.high is None else min(0.0, spec.high - 1.0)
    low = 0.0 if low < 0.0 and (spec.high is None or spec.high >= 1.0) else low
    wide = 1.0 if spec.high is None else min(1.0, spec.high - low)
    return (low + wide * shares).astype(spec.dtype)


def _filled(spec: TensorSpec, shape: tuple[int, ...], *, step: int = 0) -> NDArray[Any]:
    """Of one value; `step` counts those that are allowed from the usual one on."""
    if spec.dtype == "bytes":
        array = np.empty(shape, dtype=object)
        array.fill(_element(spec, step))
        return array
    low, high = max(spec.low or 0, 0), spec.high
    if spec.dtype == "bool":
        return np.full(shape, step % 2, spec.dtype)
    value = low if high is None else min(low, high)
    return np.full(shape, value + step if high is None or value + step <= high else value, spec.dtype)


def _element(spec: TensorSpec, step: int) -> bytes:
    if spec.labels:
        return spec.labels[step % len(spec.labels)].encode()
    return (b"a", b"b", b"c")[step] if spec.text else _picture(_COLOURS[step])


@cache
def _picture(colour: str) -> bytes:
    """A file: where a model takes bytes that are no text, they are most often a picture's."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "JPEG")
    return file.getvalue()
