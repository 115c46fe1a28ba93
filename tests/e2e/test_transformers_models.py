"""Classifiers and DINOv2 as the hub ships them, by a real server through every face: what transformers itself gives."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import openai
import pytest
import skimage.data
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageClassification, pipeline

from modelmora.client import Failed, SyncClient, unwrap
from modelmora.errors import CapabilityMissing, ModelMoraError
from modelmora.proto import inference_pb2, inference_pb2_grpc, types_pb2
from tests.e2e.serving import Server, serve
from tests.models.conftest import cosines, stored
from tests.models.hub_folders import LABELS, by_transformers, configured, processor_of
from tests.models.hub_folders import stored as stored_model

REGISTRY = """
version: 1
models:
  - {{name: vit, version: 1.0.0, type: classification, provider: classifier, source: "file:{folder}/vit",
     default: true}}
  - {{name: resnet, version: 1.0.0, type: classification, provider: classifier, source: "file:{folder}/resnet"}}
  - {{name: dino, version: 1.0.0, type: embedding, provider: dinov2, source: "file:{folder}/dino", default: true}}
  - {{name: dino-mean, version: 1.0.0, type: embedding, provider: dinov2, source: "file:{folder}/dino",
     config: {{pooling: mean}}}}
"""
PROCESSORS = {
    "vit": processor_of("ViT", size={"height": 32, "width": 32}),
    "resnet": processor_of("ConvNext", size={"shortest_edge": 64}, crop_pct=0.875),
    "dino": processor_of("Bit", size={"shortest_edge": 57}, crop_size={"height": 48, "width": 48}),
}
PHOTOGRAPHS = [Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "coffee", "chelsea")]
FILES = [stored(photograph, "PNG") for photograph in PHOTOGRAPHS]
NEAR = 1e-5
Scores = list[tuple[str, float]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A softmax over all labels, a sigmoid of each, and vectors."""
    folder = tmp_path_factory.mktemp("hub")
    several = configured("resnet", problem_type="multi_label_classification")
    stored_model(folder / "vit", configured("vit"), PROCESSORS["vit"], classifier=True)
    stored_model(folder / "resnet", several, PROCESSORS["resnet"], classifier=True)
    stored_model(folder / "dino", configured("dinov2"), PROCESSORS["dino"])
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = serve(tmp_path_factory.mktemp("transformers"), registry=REGISTRY.format(folder=folder))
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def pipelines(folder: Path) -> dict[str, Any]:
    """transformers' own way from a picture to labels and scores."""
    made: dict[str, Any] = {}
    for name in ("vit", "resnet"):
        model = AutoModelForImageClassification.from_pretrained(folder / name, dtype=torch.float32)
        made[name] = pipeline("image-classification", model=model, image_processor=PROCESSORS[name], device="cpu")
    return made


@pytest.fixture(params=["grpc", "http"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[SyncClient]:
    url = server.grpc_url if request.param == "grpc" else server.url
    with SyncClient(url, control_url=server.url, timeout=60) as client:
        yield client


def theirs(pipelines: dict[str, Any], model: str, **options: Any) -> list[Scores]:
    """The likeliest first."""
    rows = pipelines[model](PHOTOGRAPHS, **{"top_k": len(LABELS), **options})
    return [[(one["label"], one["score"]) for one in row] for row in rows]


def assert_same(ours: list[Scores], expected: list[Scores]) -> None:
    for found, wanted in zip(ours, expected, strict=True):
        assert [label for label, _ in found] == [label for label, _ in wanted]
        assert [score for _, score in found] == pytest.approx([score for _, score in wanted], abs=NEAR)


def post(server: Server, path: str, **fields: Any) -> httpx.Response:
    files = [("files", ("p.png", data)) for data in FILES]
    return httpx.post(f"{server.url}{path}", files=files, data=fields, timeout=60.0)


def classify(server: Server, **fields: Any) -> list[Scores]:
    answer = post(server, "/v1/classify", **fields)
    assert answer.status_code == 200, answer.text
    return [[(one["label"], one["score"]) for one in row["classes"]] for row in answer.json()["data"]]


@pytest.mark.parametrize("model", ["vit", "resnet"])
def test_the_classes_of_photographs_are_those_of_the_pipeline(
    model: str, server: Server, pipelines: dict[str, Any]
) -> None:
    expected = theirs(pipelines, model)

    assert_same(classify(server, model=model, top_k=len(LABELS)), expected)
    assert_same(classify(server, model=model, top_k=2), [row[:2] for row in expected])
    assert_same(classify(server, model=model), [row[:5] for row in expected])
    total = [sum(score for _, score in row) for row in expected]
    assert (total == pytest.approx([1.0] * len(total), abs=NEAR)) == (model == "vit")


@pytest.mark.parametrize("model", ["vit", "resnet"])
def test_a_threshold_keeps_the_classes_that_reach_it(model: str, server: Server, pipelines: dict[str, Any]) -> None:
    expected = theirs(pipelines, model)
    between = sorted(score for row in expected for _, score in row)
    threshold = (between[len(between) // 2 - 1] + between[len(between) // 2]) / 2

    kept = [[(label, score) for label, score in row if score >= threshold] for row in expected]

    assert 0 < sum(map(len, kept)) < sum(map(len, expected))
    assert_same(classify(server, model=model, top_k=len(LABELS), threshold=threshold), kept)
    assert classify(server, model="vit", threshold=1.0) == [[], [], []]


def test_the_default_classifier_answers_who_names_none(server: Server, pipelines: dict[str, Any]) -> None:
    answer = post(server, "/v1/classify").json()

    assert (answer["model"], answer["version"]) == ("vit", "1.0.0")
    assert [row["classes"][0]["label"] for row in answer["data"]] == [row[0][0] for row in theirs(pipelines, "vit")]
    places = {one["label"]: one["index"] for row in answer["data"] for one in row["classes"]}
    assert places == {label: LABELS.index(label) for label in places}


def test_grpc_gives_the_same_classes(server: Server, pipelines: dict[str, Any]) -> None:
    items = [types_pb2.Item(id=str(number), image=data) for number, data in enumerate(FILES)]
    request = inference_pb2.ClassifyRequest(model="resnet@1.0.0", items=items, top_k=3)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answer = inference_pb2_grpc.ModelInferenceStub(channel).Classify(request, timeout=60)

    assert ([result.id for result in answer.results], answer.model) == (["0", "1", "2"], "resnet")
    ours = [[(one.label, one.score) for one in result.classes.classes] for result in answer.results]
    assert_same(ours, [row[:3] for row in theirs(pipelines, "resnet")])


def test_the_client_gets_the_same_classes(client: SyncClient, pipelines: dict[str, Any]) -> None:
    found = [unwrap(outcome) for outcome in client.classify(FILES, model="vit", top_k=4)]

    assert {each.key for each in found} == {"vit@1.0.0"}
    ours = [[(one.label, one.score) for one in each.classes] for each in found]
    assert_same(ours, [row[:4] for row in theirs(pipelines, "vit")])
    assert [each.best and each.best.label for each in found] == [row[0][0] for row in theirs(pipelines, "vit")]


def test_the_command_line_gets_the_same_classes(server: Server, pipelines: dict[str, Any], tmp_path: Path) -> None:
    names = [tmp_path / f"{number}.png" for number in range(len(FILES))]
    for name, data in zip(names, FILES, strict=True):
        name.write_bytes(data)
    command = [sys.executable, "-m", "modelmora.cli", "classify", *map(str, names), "--model", "resnet", "--json"]
    where = ["--top-k", "6", "--threshold", "0.2", "--url", server.grpc_url, "--control-url", server.url]

    done = subprocess.run([*command, *where], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    expected = [[one for one in row[:6] if one[1] >= 0.2] for row in theirs(pipelines, "resnet")]
    assert_same([[(one["label"], one["score"]) for one in line["classes"]] for line in lines], expected)


def test_a_classifier_that_is_asked_for_vectors_says_what_it_can(server: Server, client: SyncClient) -> None:
    form = post(server, "/v1/embed/image", model="vit")
    body = {"model": "vit", "input": "a cat"}
    as_openai = httpx.post(f"{server.url}/v1/embeddings", json=body)

    for answer in (form, as_openai):
        assert (answer.status_code, answer.json()["code"]) == (422, "capability_missing")
        assert answer.json()["detail"] == "vit@1.0.0 cannot embed pictures; it can classify"
    with pytest.raises(CapabilityMissing, match="it can classify"):
        client.generate_embedding(FILES[0], model="vit")


def test_a_classifier_takes_no_labels_of_others_and_a_model_of_vectors_does_not_classify(
    server: Server, client: SyncClient
) -> None:
    def refusal(**options: Any) -> ModelMoraError:
        (outcome,) = client.classify(FILES[:1], **options)
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, CapabilityMissing)
        return outcome.error

    assert "knows its own labels" in refusal(model="vit", labels=["cat", "dog"]).detail
    assert refusal(model="dino", labels=["cat", "dog"]).detail == "dino@1.0.0 cannot classify; it can embed pictures"
    assert post(server, "/v1/classify", model="dino", labels=["a", "b"]).status_code == 422


def vectors_of(folder: Path, pooling: str) -> Any:
    """DINOv2's by transformers: the class token or the mean of the patches, of length 1."""

    def pooled(model: Any, output: Any) -> torch.Tensor:
        rows = output.pooler_output if pooling == "cls" else output.last_hidden_state[:, 1:].mean(dim=1)
        return torch.nn.functional.normalize(rows, dim=-1)

    return by_transformers(folder / "dino", PROCESSORS["dino"], PHOTOGRAPHS, pooled, AutoModel)


@pytest.mark.parametrize(("model", "pooling"), [("dino", "cls"), ("dino-mean", "mean")])
def test_vectors_of_photographs_are_those_of_dinov2(model: str, pooling: str, server: Server, folder: Path) -> None:
    expected = vectors_of(folder, pooling)

    form = post(server, "/v1/embed/image", model=model).json()
    uris = ["data:image/png;base64," + base64.b64encode(data).decode() for data in FILES]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as as_openai:
        answer = as_openai.embeddings.create(model=model, input=uris)

    assert (form["model"], form["dimension"]) == (model, expected.shape[1])
    for ours in ([row["embedding"] for row in form["data"]], [row.embedding for row in answer.data]):
        assert cosines(np.array(ours, np.float32), expected).min() >= 0.9999
        np.testing.assert_allclose(np.array(ours), expected, atol=1e-4)
    assert answer.usage.prompt_tokens == 0


def test_the_client_gets_the_vectors_of_the_default_model(client: SyncClient, folder: Path) -> None:
    found = [unwrap(outcome) for outcome in client.generate_embeddings(FILES)]

    assert {each.key for each in found} == {"dino@1.0.0"}
    assert cosines(np.array([each.tolist() for each in found], np.float32), vectors_of(folder, "cls")).min() >= 0.9999


def test_dinov2_that_is_asked_for_a_text_says_what_it_can(server: Server, client: SyncClient) -> None:
    answer = httpx.post(f"{server.url}/v1/embed/text", json={"texts": ["a cat"], "model": "dino"})

    assert (answer.status_code, answer.json()["code"]) == (422, "capability_missing")
    assert answer.json()["detail"] == "dino@1.0.0 cannot embed texts; it can embed pictures"
    with pytest.raises(CapabilityMissing, match="it can embed pictures"):
        client.generate_embedding(text="a cat", model="dino")
