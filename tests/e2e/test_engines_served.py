"""A model run by another library, from its row in the registry to its answers; kept over a restart."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.serving import ROOT, Server, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SHAPES = "version: 1.0.0, type: embedding, provider: open_clip, source: 'bundled:shapes-clip'"
UNSIGNED = "config: {quantize: {activations: uint8}}"
REGISTRY = f"""
version: 1
models:
  - {{name: torch, {SHAPES}, default: true}}
  - {{name: exported, {SHAPES}, engine: openvino, precision: bf16}}
  - {{name: open, {SHAPES}, engine: auto, precision: auto}}
  - {{name: coarse, {SHAPES}, engine: onnxruntime, precision: int8, {UNSIGNED}}}
"""
PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.jpg"))


def vectors(server: Server, model: str) -> np.ndarray[Any, Any]:
    files = [("files", (file.name, io.BytesIO(file.read_bytes()))) for file in PICTURES]
    headers = {"x-modelmora-timeout-ms": "300000"}
    answer = httpx.post(
        f"{server.url}/v1/embed/image", files=files, data={"model": model}, headers=headers, timeout=310
    )
    assert answer.status_code == 200, answer.text
    return np.array([item["embedding"] for item in answer.json()["data"]])


def test_it_answers_as_torch_does_and_is_exported_once(tmp_path: Path) -> None:
    for _ in range(2):
        server = serve(tmp_path, registry=REGISTRY)
        try:
            server.wait_ready()
            cosines = (vectors(server, "exported") * vectors(server, "torch")).sum(axis=1)
            assert cosines.min() >= 0.999
            assert server.log.read_text().count("model_converted") == 1  # the log of both starts
        finally:
            server.stop()


@pytest.mark.nightly
def test_one_that_is_not_near_enough_is_refused_and_says_how_near_it_came(tmp_path: Path) -> None:
    server = serve(tmp_path, registry=REGISTRY)
    try:
        server.wait_ready()
        headers = {"x-modelmora-timeout-ms": "300000", "content-type": "application/json"}
        asked = {"texts": ["a red circle"], "model": "coarse"}
        answer = httpx.post(f"{server.url}/v1/embed/text", json=asked, headers=headers, timeout=310)
        assert (answer.status_code, answer.json()["code"]) == (503, "model_load_failed")
        assert "onnxruntime int8 is not near enough to fp32" in answer.json()["detail"]
        assert vectors(server, "torch").shape == (len(PICTURES), 128)
    finally:
        server.stop()


def verified(server: Server, model: str) -> dict[str, Any]:
    headers = {"x-modelmora-timeout-ms": "400000"}
    answer = httpx.post(f"{server.url}/api/v1/models/{model}/verify", headers=headers, timeout=410)
    assert answer.status_code == 200, answer.text
    report: dict[str, Any] = json.loads(answer.text.splitlines()[-1])
    return report


@pytest.mark.nightly
def test_auto_is_what_was_measured_to_be_fastest_from_the_next_start_on(tmp_path: Path) -> None:
    server = serve(tmp_path, registry=REGISTRY)
    try:
        server.wait_ready()
        report = verified(server, "open")
        by_torch = vectors(server, "torch")
    finally:
        server.stop()
    tried = {(one["engine"], one["precision"]) for one in report["candidates"]}
    assert {("torch", "fp32"), ("openvino", "int8")} <= tried
    taken = next(one for one in report["candidates"] if report["auto"].items() <= one.items())
    assert taken["verdict"] in ("reference", "passes")

    server = serve(tmp_path, registry=REGISTRY)
    try:
        server.wait_ready()
        assert (vectors(server, "open") * by_torch).sum(axis=1).min() >= 0.999
        again = verified(server, "open")
        assert {key: again[key] for key in ("engine", "precision")} == report["auto"]  # what is loaded now
    finally:
        server.stop()
