"""Memory comes back: a model of real size is loaded, warmed and unloaded over and over in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from load.random_weights import write_random

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
CYCLES = 11
"""The first one is the baseline: libraries, threads and caches stay after it."""

LARGE: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 96, "layers": 4, "width": 512, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 4},
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_cycles_of_load_warm_up_and_unload_leave_nothing_behind(tmp_path: Path) -> None:
    folder = write_random(LARGE, tmp_path / "model")
    weights = (folder / "open_clip_model.safetensors").stat().st_size
    assert weights >= 150 * MIB

    command = [sys.executable, "-m", "tests.models.memory_process", str(folder), str(CYCLES)]
    told = json.loads(
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    )

    after = told["resident"][1:]
    slope = statistics.linear_regression(range(len(after)), after).slope
    assert slope <= 1 * MIB, [f"{size / MIB:.1f}" for size in told["resident"]]
    assert max(after) - told["resident"][0] <= 0.1 * weights
    # What the pool reckons with is what the process took, within a tenth.
    for footprint, most in zip(told["footprints"][1:], told["most"][1:], strict=True):
        assert weights <= footprint
        assert most <= 1.1 * footprint, (most / MIB, footprint / MIB)
