"""Which precision is taken: what the hardware has, what was measured, and where that is remembered."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelmora.domain.models import Engine, ModelSpec, Precision, Task
from modelmora.errors import ModelLoadFailed
from runners import forms, precision
from runners.engines.kinds import Kind
from runners.engines.towers import Towers
from runners.examinations.decisions import Decisions
from runners.examinations.likeness import likeness
from runners.forms import REFERENCE, Form, Likeness, Measured, allowed, choose, first, verdict
from runners.precision import Concrete, native, permitted, supported

SPEC = ModelSpec(name="m", version="1.0.0", type="embedding", provider="open_clip", source="file:m")


def measured(form: Form, ms: float, *, images: float = 1.0, texts: float = 1.0) -> Measured:
    near = {task: Likeness(lowest=low, mean=low, overlap=1.0, difference=0.0) for task, low in _towers(images, texts)}
    return Measured(form=form, likeness=near, ms={"embed_image": ms / 2, "embed_text": ms / 2})


def _towers(images: float, texts: float) -> tuple[tuple[Task, float], ...]:
    return (("embed_image", images), ("embed_text", texts))


BF16, FP16, VINO = Form(precision="bf16"), Form(precision="fp16"), Form("openvino", "int8")
FP32 = measured(REFERENCE, 100.0)


@pytest.mark.parametrize(
    ("candidates", "taken"),
    [
        ([], REFERENCE),
        ([measured(BF16, 50.0)], BF16),
        ([measured(BF16, 50.0), measured(FP16, 40.0)], FP16),
        ([measured(BF16, 50.0), measured(VINO, 30.0)], VINO),
        ([measured(BF16, 50.0), measured(VINO, 30.0, images=0.9989)], BF16),
        ([measured(BF16, 50.0, texts=0.9989)], REFERENCE),
        ([measured(BF16, 50.0, images=float("nan"))], REFERENCE),
        ([measured(BF16, 91.0)], REFERENCE),  # not worth its rounding
        ([measured(BF16, 120.0)], REFERENCE),
        ([replace(measured(BF16, 50.0), failed="not implemented for 'BFloat16'")], REFERENCE),
    ],
)
def test_the_fastest_that_passes_the_gate_in_both_towers_is_taken(candidates: list[Measured], taken: Form) -> None:
    among = [one.form for one in candidates]
    assert choose([*candidates, FP32], REFERENCE, among) == taken
    assert choose([FP32, *candidates], REFERENCE, among) == taken


def test_what_the_registry_does_not_leave_open_is_not_taken() -> None:
    candidates = [FP32, measured(BF16, 50.0), measured(VINO, 30.0)]
    assert choose(candidates, REFERENCE, [BF16]) == BF16
    assert choose(candidates, REFERENCE, []) == REFERENCE


def test_a_usual_form_that_fails_the_gate_gives_way_to_any_that_passes() -> None:
    usual = measured(BF16, 50.0, texts=0.99)
    candidates = [FP32, usual, measured(VINO, 49.0)]
    assert choose(candidates, BF16, [BF16, VINO]) == VINO
    assert choose(candidates[:2], BF16, [BF16]) == BF16  # nothing else may be


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (FP32, "reference"),
        (measured(BF16, 50.0), "passes"),
        (measured(BF16, 95.0), "no faster"),
        (measured(BF16, 50.0, texts=0.99), "below the gate"),
        (replace(measured(BF16, 50.0, texts=0.99), ms={}), "below the gate"),  # it was not even loaded
        (replace(measured(BF16, 50.0), failed="no"), "failed"),
    ],
)
def test_each_candidate_has_a_verdict(candidate: Measured, said: str) -> None:
    assert verdict(candidate, FP32) == said


# --- what the registry leaves open -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A provider whose models can be exported, on a machine with bf16."""

    def precisions(self, device: str) -> tuple[Concrete, ...]:
        return ("fp32", "bf16")

    def files(self, spec: ModelSpec, folder: Path | None) -> tuple[Path, ...]:
        assert folder is not None
        return (folder / "weights",)

    def towers(self, spec: ModelSpec, folder: Path | None) -> Towers:
        raise AssertionError


FAMILY = Family()
EXPORTED = (Form("openvino", "bf16"), Form("openvino", "int8"))


def installing(monkeypatch: pytest.MonkeyPatch, *kinds: Kind, bf16: bool = True) -> None:
    monkeypatch.setattr(forms, "installed", lambda kind: kind in kinds)
    monkeypatch.setattr(precision, "capabilities", lambda: {"avx512_bf16": bf16})


@pytest.mark.parametrize(
    ("engine", "wanted", "among"),
    [
        ("torch", "auto", (REFERENCE, BF16)),
        ("torch", "fp32", (REFERENCE, BF16)),
        ("auto", "auto", (REFERENCE, BF16, *EXPORTED)),
        ("auto", "bf16", (BF16, EXPORTED[0])),
        ("auto", "fp32", (REFERENCE, Form("openvino", "fp32"))),
        ("auto", "int8", EXPORTED[1:]),
        ("openvino", "auto", (Form("openvino", "fp32"), *EXPORTED)),
        ("openvino", "int8", EXPORTED[1:]),
        ("onnxruntime", "auto", (Form("onnxruntime", "fp32"), Form("onnxruntime", "int8"))),
    ],
)
def test_a_row_leaves_these_forms_to_choose_from(
    engine: Engine, wanted: Precision, among: tuple[Form, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    installing(monkeypatch, "openvino", "onnxruntime")
    assert allowed(replace(SPEC, engine=engine, precision=wanted), FAMILY, "cpu") == among


def test_only_what_is_there_is_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = replace(SPEC, engine="auto", precision="auto")
    installing(monkeypatch, "onnxruntime", bf16=False)
    of_onnxruntime = (Form("onnxruntime", "fp32"), Form("onnxruntime", "int8"))
    assert allowed(auto, FAMILY, "cpu") == (REFERENCE, BF16, *of_onnxruntime)
    installing(monkeypatch, "openvino", bf16=False)
    assert allowed(auto, FAMILY, "cpu")[2:] == (Form("openvino", "fp32"), Form("openvino", "int8"))
    installing(monkeypatch)
    assert allowed(auto, FAMILY, "cpu") == (REFERENCE, BF16)
    installing(monkeypatch, "openvino")
    assert allowed(auto, FAMILY, "cuda:0") == (REFERENCE, BF16)  # they run on the CPU


@pytest.mark.parametrize(
    ("engine", "wanted", "form"),
    [
        ("auto", "auto", REFERENCE),
        ("auto", "bf16", BF16),
        ("auto", "int8", Form("openvino", "int8")),
        ("torch", "auto", REFERENCE),
        ("onnxruntime", "auto", Form("onnxruntime", "fp32")),
        ("openvino", "bf16", Form("openvino", "bf16")),
    ],
)
def test_what_is_open_begins_as_torch_in_fp32(
    engine: Engine, wanted: Precision, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    installing(monkeypatch, "openvino", "onnxruntime")
    assert first(replace(SPEC, engine=engine, precision=wanted), FAMILY, "cpu") == form


def test_an_int8_that_nobody_there_computes_in_is_left_to_torch_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    installing(monkeypatch)
    assert first(replace(SPEC, engine="auto", precision="int8"), FAMILY, "cpu") == Form("torch", "int8")


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

    decisions.store(key, VINO, {"why": "measured"})

    again = Decisions(tmp_path / "parity")
    assert again.stored(again.key(SPEC, [weights], "cpu")) == VINO
    told = json.loads((tmp_path / "parity" / f"{key}.json").read_text())
    assert told == {"engine": "openvino", "precision": "int8", "why": "measured"}
    again.withdraw(key)
    again.withdraw(key)
    assert decisions.stored(key) is None


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


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"engine": "torch", "precision": "fp64"}', '{"precision": "fp32"}', '{"sha256": 3}']
)
def test_a_file_that_was_damaged_is_no_decision(content: str, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(content)
    assert Decisions(tmp_path).stored("key") is None


def test_a_folder_that_cannot_be_written_costs_the_memory_only(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "parity").write_text("a file where the folder should be")
    decisions = Decisions(tmp_path / "parity")
    key = decisions.key(SPEC, [weights], "cpu")
    decisions.store(key, BF16, {})
    assert decisions.stored(key) is None


def test_another_choice_is_another_question(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installing(monkeypatch, "openvino")
    decisions, auto = Decisions(tmp_path / "parity"), replace(SPEC, engine="auto", precision="auto")

    def asked(spec: ModelSpec) -> str:
        return decisions.question(spec, FAMILY, weights.parent, "cpu")

    questions = {asked(replace(auto, engine=one)) for one in ("auto", "torch", "openvino")}
    assert len(questions) == 3
    assert asked(SPEC) in questions  # what a row in fp32 was verified with is what a row for torch may take
    monkeypatch.setattr("runners.engines.openvino.OpenVino.version", lambda _: "another")
    assert asked(auto) not in questions


def test_one_process_at_a_time_measures_for_a_key(tmp_path: Path) -> None:
    one, another = Decisions(tmp_path), Decisions(tmp_path)
    with one.claimed("key") as first, another.claimed("key") as second, another.claimed("other") as other:
        assert (first, second, other) == (True, False, True)
    with another.claimed("key") as later:
        assert later
