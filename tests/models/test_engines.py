"""Networks by other libraries than torch: exported once, near torch's, refused where they are not."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from load.random_weights import write_random
from modelmora.domain.models import Engine, ModelSpec, Precision, Task
from modelmora.errors import ModelLoadFailed
from runners import families
from runners.engines import conversions as conversions_module
from runners.engines.conversions import Conversions, refuse_far
from runners.engines.converted import Converted
from runners.examinations.decisions import Deciding, Decisions
from runners.forms import Form
from runners.open_clip import OpenClipProvider
from tests.models.conftest import small, spec

TASKS: tuple[Task, ...] = ("embed_image", "embed_text")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(small(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> Conversions:
    kept = tmp_path_factory.mktemp("data")
    return Conversions(kept / "engines", Decisions(kept / "parity"), threads=2)


@pytest.fixture(scope="module")
def exported_once(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    engines = tmp_path_factory.mktemp("exported")
    asyncio.run(opened(Conversions(engines, Decisions(None), threads=2), by("onnxruntime"), folder))
    return engines


@pytest.fixture
def exported(exported_once: Path, tmp_path: Path) -> Path:
    """A folder of a test's own with what `by("onnxruntime")` was exported to."""
    return Path(shutil.copytree(exported_once, tmp_path / "engines"))


def by(engine: Engine, precision: Precision = "fp32", **config: Any) -> ModelSpec:
    return spec(engine=engine, precision=precision, config=config)


async def opened(conversions: Conversions, model: ModelSpec, folder: Path) -> Converted:
    provider = families.provider("open_clip")
    await conversions.ensure(model, provider, folder)
    found = conversions.open(model, provider, folder, threads=2)
    assert found is not None
    return found


def inputs(task: Task, count: int) -> list[NDArray[np.generic]]:
    rng = np.random.default_rng(3)
    if task == "embed_image":
        return [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(count)]
    return [rng.integers(1, 400, 32, dtype=np.int32) for _ in range(count)]


def found(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
async def test_an_exported_model_answers_what_torch_does(
    conversions: Conversions, folder: Path, engine: Engine
) -> None:
    torch = OpenClipProvider().load(spec(), folder, device="cpu", threads=2)
    model = await opened(conversions, by(engine), folder)

    for task in TASKS:
        for count in (1, 5, 2):
            batch = inputs(task, count)
            assert np.abs(model.embed(task, batch) - torch.embed(task, batch)).max() <= 1e-5
    assert (model.device, model.precision, model.engine) == ("cpu", "fp32", engine)
    assert model.weight_bytes > 0
    assert model.description == torch.description


async def test_it_is_exported_once_and_anew_for_other_weights(
    conversions: Conversions, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Path] = []
    kept = Conversions(tmp_path / "engines", Decisions(tmp_path / "parity"), threads=1)
    real = kept._make

    async def counted(place: Path, *others: Any) -> None:
        ran.append(place)
        await real(place, *others)

    monkeypatch.setattr(kept, "_make", counted)
    other = write_random(small(), tmp_path / "other", seed=1)
    for of in (folder, folder, other, folder):
        await opened(kept, by("onnxruntime"), of)

    assert len(ran) == len(set(ran)) == 2
    assert sorted(path.suffix for path in (tmp_path / "engines").iterdir()) == ["", "", ".lock"]


async def test_batches_of_several_threads_are_each_their_own(conversions: Conversions, folder: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = await opened(conversions, by("openvino"), folder)
    batches = [inputs("embed_image", count) for count in (1, 2, 3, 4)]
    alone = [model.embed("embed_image", batch) for batch in batches]
    with ThreadPoolExecutor(4) as lanes:
        together: Sequence[NDArray[np.float32]] = list(lanes.map(lambda b: model.embed("embed_image", b), batches * 8))
    for index, rows in enumerate(together):
        np.testing.assert_allclose(rows, alone[index % 4], atol=1e-6)


async def test_int8_that_is_not_near_enough_is_refused_with_how_near_it_is(
    conversions: Conversions, folder: Path
) -> None:
    """Unsigned activations lose a transformer's negative half: the gate must catch them."""
    model = by("onnxruntime", "int8", quantize={"activations": "uint8"})
    provider = families.provider("open_clip")
    far = r"onnxruntime int8 is not near enough to fp32: .*the gate is 0\.999"

    with pytest.raises(ModelLoadFailed, match=far):  # before any room was made for it
        await conversions.ensure(model, provider, folder)
    with pytest.raises(ModelLoadFailed, match=far):
        conversions.open(model, provider, folder, threads=1)


def test_the_gate_is_the_lowest_cosine_of_any_tower() -> None:
    report = {"engine": "openvino", "precision": "int8", "likeness": {"embed_image": {"lowest": 0.9995}}}
    refuse_far(spec(), report)
    for lowest in (0.84, float("nan")):
        far = {**report, "likeness": {**report["likeness"], "embed_text": {"lowest": lowest}}}  # type: ignore[dict-item]
        with pytest.raises(ModelLoadFailed, match="embed_text"):
            refuse_far(spec(), far)


@pytest.mark.parametrize(
    ("engine", "precision", "said"),
    [
        ("onnxruntime", "bf16", "does not compute in bf16; it can do fp32, int8"),
        ("openvino", "fp16", "does not compute in fp16; it can do fp32, bf16, int8"),
    ],
)
async def test_what_an_engine_cannot_compute_in_is_said(
    conversions: Conversions, folder: Path, engine: Engine, precision: Precision, said: str
) -> None:
    with pytest.raises(ModelLoadFailed, match=said):
        await conversions.ensure(by(engine, precision), families.provider("open_clip"), folder)


async def test_a_family_that_cannot_be_exported_says_so(conversions: Conversions) -> None:
    model = ModelSpec(
        name="noop", version="1.0.0", type="embedding", provider="noop", source="bundled:noop", engine="openvino"
    )
    with pytest.raises(ModelLoadFailed, match="models of provider noop run on torch only"):
        await conversions.ensure(model, families.provider("noop"), None)


async def test_a_broken_weights_file_is_named_by_the_export(conversions: Conversions, tmp_path: Path) -> None:
    broken = write_random(small(), tmp_path / "broken")
    (broken / "open_clip_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(Exception, match="safetensors is damaged"):
        await conversions.ensure(by("openvino"), families.provider("open_clip"), broken)


async def test_an_exported_network_that_is_damaged_says_which_folder_to_remove(exported: Path, folder: Path) -> None:
    kept, model = Conversions(exported, Decisions(None), threads=1), by("onnxruntime")
    [file] = found(exported, "*/embed_image.onnx")
    file.write_bytes(b"rubbish")

    with pytest.raises(ModelLoadFailed, match="remove the folder"):
        kept.open(model, families.provider("open_clip"), folder, threads=1)


async def test_an_export_that_failed_is_not_tried_again_at_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, tried = [1_000.0], 0
    kept = Conversions(tmp_path, Decisions(None), threads=1, clock=lambda: now[0])

    async def fails(*_: Any) -> dict[str, Any]:
        nonlocal tried
        tried += 1
        raise ModelLoadFailed("openvino cannot take it")

    monkeypatch.setattr(conversions_module, "_run", fails)
    for _ in range(3):
        with pytest.raises(ModelLoadFailed, match="openvino cannot take it"):
            await kept.ensure(by("openvino"), families.provider("open_clip"), folder)
    assert tried == 1

    now[0] += 601
    with pytest.raises(ModelLoadFailed):
        await kept.ensure(by("openvino"), families.provider("open_clip"), folder)
    assert tried == 2


async def test_an_export_that_never_ends_is_ended_and_leaves_nothing(tmp_path: Path, folder: Path) -> None:
    (left := tmp_path / "somebody.part-killed").mkdir()
    kept = Conversions(tmp_path, Decisions(None), threads=1, patience_s=0.5)

    with pytest.raises(ModelLoadFailed, match="took longer than 0 s and was ended"):
        await kept.ensure(by("openvino"), families.provider("open_clip"), folder)

    assert not left.exists()
    assert [path.name for path in found(tmp_path, "*.part-*")] == []


async def test_what_was_decided_for_torch_says_nothing_of_another_engine(
    exported: Path, folder: Path, tmp_path: Path
) -> None:
    decisions = Decisions(tmp_path / "parity")
    kept, provider = Conversions(exported, decisions, threads=1), OpenClipProvider()
    undecided = by("onnxruntime", "auto")
    of_torch = replace(undecided, engine="torch")
    decisions.store(decisions.question(of_torch, provider, folder, "cpu"), Form("torch", "bf16"), {})
    deciding = Deciding(provider, decisions, kept)
    await deciding.convert(undecided, folder, "cpu")

    loaded = deciding.load(undecided, folder, device="cpu", threads=1)

    assert (loaded.precision, type(loaded)) == ("fp32", Converted)


async def test_a_network_that_is_gone_says_which_folder_to_remove(exported: Path, folder: Path) -> None:
    kept, model = Conversions(exported, Decisions(None), threads=1), by("onnxruntime")
    [file] = found(exported, "*/embed_text.onnx")
    file.unlink()

    with pytest.raises(ModelLoadFailed, match="remove the folder"):
        kept.open(model, families.provider("open_clip"), folder, threads=1)


async def test_exporting_reports_to_nobody(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO's converter counts its users unless its telemetry is absent; in CI it is silent by itself."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("CI", "GITHUB_ACTIONS", "NNCF_CI", "TF_BUILD", "JENKINS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    kept = Conversions(tmp_path / "engines", Decisions(None), threads=1)
    await kept.ensure(by("openvino"), families.provider("open_clip"), folder)

    assert found(home, "intel*") == []


async def test_the_report_stands_beside_the_networks(tmp_path: Path, folder: Path) -> None:
    kept = Conversions(tmp_path, Decisions(None), threads=1)
    await opened(kept, by("openvino", "bf16"), folder)

    [report] = [json.loads(file.read_text()) for file in found(tmp_path, "*/report.json")]
    assert (report["engine"], report["precision"]) == ("openvino", "bf16")
    assert {task: near["lowest"] >= 0.999 for task, near in report["likeness"].items()} == dict.fromkeys(TASKS, True)
