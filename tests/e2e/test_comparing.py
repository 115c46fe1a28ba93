"""A real model beside others of another size, one that takes no pictures and one that cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from modelmora.proto import inference_pb2, inference_pb2_grpc
from tests.e2e.serving import Server, serve
from tests.e2e.test_serve import PICTURES, caption

REGISTRY = """
version: 1
models:
  - {name: shapes-clip, version: 1.0.0, type: embedding, provider: open_clip, source: "bundled:shapes-clip"}
  - {name: small, version: 1.0.0, type: embedding, provider: noop, source: "bundled:noop", config: {image_size: 32}}
  - {name: texts, version: 1.0.0, type: embedding, provider: noop, source: "bundled:noop", config: {dimension: 64}}
  - {name: lost, version: 1.0.0, type: embedding, provider: open_clip, source: "file:/nowhere", warmup: false}
"""
MODELS = ["shapes-clip", "small", "texts", "lost"]
CAPTIONS = [caption(picture) for picture in PICTURES]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = serve(tmp_path_factory.mktemp("compare"), registry=REGISTRY)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def rows(server: Server) -> list[dict[str, Any]]:
    """What a form with the sample pictures and their captions is answered."""
    files = [("files", (picture.name, picture.read_bytes())) for picture in PICTURES]
    fields = {"models": MODELS, "texts": CAPTIONS, "embeddings": "true"}
    answer = httpx.post(f"{server.url}/v1/compare", files=files, data=fields, timeout=60)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


def test_each_model_has_its_dimension_time_and_memory(rows: list[dict[str, Any]]) -> None:
    assert [row["model"] for row in rows] == MODELS
    assert [row["dimension"] for row in rows[:3]] == [rows[0]["dimension"], 8, 64]
    assert rows[0]["dimension"] not in (8, 64)
    assert rows[0]["bytes"] > 2**20
    assert all(row["total_ms"] > 0 for row in rows[:3])
    assert rows[0]["timings"]["inference_ms"] > rows[1]["timings"]["inference_ms"]


def test_pictures_are_nearest_to_their_captions_by_the_model_that_has_learnt_it(rows: list[dict[str, Any]]) -> None:
    found = np.array(rows[0]["similarities"])

    count = len(PICTURES)
    assert found.shape == (2 * count, 2 * count)
    assert found[:count, count:].argmax(axis=1).tolist() == list(range(count))


def test_similarities_are_those_of_the_vectors_that_are_answered(rows: list[dict[str, Any]], server: Server) -> None:
    for row in rows[:2]:
        vectors = np.array([result["embedding"] for result in row["results"]])
        assert np.array(row["similarities"]) == pytest.approx(vectors @ vectors.T, abs=1e-5)
    alone = httpx.post(f"{server.url}/v1/embed/text", json={"texts": CAPTIONS, "model": "shapes-clip"}).json()["data"]
    captions = [result["embedding"] for result in rows[0]["results"][len(PICTURES) :]]
    assert np.array([row["embedding"] for row in alone]) == pytest.approx(np.array(captions), abs=1e-5)


def test_a_model_that_takes_no_pictures_compares_the_texts(rows: list[dict[str, Any]]) -> None:
    results, found = rows[2]["results"], np.array(rows[2]["similarities"], dtype=float)

    count = len(PICTURES)
    assert {result["error"]["code"] for result in results[:count]} == {"capability_missing"}
    assert "it can embed texts" in results[0]["error"]["detail"]
    assert np.isnan(found[:count]).all()
    assert np.isfinite(found[count:, count:]).all()


def test_a_model_that_cannot_be_loaded_says_why_beside_the_others(rows: list[dict[str, Any]]) -> None:
    assert set(rows[3]) == {"index", "model", "error"}
    assert rows[3]["error"]["code"] == "model_load_failed"
    assert "/nowhere" in rows[3]["error"]["detail"]


def test_the_same_over_grpc(rows: list[dict[str, Any]], server: Server) -> None:
    request = inference_pb2.CompareRequest(models=MODELS)
    for picture in PICTURES:
        request.items.add(id=picture.name, image=picture.read_bytes())
    for text in CAPTIONS:
        request.items.add(text=text)

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answer = inference_pb2_grpc.ModelInferenceStub(channel).Compare(request, timeout=60)

    assert [one.model for one in answer.comparisons] == MODELS
    assert [one.error.code for one in answer.comparisons] == ["", "", "", "model_load_failed"]
    for one, row in zip(answer.comparisons[:3], rows[:3], strict=True):
        found = np.frombuffer(one.similarities.data, "<f4").reshape(list(one.similarities.shape))
        assert found == pytest.approx(np.array(row["similarities"], dtype=float), abs=1e-5, nan_ok=True)
        assert one.dimension == row["dimension"]
    assert [result.id for result in answer.comparisons[0].results[:2]] == [p.name for p in PICTURES[:2]]


def test_each_model_is_counted_by_itself(rows: list[dict[str, Any]], server: Server) -> None:
    metrics = httpx.get(f"{server.url}/metrics").text

    for model in MODELS[:3]:
        assert (
            f'modelmora_items_total{{code="ok",face="http",model="{model}",task="embed_text",version="1.0.0"}}'
            in metrics
        )
