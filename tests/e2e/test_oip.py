"""A real server to Triton's own client: the protocol's two forms, embedding models and tensor models."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.e2e.serving import ROOT, Server, serve

PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.jpg"))[:4]
PROTOCOLS = ("http", "grpc")
WEIGHTS = np.array([[1.0, -1.0], [0.5, 2.0], [0.0, 3.0]], np.float32)

REGISTRY = """
version: 1
models:
  - {{name: noop, version: 1.0.0, type: embedding, provider: noop, source: "bundled:noop", default: true}}
  - {{name: linear, version: 2.1.0, type: tensor, provider: onnx, source: "file:{folder}", default: true}}
"""

Told = Callable[..., Any]


def told_by(server: Server, protocol: str) -> Told:
    """Runs a scenario of `triton_caller` against a server."""

    def run(scenario: str, *arguments: object) -> Any:
        port = server.http_port if protocol == "http" else server.grpc_port
        command = [sys.executable, "-m", "tests.e2e.triton_caller", protocol, f"127.0.0.1:{port}", scenario]
        done = subprocess.run(
            [*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return run


@pytest.fixture(params=PROTOCOLS)
def told(request: pytest.FixtureRequest, shipped: Server) -> Told:
    """What the client gets of the bundled model."""
    return told_by(shipped, request.param)


def linear(folder: Path) -> Path:
    """y = x W, and the best of its two columns."""
    folder.mkdir()
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    best = helper.make_tensor_value_info("best", TensorProto.INT64, ["batch"])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["best"], axis=1, keepdims=0),
    ]
    weights = helper.make_tensor("w", TensorProto.FLOAT, WEIGHTS.shape, WEIGHTS.tobytes(), raw=True)
    graph = helper.make_graph(nodes, "linear", [x], [y, best], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a tensor model and an embedding model."""
    folder = tmp_path_factory.mktemp("oip")
    server = serve(folder / "server", registry=REGISTRY.format(folder=linear(folder / "linear")))
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def test_the_client_sees_a_server_that_is_ready_and_what_its_model_takes(told: Told) -> None:
    seen = told("look", "shapes-clip")

    assert (seen["live"], seen["ready"], seen["model_ready"]) == (True, True, True)
    assert seen["server"]["name"] == "modelmora"
    assert {"binary_tensor_data", "model_repository"} <= set(seen["server"]["extensions"])
    assert seen["model"]["versions"] == ["1.0.0"]
    assert [(one["name"], one["datatype"], [*map(int, one["shape"])]) for one in seen["model"]["inputs"]] == [
        ("image", "BYTES", [-1]),
        ("text", "BYTES", [-1]),
    ]
    assert seen["version"] == seen["model"]
    config = seen["config"].get("config", seen["config"])
    assert [one["data_type"] for one in config["input"]] == ["TYPE_STRING"] * 2
    models = seen["index"] if isinstance(seen["index"], list) else seen["index"]["models"]
    assert {"name": "shapes-clip", "version": "1.0.0", "state": "READY"}.items() <= models[0].items()


def test_pictures_and_texts_come_back_as_the_vectors_of_every_other_face(told: Told, shipped: Server) -> None:
    got = told("embed", "shapes-clip", *PICTURES)

    files = [("files", (picture.name, picture.read_bytes())) for picture in PICTURES]
    rows = httpx.post(f"{shipped.url}/v1/embed/image", files=files).json()["data"]
    texts = httpx.post(f"{shipped.url}/v1/embed/text", json={"texts": ["a red circle", "two blue squares"]}).json()
    np.testing.assert_allclose(got["pictures"], [row["embedding"] for row in rows], atol=1e-6)
    for way in ("texts", "json", "column"):
        np.testing.assert_allclose(got[way], [row["embedding"] for row in texts["data"]], atol=1e-6)
    assert (got["id"], got["model"], got["dtype"]) == ("42", ["shapes-clip", "1.0.0"], "float32")


def test_compressed_requests_are_understood(told: Told) -> None:
    gzipped, deflated = told("compress", "shapes-clip", PICTURES[0])

    np.testing.assert_allclose(gzipped, deflated, atol=1e-6)


def test_calls_at_once_each_get_their_own_answer(told: Told) -> None:
    one_by_one = told("embed", "shapes-clip", *PICTURES)["pictures"]

    for vectors in told("together", "shapes-clip", *PICTURES):
        np.testing.assert_allclose(vectors, one_by_one, atol=1e-5)


def test_the_client_shows_what_is_wrong_and_what_is_expected(told: Told) -> None:
    shown = told("refuse", "shapes-clip")

    expected = {
        "model": (("404", "StatusCode.NOT_FOUND"), "did you mean 'shapes-clip'"),
        "metadata": (("404", "StatusCode.NOT_FOUND"), "it has 1.0.0"),
        "output": (("422", "StatusCode.INVALID_ARGUMENT"), "expected embedding"),
        "inputs": (("422", "StatusCode.INVALID_ARGUMENT"), "pictures or texts"),
        "picture": (("415", "StatusCode.INVALID_ARGUMENT"), "image[0]"),
        "config": (("422", "StatusCode.INVALID_ARGUMENT"), "as the registry declares it"),
        "statistics": (("404", "StatusCode.UNIMPLEMENTED"), ""),
    }
    assert shown.keys() == expected.keys()
    for name, (statuses, said) in expected.items():
        assert shown[name]["status"] in statuses, name
        assert said in shown[name]["message"], name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_client_unloads_and_loads_and_an_inference_brings_a_model_back(protocol: str, two_models: Server) -> None:
    ready, unavailable = [True, "READY"], [False, "UNAVAILABLE"]

    assert told_by(two_models, protocol)("change", "noop") == [ready, unavailable, ready, unavailable, ready]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_go_through_a_tensor_model(protocol: str, two_models: Server) -> None:
    got = told_by(two_models, protocol)("predict", "linear")

    due = np.array([[1.0, 2.0, 3.0], [-4.0, 5.5, 6.0]], np.float32) @ WEIGHTS
    np.testing.assert_allclose(got["y"], due, atol=1e-4)
    np.testing.assert_allclose(got["json"], due, atol=1e-4)
    assert got["best"] == due.argmax(axis=1).tolist()
    assert got["chosen"] == ["best", "y"]
    assert got["metadata"]["platform"] == "onnxruntime_onnx"
    (x,) = got["metadata"]["inputs"]
    assert (x["name"], x["datatype"], [*map(int, x["shape"])]) == ("x", "FP32", [-1, 3])
    config = got["config"].get("config", got["config"])
    assert int(config["max_batch_size"]) >= 1
    assert [*map(int, config["input"][0]["dims"])] == [3]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_that_are_not_the_models_are_refused_with_what_it_expects(protocol: str, two_models: Server) -> None:
    got = told_by(two_models, protocol)("predict", "linear")

    for wrong, said in (("wide", "3"), ("nan", "NaN"), ("int", "float32")):
        assert got[wrong]["status"] in ("422", "StatusCode.INVALID_ARGUMENT"), wrong
        assert "x" in got[wrong]["message"], wrong
        assert said.lower() in got[wrong]["message"].lower(), got[wrong]
    assert re.search("'z'.*y, best", got["output"]["message"]), got["output"]


def test_a_plain_curl_embeds_a_photograph(shipped: Server) -> None:
    url = f"{shipped.url}/v2/models/shapes-clip/infer"
    raw = ["curl", "-sf", url, "-H", "Inference-Header-Content-Length: 0", "--data-binary", f"@{PICTURES[0]}", "-i"]
    head, _, body = subprocess.run(raw, capture_output=True, check=True).stdout.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"header-content-length" in line)
    encoded = base64.b64encode(PICTURES[0].read_bytes()).decode()
    one = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [{"b64": encoded}]}
    answer = httpx.post(url, json={"inputs": [one]}).json()

    assert json.loads(body[:length])["outputs"][0]["name"] == "embedding"
    vector = np.frombuffer(body[length:], "<f4")
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    assert vector.tolist() == pytest.approx(answer["outputs"][0]["data"], abs=1e-6)


PAGE = (ROOT / "docs" / "open-inference.md").read_text()
EXAMPLES = re.findall(r"^```(python|sh)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SHOWN = ("(1, 128)", "(2, 128)", "1 (1, 128)", '"shape":[1,128]')


@pytest.mark.parametrize(
    ("language", "example", "shown"),
    [(*example, shown) for example, shown in zip(EXAMPLES, SHOWN, strict=True)],
)
def test_an_example_of_the_page_runs(language: str, example: str, shown: str, shipped: Server, tmp_path: Path) -> None:
    here = example.replace(":3000", f":{shipped.http_port}").replace(":50051", f":{shipped.grpc_port}")
    command = [sys.executable, "-c"] if language == "python" else ["sh", "-ec"]
    here = here.replace("vector.bin", str(tmp_path / "vector.bin"))

    done = subprocess.run([*command, here], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)

    assert done.returncode == 0, done.stderr[-2000:]
    assert shown in done.stdout


def test_the_sdk_and_the_official_client_go_together_in_one_process() -> None:
    script = "import modelmora.client.grpc_transport, tritonclient.grpc, tritonclient.http"

    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)
