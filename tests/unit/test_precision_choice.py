"""Which precision is taken: what the hardware has, what was measured, and where that is remembered."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelmora.domain.models import ModelSpec, Task
from modelmora.errors import ModelLoadFailed
from runners import precision
from runners.examinations.decisions import Decisions
from runners.examinations.likeness import likeness
from runners.precision import Concrete, Likeness, Measured, choose, native, permitted, supported, verdict

SPEC = ModelSpec(name="m", version="1.0.0", type="embedding", provider="open_clip", source="file:m")


def measured(format_: Concrete, ms: float, *, images: float = 1.0, texts: float = 1.0) -> Measured:
    near = {task: Likeness(lowest=low, mean=low, overlap=1.0, difference=0.0) for task, low in _towers(images, texts)}
    return Measured(precision=format_, likeness=near, ms={"embed_image": ms / 2, "embed_text": ms / 2})


def _towers(images: float, texts: float) -> tuple[tuple[Task, float], ...]:
    return (("embed_image", images), ("embed_text", texts))


FP32 = measured("fp32", 100.0)


@pytest.mark.parametrize(
    ("candidates", "taken"),
    [
        ([], "fp32"),
        ([measured("bf16", 50.0)], "bf16"),
        ([measured("bf16", 50.0), measured("fp16", 40.0)], "fp16"),
        ([measured("bf16", 50.0), measured("fp16", 40.0, images=0.9989)], "bf16"),
        ([measured("bf16", 50.0, texts=0.9989)], "fp32"),
        ([measured("bf16", 50.0, images=float("nan"))], "fp32"),
        ([measured("bf16", 91.0)], "fp32"),  # not worth its rounding
        ([measured("bf16", 120.0)], "fp32"),
        ([replace(measured("bf16", 50.0), failed="not implemented for 'BFloat16'")], "fp32"),
    ],
)
def test_the_fastest_that_passes_the_gate_in_both_towers_is_taken(candidates: list[Measured], taken: str) -> None:
    assert choose([*candidates, FP32]) == taken
    assert choose([FP32, *candidates]) == taken


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (FP32, "reference"),
        (measured("bf16", 50.0), "passes"),
        (measured("bf16", 95.0), "no faster"),
        (measured("bf16", 50.0, texts=0.99), "below the gate"),
        (replace(measured("bf16", 50.0), failed="no"), "failed"),
    ],
)
def test_each_candidate_has_a_verdict(candidate: Measured, said: str) -> None:
    assert verdict(candidate, FP32) == said


# --- what a device can do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "formats"),
    [
        ({"avx512_f": True, "avx512_bf16": False}, ("fp32",)),
        ({"avx512_bf16": True}, ("fp32", "bf16")),
        ({"amx_bf16": True}, ("fp32", "bf16")),
        ({"architecture": "aarch64", "bf16": True}, ("fp32", "bf16")),
        ({}, ("fp32",)),
    ],
)
def test_a_cpu_is_a_candidate_for_bf16_where_it_has_circuits_for_it(
    flags: Mapping[str, object], formats: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "capabilities", lambda: flags)
    assert native("cpu") == formats


@pytest.mark.parametrize(("generation", "formats"), [((7, 5), ("fp32", "fp16")), ((8, 0), ("fp32", "bf16", "fp16"))])
def test_a_gpu_is_one_for_fp16_and_since_ampere_for_bf16(
    generation: tuple[int, int], formats: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: generation)
    assert native("cuda:0") == supported("cuda:0") == formats
    assert native("mps") == ("fp32", "fp16")


def test_a_precision_that_the_device_cannot_do_is_refused_naming_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    with pytest.raises(ModelLoadFailed, match=r"cuda:1 cannot compute in bf16; it can do fp32, fp16, or auto"):
        permitted(replace(SPEC, precision="bf16"), "cuda:1")
    with pytest.raises(ModelLoadFailed, match=r"'int8' takes engine openvino or onnxruntime; torch can do fp32, bf16"):
        permitted(replace(SPEC, precision="int8"), "cpu")


def test_an_auto_of_which_nothing_is_known_is_fp32() -> None:
    assert permitted(replace(SPEC, precision="auto"), "cpu") == "fp32"
    assert permitted(replace(SPEC, precision="bf16"), "cpu") == "bf16"


# --- likeness ----------------------------------------------------------------------------------------------------


def rows(count: int = 64, dimension: int = 16) -> np.ndarray[Any, np.dtype[np.float32]]:
    drawn = np.random.default_rng(0).standard_normal((count, dimension)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def test_the_same_vectors_are_as_like_as_can_be() -> None:
    near = likeness(rows(), rows())
    assert near.lowest == pytest.approx(1.0)
    assert (near.overlap, near.difference) == (1.0, 0.0)


def test_only_the_gates_half_of_the_samples_counts_for_the_cosine() -> None:
    calibrating, gating = rows(), rows()
    calibrating[1], gating[2] = -calibrating[1], -gating[2]
    assert likeness(calibrating, rows()).lowest == pytest.approx(1.0)
    assert likeness(gating, rows()).lowest == pytest.approx(-1.0)
    assert likeness(calibrating, rows()).overlap < 1.0


def test_a_row_that_is_not_finite_passes_no_gate() -> None:
    broken = rows()
    broken[4, 2] = np.nan
    near = likeness(broken, rows())
    assert (near.lowest, near.difference) == (-1.0, 2.0)


# --- what was decided --------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    return file


def test_a_decision_is_found_again_by_another_process(tmp_path: Path, weights: Path) -> None:
    decisions = Decisions(tmp_path / "parity")
    key = decisions.key(SPEC, [weights], "cpu")
    assert decisions.stored(key) is None

    decisions.store(key, "bf16", {"why": "measured"})

    again = Decisions(tmp_path / "parity")
    assert again.stored(again.key(SPEC, [weights], "cpu")) == "bf16"
    assert json.loads((tmp_path / "parity" / f"{key}.json").read_text()) == {"precision": "bf16", "why": "measured"}


def test_other_weights_configuration_or_hardware_ask_anew(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decisions = Decisions(tmp_path / "parity")
    key = decisions.key(SPEC, [weights], "cpu")
    assert decisions.key(replace(SPEC, version="2.0.0", name="other"), [weights], "cpu") == key
    assert decisions.key(replace(SPEC, config={"architecture": "ViT-B-16"}), [weights], "cpu") != key

    weights.write_bytes(b"WEIGHTS")
    assert decisions.key(SPEC, [weights], "cpu") != key

    weights.write_bytes(b"weights")
    assert decisions.key(SPEC, [weights], "cpu") == key
    monkeypatch.setattr(precision, "hardware", lambda device: "another CPU")
    assert decisions.key(SPEC, [weights], "cpu") != key


def test_a_file_that_did_not_change_is_not_read_again(tmp_path: Path, weights: Path) -> None:
    decisions = Decisions(tmp_path / "parity")
    key, times = decisions.key(SPEC, [weights], "cpu"), weights.stat()
    weights.write_bytes(b"changed")
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert Decisions(tmp_path / "parity").key(SPEC, [weights], "cpu") == key


@pytest.mark.parametrize("content", ["", "{", "[]", '{"precision": "fp64"}', '{"sha256": 3}'])
def test_a_file_that_was_damaged_is_no_decision(content: str, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(content)
    assert Decisions(tmp_path).stored("key") is None


def test_a_folder_that_cannot_be_written_costs_the_memory_only(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "parity").write_text("a file where the folder should be")
    decisions = Decisions(tmp_path / "parity")
    key = decisions.key(SPEC, [weights], "cpu")
    decisions.store(key, "bf16", {})
    assert decisions.stored(key) is None


def test_one_process_at_a_time_measures_for_a_key(tmp_path: Path) -> None:
    one, another = Decisions(tmp_path), Decisions(tmp_path)
    with one.claimed("key") as first, another.claimed("key") as second, another.claimed("other") as other:
        assert (first, second, other) == (True, False, True)
    with another.claimed("key") as later:
        assert later
