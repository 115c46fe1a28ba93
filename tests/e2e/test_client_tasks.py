"""Every task through the client and the command line against a real server, over each wire."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from modelmora.client import (
    Box,
    Everything,
    Failed,
    Ok,
    Point,
    Prompt,
    SyncClient,
    Text,
    tensor,
    unwrap,
)
from modelmora.errors import CapabilityMissing, ModelNotFound, SchemaMismatch, ValidationFailed
from tests.e2e.serving import Server, serve
from tests.e2e.test_predicting import save_model, scores
from tests.e2e.test_serve import PICTURES, caption
from tests.models import sams

REGISTRY = """
version: 1
models:
  - name: shapes-clip
    version: 1.0.0
    type: embedding
    provider: open_clip
    source: "bundled:shapes-clip"
    default: true
  - {{name: small, version: 1.0.0, type: embedding, provider: noop, source: "bundled:noop", config: {{image_size: 32}}}}
  - {{name: iris, version: 1.0.0, type: tensor, provider: onnx, source: "file:{folder}/iris", default: true}}
  - {{name: sam, version: 1.0.0, type: segmentation, provider: sam, source: "file:{folder}/sam", default: true}}
"""
PHOTOGRAPH = sams.photograph("coffee")
CAPTIONS = [caption(picture) for picture in PICTURES]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tasks")
    save_model(folder / "iris")
    sams.hub_like(folder / "sam", sams.build(256))
    server = serve(folder / "server", registry=REGISTRY.format(folder=folder))
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["grpc", "http"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[SyncClient]:
    url = server.grpc_url if request.param == "grpc" else server.url
    with SyncClient(url, control_url=server.url, timeout=60) as client:
        yield client


def test_each_picture_is_most_like_its_own_caption(client: SyncClient) -> None:
    outcomes = client.classify([*PICTURES, "absent.jpg"], labels=CAPTIONS, templates=["{}"], top_k=3)

    *found, absent = outcomes
    best = [unwrap(outcome).best for outcome in found]
    assert [one.label for one in best if one is not None] == CAPTIONS
    assert [unwrap(outcome).key for outcome in found] == ["shapes-clip@1.0.0"] * len(PICTURES)
    assert all(sum(one.score for one in unwrap(outcome).classes) <= 1 + 1e-6 for outcome in found)
    assert isinstance(absent, Failed)


def test_models_are_compared_over_pictures_and_texts_in_any_order(client: SyncClient) -> None:
    items = [item for picture, text in zip(PICTURES, CAPTIONS, strict=True) for item in (Text(text), picture)]

    clip, small, gone = client.compare(["shapes-clip", "small", "gone"], items)

    seen = unwrap(clip)
    similarities = np.asarray(seen.similarities)
    assert similarities.shape == (len(items), len(items))
    assert similarities.diagonal() == pytest.approx(1.0, abs=1e-5)
    across = similarities[1::2, 0::2]  # pictures by captions
    assert np.array_equal(across.argmax(axis=1), np.arange(len(PICTURES)))
    one, other = [unwrap(result) for result in seen.results[:2]]
    assert similarities[0, 1] == pytest.approx(one.cosine(other), abs=1e-5)
    assert (unwrap(small).dimension, seen.bytes > 2**20) == (8, True)
    assert min(seen.total_ms, seen.timings.inference_ms) > 0
    assert isinstance(gone, Failed)
    assert isinstance(gone.error, ModelNotFound)


def test_what_no_model_here_can_do_is_told(client: SyncClient) -> None:
    (outcome,) = client.classify([PICTURES[0]], labels=["a"], model="small")
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, CapabilityMissing)
    with pytest.raises(CapabilityMissing):
        client.predict({"features": [[1.0, 2.0, 3.0, 4.0]]}, model="small")
    assert [type(each) for each in client.classify([PICTURES[0]], labels=["a", "b"])] == [Ok]


def test_masks_of_a_photograph_are_refined_by_their_logits(client: SyncClient) -> None:
    cup = Prompt(points=(Point(x=250, y=200),))
    around = Prompt(box=Box(left=100, top=50, right=500, bottom=350))
    outside = Prompt(points=(Point(x=9_999, y=0),))

    first, second, refused = client.segment_all(Image.fromarray(PHOTOGRAPH), [cup, around, outside], logits=True)

    found = unwrap(first)
    assert (found.key, found.height, found.width, len(found.masks)) == ("sam@1.0.0", *PHOTOGRAPH.shape[:2], 3)
    assert [len(unwrap(second).masks), isinstance(refused, Failed)] == [1, True]
    for mask in found.masks:
        pixels = mask.to_array()
        assert np.array_equal(pixels, coco.decode(mask.rle).astype(bool))
        assert (pixels.shape, int(pixels.sum())) == (PHOTOGRAPH.shape[:2], mask.area)
    earlier = found.masks[0].logits
    assert earlier is not None
    again = [replace(cup, mask=earlier)]
    (refined,) = client.segment_all(Image.fromarray(PHOTOGRAPH), again)
    assert len(unwrap(refined).masks) == 1
    (alone,) = client.segment_all(Image.fromarray(PHOTOGRAPH), [outside])
    assert isinstance(alone, Failed)
    assert isinstance(alone.error, ValidationFailed)


def test_everything_in_a_photograph_is_cut_out(client: SyncClient) -> None:
    asked = Everything(points_per_side=4, min_score=0.0, min_stability=0.0)
    found = [unwrap(outcome) for outcome in client.segment_all(Image.fromarray(PHOTOGRAPH), asked)]
    masks = [mask for each in found for mask in each.masks]
    assert masks
    assert [mask.score for mask in masks] == sorted((mask.score for mask in masks), reverse=True)
    assert all(mask.area == int(mask.to_array().sum()) for mask in masks)


def test_tensors_are_predicted_as_the_model_itself_does(client: SyncClient) -> None:
    rows = np.array([[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]], np.float32)
    for features in (rows, rows.tolist(), tensor(rows.tolist(), "float32")):
        prediction = client.predict({"features": features}, outputs=["scores"])
        assert np.asarray(prediction["scores"]) == pytest.approx(scores(rows), abs=1e-6)
    assert prediction.key == "iris@1.0.0"
    with pytest.raises(SchemaMismatch) as caught:
        client.predict({"features": rows.astype(np.float64)})
    assert (caught.value.field, "float32" in str(caught.value.expected)) == ("inputs.features", True)
    with pytest.raises(SchemaMismatch):
        client.predict({"petals": rows})


def test_the_command_line_does_so_as_well(server: Server, tmp_path: Path) -> None:
    where = ("--url", server.grpc_url, "--control-url", server.url)
    pictures = [str(picture) for picture in PICTURES]

    labels = [option for text in CAPTIONS for option in ("--label", text)]
    classified = lines("classify", *pictures, *labels, "--json", *where)
    assert [line["classes"][0]["label"] for line in classified] == CAPTIONS

    compared = lines("compare", "shapes-clip", "small", *pictures, "--json", *where)
    assert [line["model"] for line in compared] == ["shapes-clip", "small"]
    assert len(compared[0]["similarities"]) == len(PICTURES)

    Image.fromarray(PHOTOGRAPH).save(tmp_path / "coffee.png")
    folder = str(tmp_path / "masks")
    (segmented,) = lines("segment", str(tmp_path / "coffee.png"), "--point", "250,200", "-o", folder, "--json", *where)
    for mask in segmented["masks"]:
        with Image.open(mask["file"]) as file:
            assert np.array_equal(np.array(file), coco.decode(mask["rle"]).astype(bool))


def lines(*arguments: str) -> list[Any]:
    command = [sys.executable, "-m", "modelmora.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]
