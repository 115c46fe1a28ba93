"""A server whose processes find no torch: it serves the bundled model by networks that were exported before."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.serving import ROOT, Server, environment
from tests.pictures import drawing
from tests.without_torch import path_without_torch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REGISTRY = """
version: 1
models:
  - {{name: shapes, version: 1.0.0, type: embedding, provider: open_clip, source: "file:{folder}", engine: onnxruntime,
      precision: fp32, default: true, index: true}}
"""


def test_pictures_are_kept_and_found_by_words(start_server: Callable[..., Server], tmp_path: Path) -> None:
    folder = shutil.copytree(ROOT / "registry" / "bundled" / "shapes-clip", tmp_path / "shapes")
    registry = tmp_path / "registry.yaml"
    registry.write_text(REGISTRY.format(folder=folder))
    env = environment(tmp_path, 1, 2, {"MODELMORA_REGISTRY": str(registry)})
    made = subprocess.run(
        [sys.executable, "-m", "wiring.carry", "shapes"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip().endswith("exported/onnxruntime-fp32")
    server = start_server(
        registry=registry.read_text(),
        env={
            "PYTHONPATH": path_without_torch(tmp_path / "site"),
            "MODELMORA_VECTORS_URL": (tmp_path / "vectors").as_uri(),
        },
    )
    server.wait_ready()
    for colour in ("red", "green", "blue"):
        files = [("files", (f"{colour}.png", drawing(colour, "circle", size=120), "image/png"))]
        assert httpx.post(f"{server.url}/v1/images", files=files, timeout=60).status_code == 201
    found = httpx.post(f"{server.url}/v1/search", json={"text": "a green circle", "limit": 1}, timeout=60).json()
    assert [hit["filename"] for hit in found["results"]] == ["green.png"]
    assert "family_not_imported" not in server.log.read_text()
