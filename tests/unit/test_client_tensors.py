"""Tensors of lists and arrays, and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes
from numpy.typing import NDArray

from modelmora.client import Array, Tensor, tensor
from modelmora.client.tensors import DTYPES, received
from modelmora.domain.tensors import pack
from modelmora.errors import InternalError, ValidationFailed

NUMBERS = [dtype for dtype in DTYPES if dtype != "bytes"]


def back(given: Tensor) -> Array:
    """What a server that sends it back is understood to have sent."""
    return received(given.dtype, given.shape, given.data, name="x")


@pytest.mark.parametrize("dtype", NUMBERS)
@given(data=st.data())
def test_arrays_come_back_as_they_were(dtype: str, data: st.DataObject) -> None:
    array: NDArray[Any] = data.draw(arrays(dtype, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    came = back(tensor(array))
    assert (came.dtype, came.shape) == (dtype, array.shape)
    assert np.asarray(came).tobytes() == array.tobytes()
    assert repr(came.tolist()) == repr(array.tolist())


@given(scalar_dtypes().filter(lambda dtype: dtype.name not in NUMBERS and dtype.kind not in "SU"))
def test_a_dtype_that_no_model_takes_is_refused(dtype: np.dtype[Any]) -> None:
    with pytest.raises(ValidationFailed, match="no such dtype"):
        tensor(np.zeros(1, dtype))


@pytest.mark.parametrize(
    ("values", "dtype", "shape"),
    [
        (1, "int64", ()),
        (1.5, "float32", ()),
        ([1, 2], "int64", (2,)),
        ([1, 2.0], "float32", (2,)),
        ([[True], [False]], "bool", (2, 1)),
        (["a", b"b"], "bytes", (2,)),
        ("text", "bytes", ()),
        ([], "float32", (0,)),
        ([[], []], "float32", (2, 0)),
        (((1,), (2,)), "int64", (2, 1)),
    ],
)
def test_lists_are_of_the_dtype_that_their_elements_have(values: Any, dtype: str, shape: tuple[int, ...]) -> None:
    made = tensor(values)
    assert (made.dtype, made.shape) == (dtype, shape)
    came = back(made).tolist()
    expected = [b"a", b"b"] if values == ["a", b"b"] else b"text" if values == "text" else values
    assert came == ([list(row) for row in values] if isinstance(values, tuple) else expected)


def test_a_dtype_may_be_told() -> None:
    assert tensor([1, 2], "float64").data == np.array([1, 2], "<f8").tobytes()
    assert tensor(np.array([1.0, 2.0]), "float32").data == np.array([1, 2], "<f4").tobytes()
    assert tensor(np.array(["ab", "c"]), "bytes").data == pack([b"ab", b"c"])
    assert tensor([0.1], "float16").data == np.array([0.1], "<f2").tobytes()
    assert math.isnan(back(tensor([math.nan])).tolist()[0])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([300], "uint8"),
        ([-1], "uint64"),
        ([2**63], "int64"),
        ([1.5], "int32"),
        (["1"], "float32"),
        ([1e39], "float32"),
        ([1e6], "float16"),
        ([1], "bool"),
        ([1], "bytes"),
        (["\udce9"], "bytes"),
        ([1], "complex"),
    ],
)
def test_an_element_that_does_not_fit_is_refused(values: Any, dtype: Any) -> None:
    with pytest.raises(ValidationFailed):
        tensor(values, dtype)


@pytest.mark.parametrize("values", [[[1], 2], [[1], [2, 3]], [[[1]], [[1, 2]]], [1, "a"], [None], [{}], {1, 2}])
def test_what_is_no_array_is_refused(values: Any) -> None:
    with pytest.raises(ValidationFailed):
        tensor(values)


def test_lists_without_end_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValidationFailed, match="ragged"):
        tensor(endless)


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("float32", (2,), b"1234"),
        ("float32", (-1, -1), b"1234"),
        ("bytes", (2,), pack([b"one"])),
        ("bytes", (1,), b"\xff\xff\xff\xff"),
        ("complex64", (1,), b"12345678"),
        ("99", (1,), b"1"),
    ],
)
def test_a_server_that_sends_no_tensor_is_found_out(dtype: str, shape: tuple[int, ...], data: bytes) -> None:
    with pytest.raises(InternalError, match="'scores'"):
        received(dtype, shape, data, name="scores")


def test_an_array_of_an_answer_is_read_only_and_may_be_copied() -> None:
    came = back(tensor([[1.0, 2.0]]))
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(came)[0, 0] = 3
    copy = np.array(came, dtype="float64")
    copy[0, 0] = 3
    assert came.tolist() == [[1.0, 2.0]]
    texts = back(tensor(["a", b"\0"])).to_array()
    assert texts.dtype == np.object_
    assert texts.tolist() == [b"a", b"\0"]
