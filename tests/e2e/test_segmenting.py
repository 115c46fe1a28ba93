"""A real server with a small SAM: masks over HTTP and gRPC, and what happens when its runner is killed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import orjson
import pytest
from PIL import Image
from pycocotools import mask as coco

from modelmora.domain.segmentation import Box, Point, Prompt
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc
from tests.e2e.serving import Server
from tests.models import sams

REGISTRY = """
version: 1
models:
  - {{name: noop, version: 1.0.0, type: embedding, provider: noop, source: "bundled:noop", default: true}}
  - {{name: sam, version: 1.0.0, type: segmentation, provider: sam, source: "file:{folder}", default: true}}
"""
PHOTOGRAPH = sams.photograph("coffee")
PROMPTS = [{"id": "cup", "points": [[250, 200]]}, {"box": [100, 50, 500, 350]}, {"points": [[9999, 0]]}]


def file_of(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def asked(server: Server, *, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
    given = {"prompts": orjson.dumps(PROMPTS).decode(), **fields}
    files = {"files": ("coffee.png", file_of(PHOTOGRAPH), "image/png")}
    return httpx.post(f"{server.url}/v1/segment", files=files, data=given, headers=headers, timeout=60)


def masks(row: dict[str, Any]) -> list[Any]:
    return [coco.decode(mask["rle"]).astype(bool) for mask in row["masks"]]


@pytest.fixture
def network(tmp_path: Path) -> Any:
    network = sams.build(256)
    sams.hub_like(tmp_path / "sam", network)
    return network


@pytest.mark.timeout(300)
def test_a_picture_is_cut_out_over_http_and_grpc_and_after_the_runner_was_killed(
    tmp_path: Path, network: Any, start_server: Callable[..., Server]
) -> None:
    server = start_server(registry=REGISTRY.format(folder=tmp_path / "sam"))
    server.wait_ready()

    first = asked(server)

    assert first.status_code == 200, first.text
    body = first.json()
    assert (body["model"], body["height"], body["width"]) == ("sam", 400, 600)
    cup, box, outside = body["data"]
    assert (cup["id"], len(cup["masks"]), len(box["masks"])) == ("cup", 3, 1)
    assert (outside["error"]["code"], outside["error"]["field"]) == ("validation", "prompts[2].points[0]")
    given = [Prompt(points=(Point(x=250, y=200),)), Prompt(box=Box(left=100, top=50, right=500, bottom=350))]
    for row, (logits, scores, _) in zip((cup, box), sams.reference(network, PHOTOGRAPH, given), strict=True):
        order = np.argsort(-scores, kind="stable")
        for mask, place in zip(masks(row), order, strict=True):
            sure = np.abs(logits[place]) > 1e-2
            assert np.array_equal(mask[sure], logits[place][sure] > 0)

    again = asked(server, headers={"accept": "application/x-ndjson"})
    rows = sorted((orjson.loads(line) for line in again.text.splitlines()[:-1]), key=lambda row: row["index"])
    assert [row.get("masks") for row in rows] == [row.get("masks") for row in body["data"]]

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        prompts = [pb.Prompt(id="cup", points=[pb.Point(x=250, y=200)])]
        request = pb.SegmentRequest(image=file_of(PHOTOGRAPH), prompts=prompts)
        [answer] = inference_pb2_grpc.ModelInferenceStub(channel).Segment(request, timeout=60)
    assert [mask.data.decode() for mask in answer.masks] == [mask["rle"]["counts"] for mask in cup["masks"]]

    for engine in server.engines():
        engine.kill()
    after = asked(server).json()["data"]
    for before, now in zip((cup, box), after[:2], strict=True):  # another process may add in another order
        assert [mask["score"] for mask in now["masks"]] == pytest.approx(
            [m["score"] for m in before["masks"]], abs=1e-4
        )
        assert all(np.mean(a == b) > 0.999 for a, b in zip(masks(now), masks(before), strict=True))
    assert after[2]["error"]["code"] == "validation"

    everything = asked(server, prompts="", everything='{"points_per_side": 4, "min_score": 0, "min_stability": 0}')
    assert everything.status_code == 200
    found = [row["masks"][0]["score"] for row in everything.json()["data"]]
    assert found == sorted(found, reverse=True)
    assert asked(server, model="noop").json()["code"] == "capability_missing"
