"""The schema of a tensor model: read from its file, declared in its configuration, compared, and every fault told."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from modelmora.domain.description import Description
from modelmora.domain.features import Categories, Numbers, Pictures, Table
from modelmora.domain.models import Batching, ModelSpec
from modelmora.domain.tensors import Axis, DType, TensorSpec
from modelmora.errors import ModelLoadFailed
from runners.inputs.declared import read_declared
from runners.inputs.schema import Own, Schema, read_schema
from tests.architecture.tree import ROOT


def tensor(name: str, *shape: Axis, dtype: DType = "float32", **more: Any) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape, **more)


OWN = Own(
    inputs=(tensor("pixel_values", "batch", 3, None, None), tensor("features", "batch", 6)),
    outputs=(tensor("scores", "batch", 3),),
)
TABLE = """
- tensor: features
  columns:
    - {name: age, impute: 38.5, scale: {mean: 38.5, std: 12.5}, range: [0, 120]}
    - {name: fare, scale: {min: 10, max: 20}}
    - {name: colour, one_hot: [red, green, blue], impute: red}
    - {name: class, one_hot: [7], unknown: ignore}
"""
PICTURE = """
- tensor: pixel_values
  input: photo
  image: {resize: shortest, height: 224, width: 224, shortest: 256, mean: [0.5, 0.4, 0.3], std: 0.25}
"""


def model(config: str | dict[str, Any] = "{}", *, max_batch: int | None = None) -> ModelSpec:
    return ModelSpec(
        name="tested",
        version="1.0.0",
        type="tensor",
        provider="onnx",
        source="file:tested",
        config=yaml.safe_load(config) if isinstance(config, str) else config,
        batching=Batching(max_batch=max_batch),
    )


def read(config: str | dict[str, Any] = "{}", own: Own = OWN) -> Schema:
    return read_schema(model(config), own, also=("file",))


def refusal(config: str | dict[str, Any], own: Own = OWN) -> str:
    with pytest.raises(ModelLoadFailed) as raised:
        read(config, own)
    return raised.value.detail


def test_what_is_not_declared_is_read_from_the_model() -> None:
    description = read().description(model(max_batch=7))

    assert description == Description(
        model="tested@1.0.0", inputs=OWN.inputs, outputs=OWN.outputs, batches=True, proven=False, max_batch=7
    )


def test_what_is_declared_narrows_what_the_model_takes() -> None:
    inputs = [
        {"name": "pixel_values", "dtype": "float32", "shape": ["batch", 3, 224, "width"], "range": [0, None]},
        {"name": "features", "dtype": "float32", "shape": ["batch", None]},
    ]
    outputs = [{"name": "scores", "dtype": "float32", "shape": ["batch", 3], "labels": ["a", "b", "c"]}]

    schema = read({"inputs": inputs, "outputs": outputs})

    assert schema.inputs == (tensor("pixel_values", "batch", 3, 224, "width", low=0.0), tensor("features", "batch", 6))
    assert schema.outputs == (tensor("scores", "batch", 3, labels=("a", "b", "c")),)


@pytest.mark.parametrize("first", ["batch", "N", "batch_size", None])
def test_a_first_axis_that_exporters_call_a_batch_is_one(first: Axis) -> None:
    schema = read(own=Own(inputs=(tensor("x", first, 4),), outputs=(tensor("y", "something_derived", 2),)))

    assert schema.batches
    assert (schema.inputs[0].shape, schema.outputs[0].shape) == (("batch", 4), ("batch", 2))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([tensor("x", "sequence", 4)], [tensor("y", "sequence", 2)]),
        ([tensor("x", "batch", 4), tensor("z", 4)], [tensor("y", "batch", 2)]),
        ([tensor("x", "batch", 4)], [tensor("y", 1)]),
        ([tensor("x", "batch", 4)], [tensor("y")]),
        ([tensor("x")], [tensor("y")]),
        ([], [tensor("y", "batch")]),
    ],
)
def test_without_a_batch_in_every_tensor_requests_go_alone(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> None:
    own = Own(inputs=tuple(inputs), outputs=tuple(outputs))

    description = read(own=own).description(model(max_batch=8))

    assert (description.batches, description.max_batch) == (False, 1)
    assert (description.inputs, description.outputs) == (own.inputs, own.outputs)


def test_of_declared_shapes_only_the_name_batch_makes_one() -> None:
    own = Own(inputs=(tensor("x", "n", 4),), outputs=(tensor("y", "n", 2),))
    declared = {"name": "x", "dtype": "float32", "shape": ["rows", 4]}

    assert not read({"inputs": [declared]}, own).batches
    assert read({"inputs": [{**declared, "shape": ["batch", 4]}]}, own).batches


def test_a_picture_file_becomes_a_tensor() -> None:
    schema = read({"preprocess": yaml.safe_load(PICTURE)})

    pictures = schema.prepared["pixel_values"]
    assert isinstance(pictures, Pictures)
    assert (pictures.input, pictures.layout, pictures.mean, pictures.std) == (
        "photo",
        "NCHW",
        (0.5, 0.4, 0.3),
        (0.25,),
    )
    assert (pictures.how.height, pictures.how.width, pictures.how.shortest) == (224, 224, 256)
    assert schema.taken == (tensor("photo", "batch", dtype="bytes"), OWN.inputs[1])
    assert schema.sample_shape(schema.inputs[0]) == (1, 3, 224, 224)


def test_the_size_of_pictures_is_the_tensors_where_that_is_fixed() -> None:
    own = Own(inputs=(tensor("x", "batch", 28, 30, 1, dtype="uint8"),), outputs=(tensor("y", "batch"),))

    schema = read({"preprocess": [{"tensor": "x", "image": {"channels": "L"}}]}, own)

    pictures = schema.prepared["x"]
    assert isinstance(pictures, Pictures)
    assert (pictures.how.height, pictures.how.width, pictures.layout, pictures.scale) == (28, 30, "NHWC", 1.0)
    assert schema.taken == (tensor("image", "batch", dtype="bytes"),)


def test_columns_become_a_table() -> None:
    schema = read({"preprocess": yaml.safe_load(TABLE)})

    assert schema.prepared["features"] == Table(
        tensor="features",
        dtype="float32",
        columns=(
            Numbers(name="age", dtype="float64", impute=38.5, center=38.5, spread=12.5),
            Numbers(name="fare", dtype="float64", center=10.0, spread=10.0),
            Categories(name="colour", texts=("red", "green", "blue"), impute=0),
            Categories(name="class", numbers=(7,), unknown="ignore"),
        ),
    )
    assert schema.taken[1:] == (
        tensor("age", "batch", dtype="float64", low=0.0, high=120.0, optional=True, gaps=True),
        tensor("fare", "batch", dtype="float64"),
        tensor("colour", "batch", dtype="bytes", labels=("red", "green", "blue"), optional=True, gaps=True, text=True),
        tensor("class", "batch", dtype="int64"),
    )


def test_all_of_it_crosses_the_hop() -> None:
    config = {"preprocess": yaml.safe_load(PICTURE) + yaml.safe_load(TABLE)}
    adapter = TypeAdapter(Description)

    description = read(config).description(model())

    assert len(description.prepared) == 2
    assert adapter.validate_json(adapter.dump_json(description)) == description


def documented() -> list[dict[str, Any]]:
    """The examples of `config` in docs/tensors.md."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "tensors.md").read_text(encoding="utf-8"), re.DOTALL)
    read_ = [yaml.safe_load(textwrap.dedent(block)) for block in blocks]
    return [one.get("config", one) for one in read_ if "models" not in one]


def test_the_documented_examples_are_taken() -> None:
    examples = documented()

    assert [sorted(one) for one in examples] == [["inputs", "outputs"], ["preprocess"], ["preprocess"]]
    for config in examples:
        read_declared(model(config), also=())


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{inpts: []}", "config.inpts: there is no such key; did you mean 'inputs'?"),
        ("{inputs: {name: x}}", "config.inputs: takes a valid list"),
        ("{inputs: [{name: x, dtype: float32}]}", "config.inputs[0].shape: is missing"),
        ("{inputs: [{name: x, dtype: float33, shape: []}]}", "config.inputs[0].dtype: takes 'bool', 'uint8'"),
        ("{inputs: [{name: x, dtype: float32, shape: [0]}]}", "shape[0]: takes a size from 1, a name"),
        ("{inputs: [{name: x, dtype: float32, shape: [true]}]}", "shape[0]: takes a size from 1, a name"),
        ("{inputs: [{name: x, dtype: float32, shape: ['a b']}]}", "shape[0]: takes a size from 1, a name"),
        ("{inputs: [{name: x, dtype: float32, shape: [], range: [2, 1]}]}", "takes [least, largest], the least first"),
        ("{inputs: [{name: x, dtype: float32, shape: [], range: [.nan, 1]}]}", "range: takes a number; found [nan"),
        ("{outputs: [{name: scores, dtype: float32, shape: [batch]}]}", "[batch] is declared, the model has"),
        ("{outputs: [{name: score, dtype: float32, shape: [batch]}]}", "did you mean 'scores'?"),
        ("{inputs: [{name: features, dtype: float32, shape: [batch, 6]}]}", "input 'pixel_values' is not declared"),
        ("{sample: {bach: 3}}", "config.sample.bach: no axis has this name; did you mean 'batch'?"),
        ("{sample: {height: 0}}", "config.sample.height: takes greater than or equal to 1"),
        ("{preprocess: [{tensor: features}]}", "config.preprocess[0]: takes image or columns"),
        ("{preprocess: [{tensor: feature, columns: [{name: a}]}]}", "no input 'feature'; did you mean 'features'?"),
        ("{preprocess: [{tensor: features, columns: []}]}", "config.preprocess[0].columns: "),
        ("{preprocess: [{tensor: features, input: x, columns: [{name: a}]}]}", "takes input only beside image"),
        ("{preprocess: [{tensor: features, columns: [{name: a}]}]}", "the columns fill 1 places of a row"),
        ("{preprocess: [{tensor: features, image: {}}]}", "'features' cannot be a picture"),
        ("{preprocess: [{tensor: pixel_values, columns: [{name: a}]}]}", "'pixel_values' cannot be a table"),
        ("{preprocess: [{tensor: pixel_values, image: {}}]}", "image.height: is missing, and the model takes any"),
        ("{preprocess: [{tensor: pixel_values, image: {channels: L, height: 8, width: 8}}]}", "L has 1 channels"),
        ("{preprocess: [{tensor: pixel_values, image: {mean: [1, 2], height: 8, width: 8}}]}", "takes 1 number or 3"),
        ("{preprocess: [{tensor: pixel_values, image: {std: 0, height: 8, width: 8}}]}", "std: takes numbers above 0"),
        ("{preprocess: [{tensor: pixel_values, image: {resize: crop}}]}", "takes 'shortest', 'longest', 'exact'"),
        ("{preprocess: [{tensor: pixel_values, image: {size: 3}}]}", "there is no such key"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_with_its_place(config: str, told: str) -> None:
    assert told in refusal(config)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("{name: a, one_hot: [yes, no]}", "YAML reads yes, no and numbers as such unless quoted"),
        ("{name: a, one_hot: [a, 1]}", "takes a list of texts"),
        ("{name: a, one_hot: []}", "takes a list of texts"),
        ("{name: a, one_hot: [a, a]}", "takes every category once"),
        ("{name: a, one_hot: [a, b], impute: c}", "takes one of one_hot to impute"),
        ("{name: a, one_hot: [a], scale: {mean: 0, std: 1}}", "takes scale only of numbers, not beside one_hot"),
        ("{name: a, unknown: ignore}", "takes unknown only beside one_hot"),
        ("{name: a, impute: red}", "takes a number to impute"),
        ("{name: a, impute: .inf}", "impute: takes a number"),
        ("{name: a, impute: true}", "impute: takes a number"),
        ("{name: a, scale: {mean: 1}}", "takes mean and std, or min and max"),
        ("{name: a, scale: {mean: 1, std: 0}}", "takes a std above 0"),
        ("{name: a, scale: {min: 1, max: 1}}", "or a max above min"),
        ("{name: a, dtype: float16}", "dtype: takes 'float32', 'float64' or 'int64'"),
    ],
)  # fmt: skip
def test_what_a_column_cannot_be_is_told(column: str, told: str) -> None:
    said = refusal(f"{{preprocess: [{{tensor: features, columns: [{column}]}}]}}")

    assert "config.preprocess[0].columns[0]" in said
    assert told in said


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ModelLoadFailed) as raised:
        read("{otputs: 1, sample: {h: x}, preprocess: [{tensor: y, columns: [{name: a, scale: {}}]}]}")

    assert [fault.field for fault in raised.value.faults] == [
        "config.preprocess[0].columns[0].scale",
        "config.sample.h",
        "config.otputs",
    ]
    assert "the configuration has 3 faults" in raised.value.detail


def test_two_inputs_of_one_name_are_a_fault() -> None:
    said = refusal({"preprocess": [*yaml.safe_load(PICTURE.replace("photo", "age")), *yaml.safe_load(TABLE)]})

    assert "callers would send 'age' twice" in said


def test_a_tensor_is_made_once() -> None:
    assert "'features' is made twice" in refusal({"preprocess": yaml.safe_load(TABLE) * 2})


def test_uint8_pixels_are_not_normalised() -> None:
    own = Own(inputs=(tensor("x", "batch", 3, 8, 8, dtype="uint8"),), outputs=(tensor("y", "batch"),))

    assert "scale, mean and std would be lost" in refusal(
        {"preprocess": [{"tensor": "x", "image": {"mean": 0.5}}]}, own
    )


def test_pictures_of_any_size_do_not_fit_a_fixed_one() -> None:
    own = Own(inputs=(tensor("x", "batch", 3, 8, 8),), outputs=(tensor("y", "batch"),))
    config: dict[str, Any] = {"preprocess": [{"tensor": "x", "image": {"resize": "none"}}]}

    assert "pictures would not all get the height of 8" in refusal(config, own)
    assert read(config, OWN_OF_ANY_SIZE).prepared["x"].tensor == "x"


OWN_OF_ANY_SIZE = Own(inputs=(tensor("x", "batch", 3, None, None),), outputs=(tensor("y", "batch"),))


def test_what_the_file_does_not_tell_must_be_declared() -> None:
    own = Own().with_input(tensor("x", "batch", 4)).with_output(tensor("y"), "its shape is not in the file")
    outputs = [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}]

    assert "'y': its shape is not in the file; declare the outputs to serve" in refusal({}, own)
    assert read({"outputs": outputs}, own).outputs == (tensor("y", "batch", 2),)


def test_texts_have_no_range() -> None:
    own = Own(inputs=(tensor("x", "batch", dtype="bytes"),), outputs=(tensor("y", "batch"),))
    declared = {"name": "x", "dtype": "bytes", "shape": ["batch"], "range": [0, 1]}

    assert "bytes has no range" in refusal({"inputs": [declared]}, own)


def test_what_the_model_needs_is_not_made_optional() -> None:
    declared = {"name": "x", "dtype": "float32", "shape": ["batch", 4], "optional": True}
    own = Own(inputs=(tensor("x", "batch", 4),), outputs=(tensor("y", "batch"),))

    assert "the model cannot do without 'x'" in refusal({"inputs": [declared]}, own)
