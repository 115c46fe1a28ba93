"""The examples of the pages on tensor models run as they stand, against models declared by those pages' own text."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper

from tests import examples
from tests.e2e.serving import ROOT, Server, serve
from tests.e2e.test_predicting import LABELS, save_model
from tests.examples import Example
from tests.models.tensor_nets import graph, value, weights, write

PREDICTING = ('"labels":["', "iris@1.0.0 float32 (2, 3)", "iris 1.0.0 (1, 3)", "(2, 3)", "(2, 3)")
TENSORS = ('"shape":[2,2]', "colours@1.0.0", "colours")
EXAMPLES = [
    *zip(examples.runnable("docs/predicting.md"), PREDICTING, strict=True),
    *zip(examples.runnable("docs/tensors.md"), TENSORS, strict=True),
]


def preprocessing() -> Iterator[dict[str, Any]]:
    """The documented examples of it: of pictures, then of a table."""
    page = (ROOT / "docs" / "tensors.md").read_text(encoding="utf-8")
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        declared = yaml.safe_load(textwrap.dedent(block))
        if "preprocess" in declared:
            yield declared


def write_models(folder: Path) -> None:
    """The flowers, people by their five features, and the mean of each colour."""
    save_model(folder / "iris")
    ends = [value("features", TensorProto.FLOAT, ["batch", 5])], [value("survived", TensorProto.FLOAT, ["batch", 2])]
    matrix = weights("w", np.ones((5, 2), np.float32))
    write(folder / "survival", graph([helper.make_node("MatMul", ["features", "w"], ["survived"])], *ends, [matrix]))
    pixels = value("pixel_values", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    means = value("means", TensorProto.FLOAT, ["batch", 3, 1, 1])
    write(
        folder / "colours",
        graph([helper.make_node("GlobalAveragePool", ["pixel_values"], ["means"])], [pixels], [means]),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tensors")
    write_models(folder)
    pictures, table = preprocessing()
    scores = {"name": "scores", "dtype": "float32", "shape": ["batch", 3], "labels": LABELS}
    configs: dict[str, Any] = {"iris": {"outputs": [scores]}, "survival": table, "colours": pictures}
    models = [
        {"name": name, "version": "1.0.0", "type": "tensor", "provider": "onnx", "source": f"file:{folder / name}"}
        | {"config": config, "default": name == "iris"}
        for name, config in configs.items()
    ]
    server = serve(folder / "server", registry=yaml.safe_dump({"version": 1, "models": models}))
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize(("example", "shown"), EXAMPLES, ids=[str(example) for example, _ in EXAMPLES])
def test_an_example_of_the_page_runs(example: Example, shown: str, server: Server) -> None:
    code = example.code
    for port, own in (("3000", server.http_port), ("50051", server.grpc_port)):
        code = re.sub(rf"(localhost|127\.0\.0\.1):{port}", f"127.0.0.1:{own}", code)
    command = [sys.executable, "-c"] if example.language == "python" else ["sh", "-ec"]

    done = subprocess.run([*command, code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)

    assert done.returncode == 0, done.stderr[-2000:]
    assert shown in done.stdout
