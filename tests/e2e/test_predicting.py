"""Real ONNX models behind both faces: tensors as they are declared, a table with gaps, what is wrong told by field."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc, types_pb2
from tests.e2e.serving import Server, serve

LABELS = ["setosa", "versicolor", "virginica"]
REGISTRY = """
version: 1
models:
  - name: iris
    version: 1.0.0
    type: tensor
    provider: onnx
    source: "file:{folder}/iris"
    default: true
    config:
      inputs: [{{name: features, dtype: float32, shape: [batch, 4], range: [-100, 100]}}]
      outputs: [{{name: scores, dtype: float32, shape: [batch, 3], labels: [setosa, versicolor, virginica]}}]
  - name: flowers
    version: 1.0.0
    type: tensor
    provider: onnx
    source: "file:{folder}/iris"
    config:
      outputs: [{{name: scores, dtype: float32, shape: [batch, 3], labels: [setosa, versicolor, virginica]}}]
      preprocess:
        - tensor: features
          columns:
            - {{name: petal, impute: 4.0, scale: {{mean: 4.0, std: 2.0}}}}
            - {{name: colour, one_hot: [blue, violet, white], impute: violet}}
"""
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.standard_normal((4, 3)).astype(np.float32)
BIAS = RANDOM.standard_normal(3).astype(np.float32)


def scores(rows: Any) -> NDArray[np.float32]:
    """The model, in numpy."""
    logits = np.asarray(rows, np.float32) @ WEIGHTS + BIAS
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def save_model(folder: Path) -> None:
    folder.mkdir()
    nodes = [
        helper.make_node("Gemm", ["features", "weights", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "iris",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHTS, "weights"), numpy_helper.from_array(BIAS, "bias")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("predict")
    save_model(folder / "iris")
    server = serve(folder / "server", registry=REGISTRY.format(folder=folder))
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def predict(server: Server, inputs: Any, **more: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/predict", json={"inputs": inputs, **more}, timeout=60)


def test_rows_are_answered_with_their_scores_and_best_labels(server: Server) -> None:
    rows = RANDOM.standard_normal((40, 4)).round(3).tolist()

    answer = predict(server, {"features": rows})

    assert answer.status_code == 200, answer.text
    found = answer.json()["outputs"]["scores"]
    assert (found["dtype"], found["shape"]) == ("float32", [40, 3])
    assert np.array(found["data"]) == pytest.approx(scores(rows), abs=1e-5)
    assert found["labels"] == [LABELS[index] for index in scores(rows).argmax(axis=1)]


def test_each_of_many_callers_gets_its_own_rows(server: Server) -> None:
    tables = [RANDOM.standard_normal((1 + index % 5, 4)).round(3).tolist() for index in range(40)]

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda rows: predict(server, {"features": rows}).json(), tables))

    for rows, answer in zip(tables, answers, strict=True):
        assert np.array(answer["outputs"]["scores"]["data"]) == pytest.approx(scores(rows), abs=1e-5)


def test_the_same_over_grpc(server: Server) -> None:
    rows = RANDOM.standard_normal((3, 4)).astype("<f4")
    vector = types_pb2.Vector(data=rows.tobytes(), dtype=types_pb2.DTYPE_FLOAT32, shape=rows.shape)

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = inference_pb2_grpc.ModelInferenceStub(channel)
        answer = stub.Predict(pb.PredictRequest(inputs=[pb.NamedTensor(name="features", tensor=vector)]), timeout=60)

    assert (answer.model, answer.version) == ("iris", "1.0.0")
    found = np.frombuffer(answer.outputs[0].tensor.data, "<f4").reshape(3, 3)
    assert found == pytest.approx(scores(rows), abs=1e-5)


def test_a_table_is_prepared_as_declared_and_null_is_a_gap(server: Server) -> None:
    answer = predict(server, {"petal": [6.0, None, 2.0], "colour": ["white", "blue", None]}, model="flowers")

    assert answer.status_code == 200, answer.text
    prepared = [[1, 0, 0, 1], [0, 1, 0, 0], [-1, 0, 1, 0]]
    assert np.array(answer.json()["outputs"]["scores"]["data"]) == pytest.approx(scores(prepared), abs=1e-5)


@pytest.mark.parametrize(
    ("inputs", "places"),
    [
        ({"features": [[1, 2, 3]]}, ["inputs.features"]),
        ({"features": [[1, 2, 3, 101]]}, ["inputs.features[0][3]"]),
        ({"features": [[1, 2, 3, "4"]]}, ["inputs.features[0][3]"]),
        ({"features": []}, ["inputs.features"]),
        ({}, ["inputs.features"]),
        ({"feature": [[1, 2, 3, 4]]}, ["inputs.feature", "inputs.features"]),
        ({"features": {"dtype": "float64", "shape": [1, 4], "data": [1, 2, 3, 4]}}, ["inputs.features"]),
        ({"features": {"shape": [1, 4], "data": "AAAA"}}, ["inputs.features"]),
        ({"features": {"shape": [1, 4], "data": "AAAAAAAAAAAAAAAAAADAfw=="}}, ["inputs.features[0][3]"]),
    ],
)
def test_what_is_wrong_is_told_by_field(inputs: Any, places: list[str], server: Server) -> None:
    answer = predict(server, inputs)

    assert (answer.status_code, answer.json()["code"]) == (422, "schema_mismatch"), answer.text
    assert [error["field"] for error in answer.json()["errors"]] == places
    assert all(error["expected"] for error in answer.json()["errors"])


def test_rows_are_counted_as_items(server: Server) -> None:
    def counted() -> float:
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        line = 'modelmora_items_total{code="ok",face="http",model="iris",task="predict",version="1.0.0"}'
        return sum(float(found.split()[-1]) for found in lines if found.startswith(line))

    before = counted()
    predict(server, {"features": [[1, 2, 3, 4]] * 7})

    assert counted() - before == 7
