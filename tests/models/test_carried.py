"""Networks that a model's folder brings: used where they fit what lies beside them, also where torch is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from load.random_weights import write_random
from modelmora.errors import ModelLoadFailed
from runners import families
from runners.engines import conversions as conversions_module
from runners.engines.carried import make, place_of
from runners.engines.conversions import Conversions
from runners.examinations.decisions import Decisions
from runners.open_clip import OpenClipProvider
from tests.e2e.serving import ROOT
from tests.models.conftest import small, spec
from tests.without_torch import path_without_torch

pytestmark = pytest.mark.slow
MODEL = spec(engine="onnxruntime", precision="fp32")

REGISTRY = """
version: 1
models:
  - {{name: small, version: 1.0.0, type: embedding, provider: open_clip, source: "file:{folder}", engine: onnxruntime,
      precision: fp32, default: true}}
"""

LOADED_ELSEWHERE = """
import json, sys
from pathlib import Path
import numpy as np
from modelmora.domain.models import Batching, ModelSpec
from runners import families
from runners.engines.conversions import Conversions
from runners.examinations.decisions import Deciding, Decisions

told = json.loads(sys.argv[1])
spec = ModelSpec(**{**told, "batching": Batching(**told["batching"])})
decisions = Decisions(None)
provider = Deciding(families.provider(spec.provider), decisions, Conversions(None, decisions, threads=1))
model = provider.load(spec, Path(sys.argv[2]), device="cpu", threads=1)
pixels = np.full((64, 64, 3), 128, dtype=np.uint8)
print(json.dumps(model.embed("embed_image", [pixels])[0].tolist()))
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose networks were put into it by the program that does."""
    made, data = write_random(small(), tmp_path_factory.mktemp("model")), tmp_path_factory.mktemp("data")
    (data / "registry.yaml").write_text(REGISTRY.format(folder=made))
    env = {**os.environ, "MODELMORA_REGISTRY": str(data / "registry.yaml"), "MODELMORA_DATA_DIR": str(data)}
    command = [sys.executable, "-m", "wiring.carry", "small"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT, env=env, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"small@1.0.0: {place(made)}\n"
    return made


def place(folder: Path) -> Path:
    return place_of(folder, "onnxruntime", "fp32")


def used(folder: Path, data: Path) -> Path:
    """Where a runner with that data folder would look."""
    conversions = Conversions(data / "engines", Decisions(data / "parity"), threads=1)
    return conversions._place(MODEL, families.provider("open_clip"), folder, "onnxruntime", "fp32")


def test_they_are_used_without_exporting_anything(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversions_module, "_run", None)  # nobody may export
    conversions = Conversions(tmp_path / "engines", Decisions(tmp_path / "parity"), threads=1)
    model = conversions.open(MODEL, families.provider("open_clip"), folder, threads=1)
    assert model is not None
    torch = OpenClipProvider().load(spec(), folder, device="cpu", threads=1)
    batch = [np.full((64, 64, 3), 128, dtype=np.uint8)]
    assert np.abs(model.embed("embed_image", batch) - torch.embed("embed_image", batch)).max() <= 1e-5
    assert not (tmp_path / "engines").exists()


def test_a_process_without_torch_loads_them_and_answers_the_same(folder: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": f"{path_without_torch(tmp_path / 'site')}{os.pathsep}{ROOT}"}
    told = json.dumps(asdict(MODEL), default=str)
    command = [sys.executable, "-c", LOADED_ELSEWHERE, told, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=env, check=False)
    assert ran.returncode == 0, ran.stderr
    torch = OpenClipProvider().load(spec(), folder, device="cpu", threads=1)
    expected = torch.embed("embed_image", [np.full((64, 64, 3), 128, dtype=np.uint8)])[0]
    assert np.abs(np.array(json.loads(ran.stdout)) - expected).max() <= 1e-5


def test_those_of_other_weights_are_not_used(folder: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(folder, tmp_path / "model")
    assert used(changed, tmp_path) == place(changed)
    write_random(small(), changed, seed=7)
    assert used(changed, tmp_path).is_relative_to(tmp_path / "engines")


@pytest.mark.parametrize("report", ["", "[]", '{"files": 1}', '{"files": {}}'])
def test_a_report_that_says_nothing_is_none(folder: Path, tmp_path: Path, report: str) -> None:
    copied = shutil.copytree(folder, tmp_path / "model")
    (place(copied) / "report.json").write_text(report)
    assert used(copied, tmp_path).is_relative_to(tmp_path / "engines")


def test_a_model_that_torch_runs_has_none_made(folder: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="asks for no engine"):
        make(spec(), folder, lambda line: None)
