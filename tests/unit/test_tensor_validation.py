"""A request's tensors held against the schema, and pictures and tables made into what the model takes."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from modelmora.domain.description import Description
from modelmora.domain.features import Categories, Channels, Layout, Numbers, Pictures, Prepared, Table
from modelmora.domain.preprocess import Preprocess
from modelmora.domain.tensors import DType, Tensor, TensorSpec, pack
from modelmora.errors import LimitExceeded, SchemaMismatch
from runners.inputs import features
from runners.inputs.features import prepare
from runners.inputs.tensors import checked, rows_of


def of(array: Any, dtype: str = "float32") -> Tensor:
    values = np.asarray(array, dtype)
    return Tensor(dtype=values.dtype.name, shape=values.shape, data=values.tobytes())  # type: ignore[arg-type]


def texts(*ones: str | bytes, shape: tuple[int, ...] | None = None) -> Tensor:
    encoded = [one.encode() if isinstance(one, str) else one for one in ones]
    return Tensor(dtype="bytes", shape=shape or (len(ones),), data=pack(encoded))


def description(*inputs: TensorSpec, batches: bool = True) -> Description:
    return Description(model="tested@1.0.0", inputs=inputs, batches=batches)


def spec(*shape: int | str | None, name: str = "x", dtype: DType = "float32", **more: Any) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape, **more)


def faults(inputs: dict[str, Tensor], *specs: TensorSpec) -> list[tuple[str | None, str | None, str | None]]:
    """Field, found and expected of all that is wrong."""
    with pytest.raises(SchemaMismatch) as raised:
        checked(inputs, description(*specs))
    return [(fault.field, fault.found, fault.expected) for fault in raised.value.faults]


def test_what_fits_comes_as_arrays() -> None:
    inputs = {"x": of([[1, 2], [3, 4], [5, 6]]), "t": texts("a", b"\xff", "c")}
    both = description(spec("batch", 2), spec("batch", name="t", dtype="bytes"))

    arrays = checked(inputs, both)

    assert arrays["x"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert arrays["t"].tolist() == [b"a", b"\xff", b"c"]
    assert (rows_of(inputs, both), rows_of(inputs, description(*both.inputs, batches=False))) == (3, 1)


def test_what_may_be_left_out_may() -> None:
    arrays = checked({"x": of([1.0])}, description(spec("batch"), spec(1, name="factor", optional=True)))

    assert [*arrays] == ["x"]


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (of([1.0, 2.0], "float64"), [("inputs.x", "float64", "float32"), ("inputs.x", "[2]", "[batch, 2]")]),
        (of([[1, 2]], "int64"), [("inputs.x", "int64", "float32")]),
        (of([[1, 2, 3]]), [("inputs.x", "[1, 3]", "[batch, 2]")]),
        (of([[[1, 2]]]), [("inputs.x", "[1, 1, 2]", "[batch, 2]")]),
        (of(1.0), [("inputs.x", "[]", "[batch, 2]")]),
        (of(np.zeros((0, 2))), [("inputs.x", "[0, 2]", "at least 1 along every axis")]),
        (Tensor(dtype="float32", shape=(2, 2), data=bytes(15)), [("inputs.x", "15 bytes", "16 bytes")]),
        (Tensor(dtype="float32", shape=(2, 2), data=bytes(17)), [("inputs.x", "17 bytes", "16 bytes")]),
        (Tensor(dtype="float32", shape=(2**40, 2), data=b""), [("inputs.x", "0 bytes", f"{2**43} bytes")]),
        (Tensor(dtype="float32", shape=(-1, 2), data=b""), [("inputs.x", "[-1, 2]", "at least 1 along every axis")]),
    ],
)
def test_another_dtype_shape_or_size_is_named(tensor: Tensor, expected: list[tuple[str, str, str]]) -> None:
    assert faults({"x": tensor}, spec("batch", 2)) == expected


def test_every_fault_of_every_input_is_told_at_once() -> None:
    inputs = {"a": of([[np.nan]]), "b": of([2.0]), "colur": texts("red")}
    specs = (
        spec("batch", 1, name="a"),
        spec("batch", name="b", high=1.0),
        spec("batch", name="colour", dtype="bytes"),
    )

    with pytest.raises(SchemaMismatch, match="4 things are wrong") as raised:
        checked(inputs, description(*specs))

    said = [fault.detail for fault in raised.value.faults]
    assert said == [
        "tested@1.0.0 has no input 'colur'; did you mean 'colour'?",
        "the input 'colour' is missing",
        "'a' has values that are not finite (1 of 1); the first is nan at [0][0]",
        "'b' has values outside any to 1 (1 of 1); the first is 2.0 at [0]",
    ]


def test_nothing_at_all_is_a_fault() -> None:
    assert faults({}, spec("batch", optional=True)) == [("inputs", None, "x")]
    assert faults({}, spec("batch")) == [("inputs.x", "nothing", "float32 [batch]")]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_is_not_finite_is_refused_in_every_float(dtype: DType, value: float) -> None:
    array = np.array([[1, 2], [value, value]], dtype)

    assert faults({"x": of(array, dtype)}, spec("batch", 2, dtype=dtype)) == [
        ("inputs.x[1][0]", str(np.dtype(dtype).type(value)), "finite numbers")
    ]


def test_only_where_gaps_are_declared_may_a_number_be_missing() -> None:
    column = spec("batch", dtype="float64", gaps=True, low=0.0)

    assert np.isnan(checked({"x": of([1, np.nan], "float64")}, description(column))["x"][1])
    assert faults({"x": of([np.inf, np.nan], "float64")}, column) == [("inputs.x[0]", "inf", "finite numbers")]
    assert faults({"x": of([-1, np.nan], "float64")}, column) == [("inputs.x[0]", "-1.0", "0 to any")]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint64", "float16", "float32"])
def test_numbers_outside_the_range_are_counted_and_the_first_is_shown(dtype: DType) -> None:
    with pytest.raises(
        SchemaMismatch, match=r"values outside 1 to 100 \(2 of 4\); the first is 0(\.0)? at \[0\]"
    ) as raised:
        checked({"x": of([0, 1, 100, 101], dtype)}, description(spec("batch", dtype=dtype, low=1.0, high=100.0)))

    assert raised.value.faults[0].expected == "1 to 100"


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float64"])
def test_a_range_may_be_wider_than_the_dtype(dtype: DType) -> None:
    assert checked({"x": of([0, 100], dtype)}, description(spec("batch", dtype=dtype, low=-1e300, high=1e300)))


def test_axes_of_one_name_have_one_size() -> None:
    specs = (spec("batch", "tokens", name="ids"), spec("batch", "tokens", name="mask"), spec("batch", None, name="any"))
    inputs = {"ids": of(np.zeros((2, 5))), "mask": of(np.zeros((3, 4))), "any": of(np.zeros((2, 9)))}

    assert faults(inputs, *specs) == [
        ("inputs.mask", "[3, 4]", "batch = 2"),
        ("inputs.mask", "[3, 4]", "tokens = 5"),
    ]


def test_booleans_are_0_or_1() -> None:
    tensor = Tensor(dtype="bool", shape=(3,), data=b"\x00\x01\x02")

    assert faults({"x": tensor}, spec("batch", dtype="bool")) == [("inputs.x[2]", "2", "0 or 1")]


@pytest.mark.parametrize("data", [b"\x01", b"\x05\x00\x00\x00ab", b"\xff\xff\xff\xff", b"", pack([b"a"])])
def test_elements_that_do_not_fit_their_lengths_are_refused(data: bytes) -> None:
    tensor = Tensor(dtype="bytes", shape=(2,), data=data)

    (fault,) = faults({"x": tensor}, spec("batch", dtype="bytes"))

    assert fault[0] == "inputs.x"


def test_texts_are_utf_8_and_among_those_declared() -> None:
    column = spec("batch", dtype="bytes", labels=("red", "żółty"), text=True)

    assert checked({"x": texts("żółty", "red")}, description(column))
    assert faults({"x": texts("red", b"\xff\xfe", "pink")}, column) == [
        ("inputs.x[1]", r"b'\xff\xfe'", "UTF-8"),
        ("inputs.x[2]", "'pink'", "red, żółty"),
    ]
    assert faults({"x": texts("", "red")}, column)[0][1] == "''"
    assert checked({"x": texts("", "red")}, description(spec("batch", dtype="bytes", labels=("red",), gaps=True)))


@settings(max_examples=200, deadline=None)
@given(
    dtype=st.sampled_from(["bool", "uint8", "int64", "float16", "float32", "bytes"]),
    shape=st.lists(st.integers(-2, 4) | st.integers(2**31, 2**63), max_size=4),
    data=st.binary(max_size=64),
)
def test_any_tensor_is_taken_or_refused_in_our_words(dtype: DType, shape: list[int], data: bytes) -> None:
    declared = description(spec("batch", "n", dtype=dtype, text=True))
    arrays: dict[str, NDArray[Any]] = {}
    with contextlib.suppress(SchemaMismatch):
        arrays = checked({"x": Tensor(dtype=dtype, shape=tuple(shape), data=data)}, declared)

    assert all(array.shape == tuple(shape) for array in arrays.values())


def test_a_long_text_is_shown_in_part() -> None:
    (fault,) = faults({"x": texts("a" * 10_000)}, spec("batch", dtype="bytes", labels=("b",)))

    assert len(fault[1] or "") < 100


# Preparing.


def table(*columns: Numbers | Categories, dtype: DType = "float32") -> Table:
    return Table(tensor="features", dtype=dtype, columns=columns)


def objects(*ones: str) -> NDArray[Any]:
    array = np.empty(len(ones), dtype=object)
    array[:] = [one.encode() for one in ones]
    return array


def made(prepared: Prepared, rows: int, *, first: int = 0, **arrays: Any) -> NDArray[Any]:
    given_, _ = prepare(arrays, [prepared], first=first, rows=rows, max_pixels=10**6)
    return np.asarray(given_[prepared.tensor])


def test_a_table_is_scaled_and_encoded_as_scikit_learn_does_it() -> None:
    random = np.random.default_rng(0)
    ages, fares = random.normal(40, 12, 50), random.uniform(5, 500, 50)
    colours = random.choice(["red", "green", "blue"], 50)
    standard, ranged = StandardScaler().fit(ages[:, None]), MinMaxScaler().fit(fares[:, None])
    encoder = OneHotEncoder(categories=[["red", "green", "blue"]], sparse_output=False).fit(colours[:, None])
    columns = (
        Numbers(name="age", dtype="float64", center=float(standard.mean_[0]), spread=float(standard.scale_[0])),
        Numbers(name="fare", dtype="float64", center=float(ranged.data_min_[0]), spread=float(ranged.data_range_[0])),
        Categories(name="colour", texts=("red", "green", "blue")),
    )

    given_ = made(table(*columns), 50, age=ages, fare=fares, colour=objects(*colours))

    expected = [
        standard.transform(ages[:, None]),
        ranged.transform(fares[:, None]),
        encoder.transform(colours[:, None]),
    ]
    assert given_.dtype == np.float32
    assert np.abs(given_ - np.hstack(expected)).max() < 1e-6


def test_what_is_missing_is_imputed_before_it_is_scaled() -> None:
    columns = (
        Numbers(name="age", dtype="float64", impute=30.0, center=10.0, spread=10.0),
        Categories(name="colour", texts=("red", "green"), impute=1),
    )

    one_by_one = made(table(*columns), 2, age=np.array([np.nan, 20]), colour=objects("", "red"))
    left_out = made(table(*columns), 2, age=np.array([20.0, 20.0]))

    assert one_by_one.tolist() == [[2, 0, 1], [1, 1, 0]]
    assert left_out.tolist() == [[1, 0, 1], [1, 0, 1]]


def test_whole_numbers_are_categories_too_and_unknown_ones_are_ignored_or_refused() -> None:
    ignoring = table(Categories(name="kind", numbers=(1, 3), unknown="ignore"))
    refusing = table(Categories(name="kind", numbers=(1, 3)))

    assert made(ignoring, 3, kind=np.array([3, 2, 1])).tolist() == [[0, 1], [0, 0], [1, 0]]
    with pytest.raises(SchemaMismatch) as raised:
        made(refusing, 3, first=16, kind=np.array([3, 2, 4]))
    assert [(f.field, f.found, f.expected) for f in raised.value.faults] == [
        ("inputs.kind[17]", "2", "1, 3"),
        ("inputs.kind[18]", "4", "1, 3"),
    ]


def test_a_value_too_large_for_the_models_dtype_is_refused() -> None:
    half = table(Numbers(name="age", dtype="float64"), dtype="float16")

    with pytest.raises(SchemaMismatch, match="row 1 of the table has a value beyond float16: 100000"):
        made(half, 2, age=np.array([1.0, 1e5]))


PHOTOGRAPH = skimage.data.astronaut()  # type: ignore[no-untyped-call]


def photograph(size: tuple[int, int] = (80, 60)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).resize(size).save(file, "PNG")
    return file.getvalue()


def files(*contents: bytes) -> NDArray[Any]:
    array = np.empty(len(contents), dtype=object)
    array[:] = contents
    return array


EXACT = Preprocess(resize="exact", height=30, width=40, interpolation="bilinear")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["RGB", "BGR", "L"])
def test_a_picture_is_resized_scaled_and_normalised(channels: Channels, layout: Layout) -> None:
    mean, std = ((0.5,), (0.25,)) if channels == "L" else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    how = Pictures(
        input="photo", tensor="x", dtype="float32", how=EXACT, channels=channels, layout=layout, mean=mean, std=std
    )

    given_ = made(how, 2, photo=files(photograph(), photograph((50, 50))))

    picture = Image.open(io.BytesIO(photograph())).convert("RGB").resize((40, 30), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture.convert("L") if channels == "L" else picture, np.float64).reshape(30, 40, -1)
    pixels = pixels[..., ::-1] if channels == "BGR" else pixels
    expected = (pixels / 255 - mean) / std
    one = given_[0].transpose(1, 2, 0) if layout == "NCHW" else given_[0]
    assert given_.dtype == np.float32
    assert len(given_) == 2
    assert np.abs(one - expected).max() < 1e-5


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 1.0), ("float16", 1 / 255), ("float64", 1 / 255)])
def test_a_picture_takes_the_models_dtype(dtype: DType, scale: float) -> None:
    how = Pictures(input="photo", tensor="x", dtype=dtype, how=EXACT, scale=scale)

    given_ = made(how, 1, photo=files(photograph()))

    assert given_.dtype == dtype
    assert given_.max() > 0.5


def test_pictures_that_are_none_are_named_by_their_rows() -> None:
    how = Pictures(input="photo", tensor="x", dtype="float32", how=EXACT)

    with pytest.raises(SchemaMismatch, match="2 things are wrong") as raised:
        made(how, 3, first=32, photo=files(b"", photograph(), b"no picture"))

    assert [(fault.code, fault.field) for fault in raised.value.faults] == [
        ("invalid_input", "inputs.photo[32]"),
        ("unsupported_media", "inputs.photo[34]"),
    ]


def test_pictures_of_different_sizes_do_not_go_together() -> None:
    how = Pictures(input="photo", tensor="x", dtype="float32", how=Preprocess(resize="none", height=0, width=0))

    assert made(how, 2, photo=files(photograph(), photograph())).shape == (2, 3, 60, 80)
    with pytest.raises(SchemaMismatch, match="different sizes") as raised:
        made(how, 2, photo=files(photograph(), photograph((50, 40))))
    assert raised.value.faults[0].found == "50x40, 80x60"


def test_what_is_not_prepared_passes() -> None:
    given_, rows = prepare({"x": np.ones(2)}, [], first=0, rows=2, max_pixels=1)

    assert (given_["x"].tolist(), rows) == ([1, 1], 2)


PHOTOGRAPH_BYTES = 80 * 60 * 3 * 4


@pytest.mark.parametrize(("room", "taken"), [(1, 1), (1.9, 1), (2, 2), (2.5, 2), (9, 4)])
def test_only_as_many_pictures_are_taken_as_have_room(room: float, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PICTURES_BYTES", int(room * PHOTOGRAPH_BYTES))
    how = Pictures(input="photo", tensor="x", dtype="float32", how=Preprocess(resize="none", height=0, width=0))
    age = table(Numbers(name="age", dtype="float64"))
    arrays = {"photo": files(*[photograph()] * 4), "age": np.arange(4.0), "more": np.arange(4)}

    given_, rows = prepare(arrays, [how, age], first=0, rows=4, max_pixels=10**6)

    assert rows == taken
    assert {name: array.shape[0] for name, array in given_.items()} == {"x": taken, "features": taken, "more": taken}


def test_pictures_without_room_that_cannot_be_parted_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PICTURES_BYTES", 2 * PHOTOGRAPH_BYTES)
    how = Pictures(input="photo", tensor="x", dtype="float32", how=Preprocess(resize="none", height=0, width=0))

    with pytest.raises(LimitExceeded, match="the model takes them all together") as raised:
        prepare({"photo": files(*[photograph()] * 4)}, [how], first=0, rows=1, max_pixels=10**6, whole=True)

    assert raised.value.field == "inputs.photo"


def test_integers_that_are_no_categories_are_refused_in_the_whole_request_at_once() -> None:
    refusing, ignoring = (
        Categories(name="kind", numbers=(1, 3)),
        Categories(name="other", numbers=(1,), unknown="ignore"),
    )
    described = Description(
        model="m@1",
        inputs=(spec("batch", name="kind", dtype="int64"), spec("batch", name="other", dtype="int64")),
        prepared=(table(refusing, ignoring),),
    )
    kinds = np.ones(1000, np.int64)
    kinds[[700, 900]] = 2, 4

    with pytest.raises(SchemaMismatch) as raised:
        checked({"kind": of(kinds, "int64"), "other": of(kinds, "int64")}, described)

    assert (raised.value.field, raised.value.found, raised.value.expected) == ("inputs.kind[700]", "2", "1, 3")
    assert "(2 of 1000)" in raised.value.detail


def test_columns_of_different_lengths_are_no_table() -> None:
    both = table(Numbers(name="age", dtype="float64"), Numbers(name="fare", dtype="float64"))

    for fare in ([5.0], [5.0, 6.0]):
        with pytest.raises(SchemaMismatch, match=r"column 'fare' has . rows where others of its table have 3"):
            made(both, 3, age=np.array([1.0, 2.0, 3.0]), fare=np.array(fare))
