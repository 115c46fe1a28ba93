"""ONNX models give what the networks they were exported from give, and files that are none say what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper
from sklearn.datasets import load_iris
from structlog.testing import capture_logs

from modelmora.domain.tensors import TensorSpec
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed, ModelMoraError, OutOfMemory, SchemaMismatch
from runners import devices
from runners.networks.tensors import trying
from runners.onnx import PROVIDER
from runners.payload import Parcel
from tests.models.tensor_nets import (
    endless,
    export,
    field,
    graph,
    linear,
    perceptron,
    relay,
    species,
    tensor_spec,
    value,
    weights,
    write,
    write_perceptron,
)
from tests.support import wait_until

TOLERANCE = 1e-4


def opened(folder: Path, *, threads: int = 1, **config: Any) -> Any:
    return PROVIDER.load(tensor_spec(**config), folder, device="cpu", threads=threads)


def parcel(rows: int | None = None, **tensors: Any) -> Parcel:
    arrays = {name: np.asarray(one) for name, one in tensors.items()}
    return Parcel(tensors=arrays, rows=len(next(iter(arrays.values()))) if rows is None else rows)


def texts(*ones: str) -> NDArray[Any]:
    array = np.empty(len(ones), dtype=object)
    array[:] = [one.encode() for one in ones]
    return array


def reference(network: torch.nn.Module, array: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.asarray(network(torch.from_numpy(array)).numpy())


def refusal(folder: Path, **config: Any) -> str:
    """What is said of a model that cannot be served."""
    with pytest.raises(ModelLoadFailed) as raised:
        opened(folder, **config)
    return raised.value.detail


def test_a_perceptron_gives_what_torch_gives(tmp_path: Path) -> None:
    network = perceptron()
    write_perceptron(tmp_path, network)
    array = np.random.default_rng(1).standard_normal((7, 4), dtype=np.float32)

    (given,) = opened(tmp_path).predict([parcel(features=array)])

    assert given.rows == 7
    assert np.abs(given.tensors["scores"] - reference(network, array)).max() <= TOLERANCE


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (33, 75)])
def test_a_real_architecture_gives_what_torch_gives_at_every_size(tmp_path: Path, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(num_classes=10).eval()
    axes = {"pixel_values": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch"}}
    example = torch.zeros(2, 3, 64, 64)
    export(network, tmp_path / "model.onnx", example, inputs=["pixel_values"], outputs=["logits"], axes=axes)
    array = np.random.default_rng(1).standard_normal((3, 3, *size), dtype=np.float32)

    model = opened(tmp_path, threads=2, sample={"height": 64, "width": 64})
    (given,) = model.predict([parcel(pixel_values=array)])

    assert model.description.inputs == (
        TensorSpec(name="pixel_values", dtype="float32", shape=("batch", 3, "height", "width")),
    )
    assert np.abs(given.tensors["logits"] - reference(network, array)).max() <= TOLERANCE


def test_rows_of_several_callers_are_computed_together_and_each_gets_its_own(tmp_path: Path) -> None:
    network = perceptron()
    write_perceptron(tmp_path, network)
    arrays = [np.random.default_rng(i).standard_normal((rows, 4), dtype=np.float32) for i, rows in enumerate((1, 5, 2))]

    given = opened(tmp_path).predict([parcel(features=array) for array in arrays])

    assert [one.rows for one in given] == [1, 5, 2]
    for one, array in zip(given, arrays, strict=True):
        assert np.abs(one.tensors["scores"] - reference(network, array)).max() <= TOLERANCE


def test_callers_who_ask_for_different_outputs_share_a_batch(tmp_path: Path) -> None:
    write(tmp_path, species())
    measured = load_iris().data[:2].astype(np.float32)
    some = Parcel(tensors={"measured": measured}, options={"outputs": ["species"]}, rows=2)

    given = opened(tmp_path).predict([some, parcel(measured=measured)])

    assert [sorted(one.tensors) for one in given] == [["species"], ["probabilities", "species"]]


def test_a_classifier_of_a_table_gives_texts_and_probabilities(tmp_path: Path) -> None:
    write(tmp_path, species())
    measured = load_iris().data.astype(np.float32)

    (given,) = opened(tmp_path).predict([parcel(measured=measured)])

    logits = measured @ (np.arange(12, dtype=np.float32) / 10).reshape(3, 4).T + [0.5, 0.0, -0.5]
    likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(given.tensors["probabilities"] - likely).max() <= TOLERANCE
    names = np.array(["setosa", "versicolor", "virginica"])
    assert given.tensors["species"].tolist() == names[likely.argmax(axis=1)].tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64", "uint32", "uint64"])
def test_numbers_keep_their_dtype(tmp_path: Path, dtype: str) -> None:
    write(tmp_path, linear(dtype=dtype))
    array = np.arange(8).reshape(2, 4).astype(dtype)

    model = opened(tmp_path)
    (given,) = model.predict([parcel(x=array)])

    assert model.description.inputs[0].dtype == dtype
    assert given.tensors["y"].dtype == dtype
    assert given.tensors["y"].tolist() == (array @ np.arange(8).reshape(4, 2).astype(dtype)).tolist()


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        (TensorProto.BOOL, "bool"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.INT8, "int8"),
        (TensorProto.UINT16, "uint16"),
        (TensorProto.INT16, "int16"),
    ],
)
def test_small_numbers_pass_as_they_are(tmp_path: Path, code: int, dtype: str) -> None:
    write(tmp_path, relay(code, ("batch", 3)))
    array = np.array([[0, 1, 1]]).astype(dtype)

    (given,) = opened(tmp_path).predict([parcel(x=array)])

    assert given.tensors["y"].dtype == dtype
    assert given.tensors["y"].tolist() == array.tolist()


def test_texts_pass_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, relay())

    model = opened(tmp_path)
    given = model.predict([parcel(x=texts("a", "żółć")), parcel(x=texts("", "日本"))])

    assert [one.tensors["y"].tolist() for one in given] == [["a", "żółć"], ["", "日本"]]
    assert model.description.inputs == (TensorSpec(name="x", dtype="bytes", shape=("batch",), text=True),)


def test_a_sequence_of_any_length_is_not_taken_for_a_batch(tmp_path: Path) -> None:
    shape: list[int | str | None] = ["sequence", 4]
    node = helper.make_node("CumSum", ["x", "axis"], ["y"])
    ends = [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, shape)]
    write(tmp_path, graph([node], *ends, [weights("axis", np.array(0, np.int64))]))
    array = np.ones((3, 4), np.float32)

    model = opened(tmp_path)
    given = model.predict([parcel(rows=1, x=array), parcel(rows=1, x=array)])

    assert (model.description.batches, model.description.max_batch) == (False, 1)
    assert [one.tensors["y"][:, 0].tolist() for one in given] == [[1, 2, 3], [1, 2, 3]]


def test_a_fixed_batch_is_served_alone(tmp_path: Path) -> None:
    export(perceptron(), tmp_path / "model.onnx", torch.zeros(1, 4), inputs=["features"], outputs=["scores"], axes={})

    model = opened(tmp_path)

    assert (model.description.batches, model.description.inputs[0].shape) == (False, (1, 4))
    assert model.predict([parcel(features=np.zeros((1, 4), np.float32))])[0].tensors["scores"].shape == (1, 3)


def norm_of_rows(first: int | str | None = None) -> onnx.ModelProto:
    """Softmax over the first axis: what a row gives depends on those beside it."""
    shape = [first, 4]
    node = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    return graph([node], [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, shape)])


def sum_of_rows() -> onnx.ModelProto:
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)
    ends = [value("x", TensorProto.FLOAT, ["batch", 4])], [value("y", TensorProto.FLOAT, ["batch", 4])]
    return graph([node], *ends, [weights("axes", np.array([0], np.int64))])


def running_total(dtype: int) -> onnx.ModelProto:
    node, axis = helper.make_node("CumSum", ["x", "axis"], ["y"]), weights("axis", np.array(0, np.int64))
    return graph([node], [value("x", dtype, [None])], [value("y", dtype, [None])], [axis])


def scale_of_all_rows() -> onnx.ModelProto:
    """int8 as onnxruntime's dynamic quantisation has it: the scale is that of all that came."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    return graph(nodes, [value("x", TensorProto.FLOAT, [None, 4])], [value("y", TensorProto.FLOAT, [None, 4])])


ENTANGLED = {
    "normalised over the rows": norm_of_rows(),
    "called a batch all the same": norm_of_rows("batch"),
    "summed up": sum_of_rows(),
    "a sequence of floats": running_total(TensorProto.FLOAT),
    "a sequence of integers": running_total(TensorProto.INT64),
    "one scale for all": scale_of_all_rows(),
}


@pytest.mark.parametrize("kind", ENTANGLED)
def test_rows_that_hang_together_are_never_put_together(tmp_path: Path, kind: str) -> None:
    write(tmp_path, ENTANGLED[kind])
    dtype = np.int64 if "integers" in kind else np.float32
    width = () if "sequence" in kind else (4,)
    one, other = (np.arange(1, 1 + np.prod((rows, *width))).reshape(rows, *width).astype(dtype) for rows in (2, 3))

    with capture_logs() as logs:
        model = opened(tmp_path)
    together = [given.tensors["y"] for given in model.predict([parcel(x=one), parcel(x=other)])]
    alone = [model.predict([parcel(x=each)])[0].tensors["y"] for each in (one, other)]

    assert PROVIDER.describe(tensor_spec(), tmp_path).batches
    assert (model.description.batches, model.description.max_batch, model.description.proven) == (False, 1, True)
    assert [each.tolist() for each in together] == [each.tolist() for each in alone]
    (told,) = (log for log in logs if log["event"] == "model_not_batched")
    assert "'y'" in told["why"]


def test_inputs_whose_first_axes_are_no_batch_may_differ_in_them(tmp_path: Path) -> None:
    """Every row of one against every row of the other."""
    nodes = [helper.make_node("Transpose", ["b"], ["t"]), helper.make_node("MatMul", ["a", "t"], ["y"])]
    ends = [value(name, TensorProto.FLOAT, [None, 4]) for name in "ab"], [value("y", TensorProto.FLOAT, [None, None])]
    write(tmp_path, graph(nodes, *ends))

    model = opened(tmp_path)
    (given,) = model.predict([parcel(rows=1, a=np.eye(2, 4, dtype=np.float32), b=np.ones((3, 4), np.float32))])

    assert not model.description.batches
    assert [one.shape for one in model.description.inputs] == [(None, 4), (None, 4)]
    assert given.tensors["y"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_an_unnamed_axis_whose_rows_stay_apart_is_a_batch(tmp_path: Path) -> None:
    write(tmp_path, species())

    description = opened(tmp_path).description

    assert (description.batches, description.proven, description.inputs[0].shape) == (True, True, ("batch", 4))
    assert not PROVIDER.describe(tensor_spec(), tmp_path).proven


def test_a_table_of_one_row_is_proven_by_its_floats(tmp_path: Path) -> None:
    """No other integer than 0 is taken."""
    nodes = [helper.make_node("Gather", ["table", "i"], ["g"]), helper.make_node("Mul", ["g", "x"], ["y"])]
    ends = [value("i", TensorProto.INT64, [None]), value("x", TensorProto.FLOAT, [None])]
    table = weights("table", np.ones(1, np.float32))
    write(tmp_path, graph(nodes, ends, [value("y", TensorProto.FLOAT, [None])], [table]))

    assert opened(tmp_path).description.batches


@dataclass
class Scarce:
    """A network beside which there is memory for so many rows."""

    real: Any
    rows: int
    seen: list[int] = dataclasses.field(default_factory=list)
    model: str = "tested@1.0.0"

    def __call__(self, feeds: Any, wanted: Any) -> Any:
        self.seen.append(len(feeds["x"]))
        if len(feeds["x"]) > self.rows:
            raise OutOfMemory(f"no more than {self.rows} rows")
        return self.real(feeds, wanted)


def test_a_table_that_does_not_fit_into_memory_is_computed_in_parts(tmp_path: Path) -> None:
    write(tmp_path, linear())
    model = opened(tmp_path)
    scarce = Scarce(model.batches.run, rows=3)
    model.batches = replace(model.batches, run=scarce)
    array = np.arange(40, dtype=np.float32).reshape(10, 4)

    answers = [model.predict([parcel(x=array)])[0] for _ in range(2)]

    assert [one.tensors["y"].tolist() for one in answers] == [scarce.real({"x": array}, ["y"])["y"].tolist()] * 2
    assert [one.rows for one in answers] == [10, 10]
    assert scarce.seen == [10, 5, 3, 2, 3, 2, *[3, 3, 3, 1]]


def test_a_row_that_does_not_fit_into_memory_says_so_and_the_next_table_is_tried_whole(tmp_path: Path) -> None:
    write(tmp_path, linear())
    model = opened(tmp_path)
    scarce = Scarce(model.batches.run, rows=0)
    model.batches = replace(model.batches, run=scarce)

    with pytest.raises(OutOfMemory, match="no more than 0 rows"):
        model.predict([parcel(x=np.zeros((8, 4), np.float32))])
    scarce.rows = 8

    assert model.predict([parcel(x=np.zeros((8, 4), np.float32))])[0].rows == 8
    assert model.batches.fits.rows is None


def test_an_input_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    ends = (
        [value("x", TensorProto.FLOAT, ["batch", 2]), value("factor", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, ["batch", 2])],
    )
    write(tmp_path, graph([node], *ends, [weights("factor", np.array([3], np.float32))]))
    array = np.ones((1, 2), np.float32)

    model = opened(tmp_path)
    plain, doubled = (
        model.predict([parcel(rows=1, x=array, **more)])[0] for more in ({}, {"factor": np.array([2], np.float32)})
    )

    assert [(one.name, one.optional) for one in model.description.inputs] == [("x", False), ("factor", True)]
    assert (plain.tensors["y"].tolist(), doubled.tensors["y"].tolist()) == ([[3, 3]], [[2, 2]])


def test_weights_listed_as_inputs_by_old_exporters_are_none(tmp_path: Path) -> None:
    model = linear()
    model.ir_version = 3
    model.graph.input.append(value("w", TensorProto.FLOAT, [4, 2]))
    write(tmp_path, model)

    assert [one.name for one in opened(tmp_path).description.inputs] == ["x"]


def test_only_the_declared_outputs_are_served(tmp_path: Path) -> None:
    write(tmp_path, species())
    outputs = [{"name": "probabilities", "dtype": "float32", "shape": ["batch", 3], "labels": ["a", "b", "c"]}]

    model = opened(tmp_path, outputs=outputs)

    assert [(one.name, one.labels) for one in model.description.outputs] == [("probabilities", ("a", "b", "c"))]
    assert sorted(model.predict([model.sample("predict")])[0].tensors) == ["probabilities"]


def test_weights_beside_the_model_are_found(tmp_path: Path) -> None:
    model = linear()
    external_data_helper.convert_model_to_external_data(model, location="model.onnx_data", size_threshold=0)
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    assert (tmp_path / "model.onnx_data").is_file()

    loaded = opened(tmp_path)

    assert loaded.predict([parcel(x=np.eye(4, dtype=np.float32))])[0].tensors["y"].ravel().tolist() == [*range(8)]
    assert loaded.weight_bytes > 32


def test_weights_beside_the_model_are_found_where_the_hub_keeps_links(tmp_path: Path) -> None:
    test_weights_beside_the_model_are_found(tmp_path)
    snapshot, blobs = tmp_path / "snapshots" / "main", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, name in enumerate(("model.onnx", "model.onnx_data")):
        (tmp_path / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(Path("../../blobs") / str(number))

    assert opened(snapshot).predict([parcel(x=np.zeros((1, 4), np.float32))])[0].tensors["y"].tolist() == [[0, 0]]


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    model = linear()
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    (tmp_path / "weights.bin").unlink()

    assert "model.onnx has weights in weights.bin, which is not beside it" in refusal(tmp_path)


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "C:\\secret", "", "*/_ORT_MEM_ADDR_/*"]
)
@pytest.mark.parametrize("where", ["initializer", "constant", "branch", "function"])
def test_weights_outside_the_folder_are_refused_wherever_they_are_named(
    tmp_path: Path, location: str, where: str
) -> None:
    tensor = weights("w", np.zeros((4, 2), np.float32))
    external_data_helper.set_external_data(tensor, location=location, offset=0, length=32)
    tensor.ClearField("raw_data")
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    model = linear()
    if where == "initializer":
        model.graph.initializer[0].CopyFrom(tensor)
    elif where == "constant":
        model.graph.initializer.pop()
        model.graph.node.insert(0, constant)
    elif where == "function":
        default = helper.make_attribute("value", tensor)
        model.functions.append(helper.make_function("acme", "f", [], ["w"], [], [], attribute_protos=[default]))
    else:
        branch = helper.make_graph([constant], "branch", [], [value("w", TensorProto.FLOAT, [4, 2])])
        condition = helper.make_node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch)
        model.graph.initializer[0].CopyFrom(weights("yes", np.array(True)))
        model.graph.node.insert(0, condition)
    inner = tmp_path / "model"
    write(inner, model)
    (tmp_path / "secret").write_bytes(bytes(32))

    with pytest.raises(ArtifactCorrupt, match="not inside the model's folder"):
        opened(inner)
    with pytest.raises(ArtifactCorrupt, match="not inside the model's folder"):
        PROVIDER.describe(tensor_spec(), inner)


@pytest.mark.parametrize("kept", [0, 1, 20, 0.5, 0.99])
def test_a_truncated_file_is_corrupt(tmp_path: Path, kept: float) -> None:
    path = write_perceptron(tmp_path, perceptron())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])

    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx is damaged or no ONNX model"):
        opened(tmp_path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip", b"\x80\x02pickle", bytes(1000), b"{}" * 50, os.urandom(4096)])
def test_rubbish_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx is damaged or no ONNX model"):
        PROVIDER.describe(tensor_spec(), tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(random=st.randoms(use_true_random=False))
def test_a_damaged_file_is_read_or_refused_in_our_words(tmp_path: Path, random: Random) -> None:
    content = bytearray(species().SerializeToString())
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(content))
        content[at : at + random.randint(0, 9)] = random.randbytes(random.randint(0, 9))
    (tmp_path / "model.onnx").write_bytes(content)

    with contextlib.suppress(ModelMoraError):
        assert PROVIDER.describe(tensor_spec(), tmp_path).outputs


def test_graphs_in_graphs_without_end_are_corrupt(tmp_path: Path) -> None:
    graph_ = b""
    for _ in range(5_000):
        graph_ = field(1, field(5, field(6, graph_)))
    (tmp_path / "model.onnx").write_bytes(field(7, graph_))

    with pytest.raises(ArtifactCorrupt, match="graphs stand in each other"):
        PROVIDER.describe(tensor_spec(), tmp_path)


def test_an_opset_that_does_not_exist_yet_is_named(tmp_path: Path) -> None:
    model = linear()
    model.opset_import[0].version = 999
    write(tmp_path, model)

    said = refusal(tmp_path)

    assert "cannot run model.onnx" in said
    assert "opset" in said.lower()
    assert str(tmp_path) not in said


def test_operations_of_a_foreign_library_are_refused(tmp_path: Path) -> None:
    model = linear()
    model.graph.node[0].domain = "acme.custom"
    model.opset_import.append(helper.make_opsetid("acme.custom", 1))
    write(tmp_path, model)

    assert "acme.custom" in refusal(tmp_path)


def test_what_is_no_tensor_is_named_and_told_how_to_do_without(tmp_path: Path) -> None:
    model = species()
    zipped = helper.make_node(
        "ZipMap", ["probabilities"], ["zipped"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"]
    )
    model.graph.node.append(zipped)
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(8, helper.make_tensor_type_proto(1, [])))
    model.graph.output.append(helper.make_value_info("zipped", kind))
    write(tmp_path, model)

    assert "'zipped': it is a sequence; only tensors are served; declare the outputs to serve" in refusal(tmp_path)
    assert opened(tmp_path, outputs=[{"name": "species", "dtype": "bytes", "shape": ["batch"]}])


def test_elements_that_numpy_does_not_have_are_named(tmp_path: Path) -> None:
    write(tmp_path, relay(TensorProto.BFLOAT16, ("batch", 2)))

    assert "'x': its elements are of ONNX's type 16" in refusal(tmp_path)


def test_a_declared_schema_that_is_not_the_models_has_every_mismatch_named(tmp_path: Path) -> None:
    write(tmp_path, linear())
    inputs = [
        {"name": "x", "dtype": "float64", "shape": ["batch", 5]},
        {"name": "xx", "dtype": "float32", "shape": ["batch"]},
    ]
    outputs = [{"name": "y", "dtype": "float32", "shape": ["batch", 2], "labels": ["only one"]}]

    said = refusal(tmp_path, inputs=inputs, outputs=outputs)

    assert "the configuration has 4 faults" in said
    assert "config.inputs[0].dtype: float64 is declared, the model has float32" in said
    assert "config.inputs[0].shape: [batch, 5] is declared, the model has [batch, 4]" in said
    assert "config.inputs[1].name: the model has no 'xx' among its inputs; did you mean 'x'?" in said
    assert "config.outputs[0].labels: 1 labels are declared for an axis of 2" in said


def test_a_sample_that_the_model_cannot_run_asks_for_sizes(tmp_path: Path) -> None:
    shape = ["batch", "length"]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, ["batch", 1])]
    write(tmp_path, graph([node], *ends, [weights("w", np.ones((7, 1), np.float32))]))

    assert "config.sample gives the sizes of named axes" in refusal(tmp_path)
    assert opened(tmp_path, sample={"length": 7}).sample("predict").tensors["x"].shape == (1, 7)


def test_a_sample_has_one_row_of_a_batch_whatever_is_declared(tmp_path: Path) -> None:
    write(tmp_path, linear())

    said = refusal(tmp_path, sample={"batch": 8})

    assert "config.sample.batch: a sample is one row of a batch; how many are computed together is batching.max" in said


def samples_under_way() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("sample of")]


def test_a_graph_that_never_ends_fails_to_load_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "TRY_S", 1.0)
    write(tmp_path, endless())

    assert "it has not come back from a sample for 1 s" in refusal(tmp_path)

    wait_until(lambda: not samples_under_way(), within_s=20, what="its end")


def test_a_sample_that_cannot_be_ended_is_not_begun_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(trying, "TRY_S", 0.2)
    monkeypatch.setattr(trying, "_tried", lambda *_: gate.wait(30))
    write(tmp_path, linear())

    first = refusal(tmp_path)
    monkeypatch.setattr(trying, "TRY_S", 60.0)
    second = refusal(tmp_path)
    under_way = len(samples_under_way())
    gate.set()

    assert "it has not come back from a sample for 0 s" in first
    assert "a sample that it was given before has not come back yet" in second
    assert under_way == 1
    wait_until(lambda: not samples_under_way(), within_s=20, what="its end")


def test_a_value_that_the_network_cannot_take_is_the_callers(tmp_path: Path) -> None:
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    ends = [value("x", TensorProto.INT64, ["batch"])], [value("y", TensorProto.FLOAT, ["batch", 2])]
    write(tmp_path, graph([node], *ends, [weights("table", np.ones((3, 2), np.float32))]))

    with pytest.raises(SchemaMismatch, match=r"cannot compute this input: .*idx=9"):
        opened(tmp_path).predict([parcel(x=np.array([1, 9]))])


def test_the_only_file_is_found_and_of_several_one_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, linear(), "first.onnx")
    assert PROVIDER.describe(tensor_spec(), tmp_path).inputs[0].shape == ("batch", 4)
    write(tmp_path, linear(features=6), "second.onnx")

    assert "2 ONNX files (first.onnx, second.onnx): name one in config.file" in refusal(tmp_path)
    assert PROVIDER.describe(tensor_spec(file="second.onnx"), tmp_path).inputs[0].shape == ("batch", 6)


@pytest.mark.parametrize("file", ["absent.onnx", "../model.onnx", "/etc/passwd", 3, ""])
def test_a_file_outside_the_folder_is_none(tmp_path: Path, file: object) -> None:
    inner = tmp_path / "inner"
    write(inner, linear())
    write(tmp_path, linear())

    assert "config.file: there is no file" in refusal(inner, file=file)


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    assert "its folder has no ONNX file" in refusal(tmp_path)


def test_a_precision_other_than_the_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, linear())
    narrow, elsewhere = replace(tensor_spec(), precision="bf16"), replace(tensor_spec(), engine="openvino")

    with pytest.raises(ModelLoadFailed, match="runs in the precision of its file"):
        PROVIDER.load(narrow, tmp_path, device="cpu", threads=1)
    with pytest.raises(ModelLoadFailed, match="runs on onnxruntime"):
        PROVIDER.load(elsewhere, tmp_path, device="cpu", threads=1)


def test_lanes_share_a_session(tmp_path: Path) -> None:
    network = perceptron(features=64, classes=32)
    write_perceptron(tmp_path, network)
    model = opened(tmp_path, threads=2)
    arrays = [np.random.default_rng(i).standard_normal((5, 64), dtype=np.float32) for i in range(8)]
    given: dict[int, Any] = {}

    def lane(number: int) -> None:
        for _ in range(20):
            given[number] = model.predict([parcel(features=arrays[number])])[0].tensors["scores"]

    lanes = [threading.Thread(target=lane, args=(number,)) for number in range(8)]
    for one in lanes:
        one.start()
    for one in lanes:
        one.join()

    for number, array in enumerate(arrays):
        assert np.abs(given[number] - reference(network, array)).max() <= TOLERANCE


def test_the_memory_returns_with_the_model(tmp_path: Path) -> None:
    write(tmp_path, linear(features=4096, classes=4096))  # 64 MB
    opened(tmp_path).close()  # what the library keeps for itself
    devices.release()
    before = devices.resident()

    model = opened(tmp_path)
    model.predict([parcel(x=np.ones((64, 4096), np.float32))])
    held = devices.resident() - before
    model.close()
    devices.release()

    assert held > 60_000_000
    assert devices.resident() - before < 20_000_000


def test_importing_the_library_starts_no_thread_and_tells_nobody(tmp_path: Path) -> None:
    """A fork copies only the thread that calls it: the engine is forked after this import."""
    script = (
        "import os, sys; from runners.onnx import PROVIDER; import numpy, runners.networks.tensors.batches\n"
        "before = len(os.listdir('/proc/self/task')); PROVIDER.prepare()\n"
        "print(len(os.listdir('/proc/self/task')) - before, 'onnxruntime' in sys.modules)"
    )
    own = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    done = subprocess.run([sys.executable, "-c", script], env=own, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["0", "True"]
    assert not (tmp_path / "cache").exists()


def test_a_fork_after_the_import_computes(tmp_path: Path) -> None:
    write(tmp_path, linear())
    script = (
        "import os, sys; from pathlib import Path; from runners.onnx import PROVIDER\n"
        "from modelmora.domain.models import ModelSpec\n"
        "s = ModelSpec(name='m', version='1.0.0', type='tensor', provider='onnx', source='file:x')\n"
        "PROVIDER.prepare(); child = os.fork()\n"
        "if child == 0:\n"
        f"    model = PROVIDER.load(s, Path({str(tmp_path)!r}), device='cpu', threads=2)\n"
        "    given = model.predict([model.sample('predict')] * 3)\n"
        "    print([one.tensors['y'].tolist() for one in given], flush=True); os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[[[0.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]]"


def test_describing_takes_no_library_and_without_it_loading_says_what_to_install(tmp_path: Path) -> None:
    write(tmp_path, linear())
    script = (
        "import sys; from pathlib import Path; from runners.onnx import PROVIDER\n"
        "from modelmora.domain.models import ModelSpec; from modelmora.errors import ModelLoadFailed\n"
        "s = ModelSpec(name='m', version='1.0.0', type='tensor', provider='onnx', source='file:x')\n"
        f"folder = Path({str(tmp_path)!r}); print(PROVIDER.describe(s, folder).inputs[0].name)\n"
        "print(sorted({'onnx', 'onnxruntime', 'torch'} & set(sys.modules))); sys.modules['onnxruntime'] = None\n"
        "try: PROVIDER.load(s, folder, device='cpu', threads=1)\n"
        "except ModelLoadFailed as error: print(error.detail)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    said = "onnxruntime is not installed here: pip install 'modelmora[onnx]'"
    assert done.stdout.splitlines() == ["x", "[]", said]


def test_sizes_that_do_not_go_together_inside_the_network_are_the_callers(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "offsets"], ["y"])
    ends = [value("x", TensorProto.FLOAT, ["batch", "width"])], [value("y", TensorProto.FLOAT, ["batch", "width"])]
    write(tmp_path, graph([node], *ends, [weights("offsets", np.ones((1, 32), np.float32))]))
    model = opened(tmp_path)

    assert model.predict([parcel(x=np.zeros((1, 32), np.float32))])[0].tensors["y"].tolist() == [[1.0] * 32]
    with pytest.raises(SchemaMismatch, match="cannot compute this input"):
        model.predict([parcel(x=np.zeros((1, 5), np.float32))])
