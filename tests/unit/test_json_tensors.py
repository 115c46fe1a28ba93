"""Nested lists as tensors: what fits to the last bit, what does not with its place; and tensors as JSON."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import orjson
import pytest

from api import render, tensors
from modelmora.domain.description import Description
from modelmora.domain.tensors import DType, Tensor, TensorSpec, pack, unpack
from modelmora.errors import SchemaMismatch

NUMBERS: tuple[DType, ...] = tuple(d for d in tensors.DTYPES if d not in ("bytes", "bool"))


def described(dtype: DType, *, gaps: bool = False) -> Description:
    return Description(model="m@1.0.0", inputs=(TensorSpec(name="x", dtype=dtype, shape=(None,), gaps=gaps),))


def read(value: Any, dtype: DType = "float32", *, gaps: bool = False) -> Tensor:
    return tensors.of_json({"x": value}, described(dtype, gaps=gaps))["x"]


def refused(value: Any, dtype: DType = "float32", *, gaps: bool = False) -> SchemaMismatch:
    with pytest.raises(SchemaMismatch) as caught:
        read(value, dtype, gaps=gaps)
    return caught.value


def shown(tensor: Tensor, labels: tuple[str, ...] = (), encoding: str = "float") -> Any:
    """As a client reads it."""
    spec = TensorSpec(name="y", dtype=tensor.dtype, shape=(None,), labels=labels)
    return orjson.loads(render.to_json(tensors.to_json(tensor, spec, encoding)))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_nested_lists_become_the_declared_dtype_and_come_back(dtype: DType) -> None:
    rows = [[1, 2, 3], [4, 5, 100]]

    tensor = read(rows, dtype)

    assert (tensor.dtype, tensor.shape) == (dtype, (2, 3))
    assert np.frombuffer(tensor.data, dtype).reshape(2, 3).tolist() == rows
    assert shown(tensor) == {"dtype": dtype, "shape": [2, 3], "data": rows}


@pytest.mark.parametrize(
    ("value", "shape"), [(7, ()), ([], (0,)), ([[], []], (2, 0)), ([[[1], [2]]], (1, 2, 1)), ([[1, 2]], (1, 2))]
)
def test_the_shape_is_that_of_the_lists(value: Any, shape: tuple[int, ...]) -> None:
    tensor = read(value)

    assert tensor.shape == shape
    assert shown(tensor)["data"] == value


def test_texts_are_utf_8_and_files_are_base64() -> None:
    tensor = read(["grün", {"b64": base64.b64encode(b"\xff\xd8").decode()}, ""], "bytes")

    assert unpack(tensor.data) == ["grün".encode(), b"\xff\xd8", b""]
    assert shown(tensor)["data"] == ["grün", {"b64": "/9g="}, ""]


def test_one_file_alone_is_a_tensor_without_axes() -> None:
    tensor = read({"b64": "/9g="}, "bytes")

    assert (tensor.shape, unpack(tensor.data)) == ((), [b"\xff\xd8"])
    assert shown(tensor)["data"] == {"b64": "/9g="}


def test_booleans_are_true_and_false() -> None:
    assert read([[True], [False]], "bool") == Tensor(dtype="bool", shape=(2, 1), data=b"\1\0")
    assert shown(read([True, False], "bool"))["data"] == [True, False]


@pytest.mark.parametrize("dtype", NUMBERS)
def test_the_least_and_the_greatest_number_of_a_dtype_are_taken(dtype: DType) -> None:
    floating = dtype.startswith("float")
    limits: Any = np.finfo(dtype) if floating else np.iinfo(dtype)
    ends = [(float if floating else int)(end) for end in (limits.min, limits.max)]

    assert shown(read(orjson.loads(orjson.dumps(ends)), dtype))["data"] == pytest.approx(ends)


@pytest.mark.parametrize(
    ("value", "dtype", "field", "found", "expected"),
    [
        ([[1, 2], [3]], "float32", "inputs.x[1]", "a list of 1", "a list of 2, as at inputs.x[0]"),
        ([[[1], [2]], [[3], [4, 5]]], "float32", "inputs.x[1][1]", "a list of 2", "a list of 1, as at inputs.x[0][0]"),
        ([[1], 2], "float32", "inputs.x[1]", "2", "a list of 1, as at inputs.x[0]"),
        ([1, [2]], "float32", "inputs.x[1]", "a list of 1", "1, as at inputs.x[0]"),
        ([[1.5, 2], [3, "4"]], "float32", "inputs.x[1][1]", "the text '4'", "a number"),
        ([1, None], "float32", "inputs.x[1]", "null", "a number"),
        ([1, True], "float32", "inputs.x[1]", "true", "a number"),
        ([{"a": 1}], "float64", "inputs.x[0]", "an object", "a number"),
        ("abc", "float32", "inputs.x", "the text 'abc'", "a number"),
        ([1, 2.0], "int64", "inputs.x[1]", "2.0", "an integer"),
        ([1, False], "int64", "inputs.x[1]", "false", "an integer"),
        ([0, 256], "uint8", "inputs.x[1]", "256", "an integer from 0 to 255 (uint8)"),
        ([0, -1], "uint64", "inputs.x[1]", "-1", "an integer from 0 to 18446744073709551615 (uint64)"),
        ([2**63], "int64", "inputs.x[0]", "9223372036854775808", f"an integer from {-(2**63)} to {2**63 - 1} (int64)"),
        ([0, 1e39], "float32", "inputs.x[1]", "1e+39", "a number from -3.40282e+38 to 3.40282e+38 (float32)"),
        ([[0], [70_000]], "float16", "inputs.x[1][0]", "70000", "a number from -65504 to 65504 (float16)"),
        ([math.nan], "float64", "inputs.x[0]", "nan", "a number from -1.79769e+308 to 1.79769e+308 (float64)"),
        ([0, -math.inf], "float32", "inputs.x[1]", "-inf", "a number from -3.40282e+38 to 3.40282e+38 (float32)"),
        ([1, 0], "bool", "inputs.x[0]", "1", "true or false"),
        ([7], "bytes", "inputs.x[0]", "7", 'a text, or {"b64": ...} with the base64 of bytes'),
        ([{"b64": "/9g=", "name": "a"}], "bytes", "inputs.x[0]", "an object", None),
        (["a", {"b64": "no base64"}], "bytes", "inputs.x[1]", "an object", "base64"),
        ([{"b64": 7}], "bytes", "inputs.x[0]", "an object", None),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(
    value: Any, dtype: DType, field: str, found: str, expected: str | None
) -> None:
    error = refused(value, dtype)

    assert (error.field, error.found) == (field, found)
    assert expected is None or error.expected == expected
    assert error.detail.startswith(f"{field}: ")


def test_lists_may_be_only_so_deep() -> None:
    value: Any = 1
    for _ in range(33):
        value = [value]

    assert read(value[0]).shape == (1,) * 32
    assert refused(value).expected == "at most 32 axes"


def test_a_missing_value_is_null_where_the_model_fills_gaps_and_nowhere_else() -> None:
    numbers, colours = read([1.5, None], gaps=True), read(["red", None], "bytes", gaps=True)

    assert np.frombuffer(numbers.data, "<f4").tolist() == pytest.approx([1.5, math.nan], nan_ok=True)
    assert unpack(colours.data) == [b"red", b""]
    assert refused([1, None], "int64", gaps=True).found == "null"
    assert refused([1e39, None], gaps=True).found == "1e+39"
    assert refused([math.inf, None], gaps=True).found == "inf"


@pytest.mark.parametrize(
    "data",
    [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]], base64.b64encode(np.arange(1, 7, dtype="<i2").tobytes()).decode()],
)
def test_a_tensor_may_say_its_shape_itself(data: Any) -> None:
    tensor = read({"dtype": "int16", "shape": [2, 3], "data": data}, "int16")

    assert tensor == read([[1, 2, 3], [4, 5, 6]], "int16")
    assert read({"shape": [2, 3], "data": data}, "int16") == tensor


def test_another_dtype_than_the_declared_one_is_left_to_the_schema() -> None:
    assert read({"dtype": "float64", "shape": [1], "data": [1.5]}, "float32").dtype == "float64"


@pytest.mark.parametrize(
    ("value", "field", "found"),
    [
        ({"shape": [1]}, "inputs.x", "shape"),
        ({"shape": [1], "data": [1], "type": "a"}, "inputs.x", "data, shape, type"),
        ({}, "inputs.x", ""),
        ({"dtype": "FP32", "shape": [1], "data": [1]}, "inputs.x.dtype", "FP32"),
        ({"dtype": ["float32"], "shape": [1], "data": [1]}, "inputs.x.dtype", "['float32']"),
        ({"shape": 1, "data": [1]}, "inputs.x.shape", "1"),
        ({"shape": [-1], "data": [1]}, "inputs.x.shape", "[-1]"),
        ({"shape": [1.0], "data": [1]}, "inputs.x.shape", "[1.0]"),
        ({"shape": [True], "data": [1]}, "inputs.x.shape", "[True]"),
        ({"shape": [2**32], "data": [1]}, "inputs.x.shape", "[4294967296]"),
        ({"shape": [1] * 33, "data": [1]}, "inputs.x.shape", str([1] * 33)[:40]),
        ({"shape": [2, 2], "data": [1, 2, 3]}, "inputs.x.data", "3 elements"),
        ({"shape": [2, 2], "data": [1, 2, 3, "4"]}, "inputs.x.data[3]", "the text '4'"),
        ({"shape": [2**31, 2**31], "data": []}, "inputs.x.data", "0 elements"),
        ({"shape": [1], "data": "no base64!"}, "inputs.x.data", "no base64!"),
        ({"shape": [1], "data": "ä"}, "inputs.x.data", "ä"),
    ],
)
def test_a_tensor_that_says_nonsense_of_itself_is_refused(value: Any, field: str, found: str) -> None:
    error = refused(value)

    assert (error.field, error.found) == (field, found)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    specs = [TensorSpec(name=name, dtype="float32", shape=(None,)) for name in ("age", "height", "weight")]
    described = Description(model="m", inputs=(*specs, TensorSpec(name="b", dtype="bool", shape=(), optional=True)))

    with pytest.raises(SchemaMismatch) as caught:
        tensors.of_json({"age": ["x"], "hight": [1], "weight": [1]}, described)

    assert [(f.field, f.found, f.expected) for f in caught.value.faults] == [
        ("inputs.age[0]", "the text 'x'", "a number"),
        ("inputs.hight", "hight", "age, height, weight, b"),
        ("inputs.height", "nothing", "float32"),
    ]
    assert {f.code for f in caught.value.faults} == {"schema_mismatch"}
    assert caught.value.faults[1].detail == "the model has no input 'hight'; did you mean 'height'?"
    assert caught.value.detail.startswith("3 things are wrong; the first: inputs.age[0]: the text 'x' where")
    assert caught.value.field == "inputs.age[0]"


def test_of_a_million_faults_twenty_are_shown() -> None:
    with pytest.raises(SchemaMismatch, match="more than 20 things are wrong") as caught:
        tensors.of_json({f"x{i}": 1 for i in range(1_000_000)}, described("float32"))

    assert len(caught.value.faults) == 20


def test_a_name_as_long_as_a_body_is_not_compared_letter_by_letter() -> None:
    with pytest.raises(SchemaMismatch) as caught:
        tensors.of_json({"x" * 50_000_000: 1}, described("float32"))

    assert len(caught.value.detail) < 200


def test_the_best_label_of_each_row_stands_beside_the_numbers() -> None:
    labels = ("cat", "dog", "bird")
    scores = read([[0.1, 0.7, 0.2], [3, 2, 1]])

    assert shown(scores, labels)["labels"] == ["dog", "cat"]
    assert shown(read([0.1, 0.2, 0.7]), labels)["labels"] == "bird"
    assert shown(read([[[1, 0, 0], [0, 1, 0]]]), labels)["labels"] == [["cat", "dog"]]
    assert shown(read([[1, 5, 3]], "int8"), labels, "base64")["labels"] == ["dog"]


def test_labels_that_are_not_of_the_last_axis_are_not_guessed() -> None:
    labels = ("cat", "dog")

    for tensor in (read([[1, 2, 3]]), read(1), read([True, False], "bool"), read(["a", "b"], "bytes")):
        assert "labels" not in shown(tensor, labels)
    assert "labels" not in shown(read([1, 2]))


@pytest.mark.parametrize("dtype", tensors.DTYPES)
def test_base64_holds_the_bytes_of_the_tensor(dtype: DType) -> None:
    data = pack([b"a", b"bc"]) if dtype == "bytes" else np.ones(2, dtype).tobytes()
    tensor = Tensor(dtype=dtype, shape=(2,), data=data)

    assert base64.b64decode(shown(tensor, encoding="base64")["data"]) == data
    assert read(shown(tensor, encoding="base64"), dtype) == tensor
    assert read(shown(tensor), dtype) == tensor


def test_floats_come_back_to_the_last_bit() -> None:
    given = np.random.default_rng(0).standard_normal((50, 7)).astype("<f4")
    tensor = Tensor(dtype="float32", shape=(50, 7), data=given.tobytes())

    assert read(shown(tensor)["data"]) == tensor
