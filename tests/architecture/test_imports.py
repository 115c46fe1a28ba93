"""Who may import whom, and what a door must not load."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.architecture.tree import ROOMS, ROOT

HEAVY = {
    "torch",
    "torchvision",
    "open_clip",
    "transformers",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "sklearn",
    "pandas",
}
DOORS = [
    "service",
    "wiring.api",
    "wiring.runner",
    "api.http.app",
    "api.grpc.server",
    "runners.handle",
    "runners.inference",
    "runners.host",
    "subscribers.__main__",
]
REGISTRY = """
version: 1
models:
  - {name: noop, version: 1.0.0, type: embedding, provider: noop, source: "bundled:noop", default: true}
"""


def test_the_import_contracts_hold() -> None:
    """In a process of its own: the linter keeps the output of whoever imported its libraries first."""
    linter = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"

    told = subprocess.run([sys.executable, "-c", linter], cwd=ROOT, capture_output=True, text=True, check=False)

    assert told.returncode == 0, told.stdout + told.stderr


def test_the_contracts_see_every_room() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    rooms = {room for room in ROOMS if (ROOT / room).is_dir()} - {"load", "training"}  # tools, which nothing imports

    assert set(config["root_packages"]) == rooms
    names = {contract["name"] for contract in config["contracts"]}
    assert names >= {
        "the core never looks outward",
        "rooms do not know each other",
        "only a door knows the wiring",
        "everything points at the domain",
        "the core does no IO",
    }


def opened(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What came of a script in a process of its own, with a registry of one model."""
    (folder / "ModelRegistry.yaml").write_text(REGISTRY)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MODELMORA_", "BENTOML_", "PROMETHEUS_"))}
    own = {
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "MODELMORA_DATA_DIR": str(folder / "data"),
        "MODELMORA_REGISTRY": str(folder / "ModelRegistry.yaml"),
    }
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, env=kept | own, capture_output=True, text=True, check=False, timeout=110)


def test_a_door_opens_without_torch(tmp_path: Path) -> None:
    script = f"""
import importlib, sys
for door in {DOORS}:
    importlib.import_module(door)
    loaded = {HEAVY} & set(sys.modules)
    if loaded:
        sys.exit(f"{{door}} loads {{', '.join(sorted(loaded))}}")
"""

    done = opened(script, tmp_path)

    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "data").exists()  # the supervisor and the build import service.py too: it writes nothing
