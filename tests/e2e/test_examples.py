"""The examples of README and docs/ run as they stand, from the pages' own text, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests import examples
from tests.e2e.serving import Server, serve
from tests.e2e.test_predicting import LABELS, save_model
from tests.examples import ELSEWHERE, ROOT, Example
from tests.models import sams
from tests.models.conftest import stored
from tests.models.hub_folders import configured, processor_of
from tests.models.hub_folders import stored as stored_model

TOOLS = Path(sys.executable).parent
SMALL: Sequence[dict[str, Any]] = (
    {"name": "clip-vit-b-32", "type": "embedding", "provider": "noop", "config": {"image_size": 32}},
    {"name": "vit-base", "type": "classification", "provider": "classifier"},
    {"name": "sam-vit-base", "type": "segmentation", "provider": "sam"},
    {"name": "iris", "type": "tensor", "provider": "onnx", "default": True},
)
"""In the places of the models that a hub would have to bring, and of the reader's own."""
IRIS = {"outputs": [{"name": "scores", "dtype": "float32", "shape": ["batch", 3], "labels": LABELS}]}


def registry(folder: Path) -> str:
    """The bundled models as they are declared, and `SMALL`, loaded when they are asked for."""
    declared = yaml.safe_load((ROOT / "registry" / "ModelRegistry.yaml").read_text(encoding="utf-8"))["models"]
    models = [row for row in declared if row["source"].startswith("bundled:")]
    defaults = {row["type"] for row in models if row.get("default")}
    for row in SMALL:
        source = "bundled:noop" if row["provider"] == "noop" else f"file:{folder / row['name']}"
        own = {"version": "1.0.0", "source": source, "warmup": False, "default": row["type"] not in defaults}
        models.append(own | row | ({"config": IRIS} if row["name"] == "iris" else {}))
    return yaml.safe_dump({"version": 1, "models": models})


RUN = [example for page in examples.pages() if page not in ELSEWHERE for example in examples.runnable(page)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("examples")
    save_model(folder / "iris")
    sams.hub_like(folder / "sam-vit-base", sams.build(256))
    processor = processor_of("ViT", size={"height": 32, "width": 32})
    stored_model(folder / "vit-base", configured("vit"), processor, classifier=True)
    vectors = (folder / "vectors").as_uri()
    server = serve(folder / "server", registry=registry(folder), env={"MODELMORA_VECTORS_URL": vectors})
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder of a reader: the source's documents and its bundled model, and a photograph of their own."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "registry").symlink_to(ROOT / "registry")
    (tmp_path / "photo.jpg").write_bytes(stored(Image.fromarray(sams.photograph("coffee"))))
    return tmp_path


@pytest.mark.parametrize("example", RUN, ids=str)
def test_an_example_runs_as_it_stands(example: Example, server: Server, here: Path) -> None:
    code = example.code.replace(".venv/bin/", "")
    for port, own in (("3000", server.http_port), ("50051", server.grpc_port)):
        for host in ("127.0.0.1", "localhost"):
            code = code.replace(f"{host}:{port}", f"127.0.0.1:{own}")
    told = {"MODELMORA_URL": server.grpc_url, "MODELMORA_CONTROL_URL": server.url}
    own_path = {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code] if example.language == "python" else ["bash", "-euc", code]

    done = subprocess.run(
        command,
        cwd=here,
        env={**os.environ, **told, **own_path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, f"{code}\n{done.stderr[-2000:]}"
    assert done.stdout.strip() or example.language == "python"
    assert "urn:modelmora:error" not in done.stdout, done.stdout[-2000:]
