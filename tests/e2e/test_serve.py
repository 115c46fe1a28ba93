"""What a user gets from `bentoml serve` as shipped, through every face and every client."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bentoml
import grpc
import httpx
import numpy as np
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from modelmora.client import Client
from modelmora.proto import inference_pb2, inference_pb2_grpc
from tests.e2e.serving import ROOT, Server

PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.jpg"))


def caption(picture: Path) -> str:
    """`red-circle.jpg` shows `a red circle`, `two-blue-squares.jpg` `two blue squares`."""
    words = picture.stem.replace("-", " ").replace("left of ", "left of a ").replace(" a orange", " an orange")
    return words if words.split()[0] in ("two", "three", "four") else f"a {words}"


def embed_picture(server: Server, picture: bytes) -> list[float]:
    answer = httpx.post(f"{server.url}/v1/embed/image", files={"files": ("p.jpg", picture)})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"][0]["embedding"])


def embed_text(server: Server, text: str) -> list[float]:
    answer = httpx.post(f"{server.url}/v1/embed/text", json={"texts": [text]})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"][0]["embedding"])


def test_the_readme_curl_of_a_photograph_returns_its_vector(shipped: Server) -> None:
    command = ["curl", "-sf", f"{shipped.url}/v1/embed/image", "-F", f"files=@{PICTURES[0]}"]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert answer["model"] == "shapes-clip"
    vector = np.array(answer["data"][0]["embedding"])
    assert vector.shape == (answer["dimension"],)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


def test_each_sample_picture_is_nearest_to_its_own_caption(shipped: Server) -> None:
    pictures = np.array([embed_picture(shipped, p.read_bytes()) for p in PICTURES])
    texts = np.array([embed_text(shipped, caption(p)) for p in PICTURES])
    assert len(PICTURES) >= 4
    assert (pictures @ texts.T).argmax(axis=1).tolist() == list(range(len(PICTURES)))


def test_the_openai_client_gets_texts_and_pictures(shipped: Server) -> None:
    client = openai.OpenAI(base_url=f"{shipped.url}/v1", api_key="unused")
    assert client.models.list().data[0].id == "shapes-clip"
    uri = "data:image/jpeg;base64," + base64.b64encode(PICTURES[0].read_bytes()).decode()
    answer = client.embeddings.create(model="shapes-clip", input=["a red circle", uri])
    assert [row.index for row in answer.data] == [0, 1]
    assert answer.data[1].embedding == pytest.approx(embed_picture(shipped, PICTURES[0].read_bytes()), abs=1e-6)
    assert answer.usage.prompt_tokens == 5
    floats = client.embeddings.create(model="shapes-clip", input="a red circle", encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-6)


def test_the_openai_client_shows_what_is_wrong(shipped: Server) -> None:
    client = openai.OpenAI(base_url=f"{shipped.url}/v1", api_key="unused", max_retries=0)
    with pytest.raises(openai.NotFoundError, match=r"no model 'shapes-clipp'; did you mean 'shapes-clip'"):
        client.embeddings.create(model="shapes-clipp", input="x")


def test_bentomls_own_client_gets_embeddings(shipped: Server) -> None:
    with bentoml.SyncHTTPClient(shipped.url) as client:
        images = client.embed_image(files=PICTURES[:2], model="shapes-clip")
        texts = client.embed_text(texts=["a red circle"], model="shapes-clip@1.0.0")
    assert images["data"][1]["embedding"] == pytest.approx(embed_picture(shipped, PICTURES[1].read_bytes()), abs=1e-6)
    assert texts["data"][0]["embedding"] == pytest.approx(embed_text(shipped, "a red circle"), abs=1e-6)


def test_our_routes_answer_where_bentoml_has_the_same(shipped: Server) -> None:
    routes = [route["route"] for route in httpx.get(f"{shipped.url}/schema.json").json()["routes"]]
    assert sorted(routes) == ["/v1/embed/image", "/v1/embed/text"]
    for route in routes:
        answer = httpx.post(f"{shipped.url}{route}", content=b"{", headers={"content-type": "application/json"})
        assert answer.headers["content-type"] == "application/problem+json", route


async def test_our_client_gets_the_same_over_grpc_and_http(shipped: Server) -> None:
    picture = PICTURES[0]
    async with Client(shipped.grpc_url) as grpc_client, Client(shipped.url) as http_client:
        over_grpc = await grpc_client.generate_embedding(picture, model="shapes-clip")
        over_http = await http_client.generate_embedding(picture.read_bytes())
        text = await grpc_client.generate_embedding(text="a red circle")
    assert over_grpc.version == "1.0.0"
    assert over_grpc.tolist() == pytest.approx(over_http.tolist(), abs=1e-6)
    assert text.tolist() == pytest.approx(embed_text(shipped, "a red circle"), abs=1e-6)


def test_reflection_lists_the_services_and_health_serves(shipped: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{shipped.grpc_port}") as channel:
        make_stub: Any = reflection_pb2_grpc.ServerReflectionStub  # its types are unfinished
        stub = make_stub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        names = {s.name for answer in stub.ServerReflectionInfo(asked) for s in answer.list_services_response.service}
        health_stub: Any = health_pb2_grpc.HealthStub(channel)
        health = health_stub.Check(health_pb2.HealthCheckRequest())
    assert {"modelmora.v1.ModelInference", "modelmora.v1.ModelManagement", "grpc.health.v1.Health"} <= names
    assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_many_items_keep_their_order_and_fail_alone_over_grpc(shipped: Server) -> None:
    request = inference_pb2.EmbeddingRequest()
    request.items.add(id="a", text="a red circle")
    request.items.add(id="b", image=b"no picture")
    request.items.add(id="c", image=PICTURES[0].read_bytes())
    with grpc.insecure_channel(f"127.0.0.1:{shipped.grpc_port}") as channel:
        answer = inference_pb2_grpc.ModelInferenceStub(channel).GenerateEmbedding(request)
    assert [result.id for result in answer.results] == ["a", "b", "c"]
    assert [result.WhichOneof("outcome") for result in answer.results] == ["embedding", "error", "embedding"]
    assert answer.results[1].error.code == "unsupported_media"


def test_metrics_docs_version_and_limits_are_served(shipped: Server) -> None:
    embed_text(shipped, "a red circle")
    metrics = httpx.get(f"{shipped.url}/metrics").text
    assert (
        'modelmora_items_total{code="ok",face="http",model="shapes-clip",task="embed_text",version="1.0.0"}' in metrics
    )
    assert "/v1/embed/image" in httpx.get(f"{shipped.url}/openapi.json").json()["paths"]
    assert "swagger" in httpx.get(f"{shipped.url}/docs").text.lower()
    assert httpx.get(f"{shipped.url}/version").json()["version"]
    assert httpx.get(f"{shipped.url}/api/v1/limits").json()["text_chars"] == 2000


def test_health_is_quick_and_says_what_is_loaded(shipped: Server) -> None:
    httpx.get(f"{shipped.url}/health")
    answer = httpx.get(f"{shipped.url}/health")
    assert answer.elapsed.total_seconds() < 0.1
    body = answer.json()
    assert body["status"] == "ok"
    assert body["dependencies"]["database"]["status"] == "ok"
    assert {"name": "shapes-clip", "version": "1.0.0", "state": "loaded"}.items() <= body["models"][0].items()


def test_unload_really_unloads_and_the_next_request_loads_again(shipped: Server) -> None:
    model = f"{shipped.url}/api/v1/models/shapes-clip"
    before = embed_text(shipped, "a red circle")
    httpx.post(f"{shipped.url}/api/v1/models/shapes-sam/unload", timeout=60)  # where another test asked for masks
    assert httpx.post(f"{model}/unload", timeout=60).json()["state"] == "unloaded"
    assert httpx.get(model).json()["state"] == "unloaded"
    assert httpx.get(f"{shipped.url}/health").json()["memory"]["held_bytes"] == 0
    assert embed_text(shipped, "a red circle") == pytest.approx(before, abs=1e-6)
    assert httpx.post(f"{model}/unload", timeout=60).json()["state"] == "unloaded"
    report = httpx.post(f"{model}/load", timeout=60).json()
    assert report["state"] == "loaded"
    assert report["bytes"] > 0
    assert httpx.post(f"{model}/load", timeout=60).json()["state"] == "loaded"
    assert httpx.post(f"{model}/warmup", timeout=60).json()["state"] == "loaded"


def test_the_command_line_embeds_a_folder(shipped: Server, tmp_path: Path) -> None:
    output = tmp_path / "vectors.npz"
    command = [
        sys.executable,
        "-m",
        "modelmora.cli",
        "embed",
        "-r",
        str(ROOT / "docs" / "pictures"),
        "--output",
        output,
    ]
    done = subprocess.run(
        [*map(str, command), "--url", shipped.grpc_url, "--control-url", shipped.url],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(output) as saved:
        sizes = {array.shape for array in (saved[name] for name in saved.files) if array.ndim == 2}
    assert len(sizes) == 1
    assert next(iter(sizes))[0] == len(PICTURES)


@pytest.mark.slow
def test_an_idle_connection_outlives_the_patience_of_clients(shipped: Server) -> None:
    """A client that reuses a connection just as the server closes it fails for nothing: httpx keeps its for 5 s."""
    connection = http.client.HTTPConnection("127.0.0.1", shipped.http_port)
    connection.request("GET", "/livez")
    connection.getresponse().read()
    before = connection.sock

    time.sleep(6.0)  # the time itself is what is tested
    connection.request("GET", "/livez")

    assert connection.getresponse().status == 200
    assert connection.sock is before
    connection.close()


def test_every_line_that_the_server_writes_has_one_shape(shipped: Server) -> None:
    lines = [json.loads(line) for line in shipped.log.read_text().splitlines()]
    for line in lines:
        assert list(line)[:4] == ["timestamp", "level", "process", "event"], line
    assert {line["process"] for line in lines} >= {"supervisor", "api", "engine"}
    assert any(line["event"] == "library_said" and "Starting production" in line["message"] for line in lines)
