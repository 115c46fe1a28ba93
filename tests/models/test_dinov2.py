"""The provider of DINOv2 against transformers itself: same pixels, same vectors, and nothing left behind."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Dinov2Config

from modelmora.domain.description import Description
from modelmora.domain.preprocess import Preprocess
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed
from runners import capabilities, devices
from runners.dinov2 import Dinov2Provider
from runners.examinations.likeness import inputs, samples
from runners.networks.hf.network import Dinov2
from runners.preprocess import prepare_image
from tests.models.conftest import cosines, spec, stored
from tests.models.hub_folders import by_transformers, configured, processor_of
from tests.models.hub_folders import stored as stored_model

ROOT = Path(__file__).parents[2]
CONFIG, PROCESSOR, WEIGHTS, PICKLE = "config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"

LARGE_PROCESSOR: dict[str, Any] = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256},
}
"""The file of facebook/dinov2-large, word for word."""

PROVIDER = Dinov2Provider()
SWIGLU: dict[str, Any] = {"use_swiglu_ffn": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "class token": {},
    "mean of the patches": {"pooling": "mean"},
    "as trained, nothing to interpolate": {"crop": (32, 32)},
    "high crop": {"crop": (56, 40), "pooling": "mean"},
    "gated": {"config": SWIGLU},
    "registers, class token": {"family": "dinov2_with_registers"},
    "registers, mean of the patches": {"family": "dinov2_with_registers", "pooling": "mean"},
    "registers, gated, high crop": {"family": "dinov2_with_registers", "config": SWIGLU, "crop": (56, 40)},
    "pickled": {"pickled": True},
    "gated and pickled": {"config": SWIGLU, "pickled": True},
}


def dinov2(**changes: Any) -> Any:
    return spec(provider="dinov2", **changes)


def tiny_processor(crop: tuple[int, int] = (48, 48)) -> Any:
    height, width = crop
    size = {"shortest_edge": max(crop) + 9}
    return processor_of("Bit", **{**LARGE_PROCESSOR, "size": size, "crop_size": {"height": height, "width": width}})


def written(folder: Path, *, family: str = "dinov2", pickled: bool = False, **changes: Any) -> Path:
    """A folder as the hub has it. The crop is larger than what the positions were made for, as DINOv2's is smaller."""
    return stored_model(folder, configured(family, **changes), tiny_processor(), pickled=pickled)


def loaded(folder: Path, **changes: Any) -> Dinov2:
    return Dinov2Provider().load(dinov2(**changes), folder, device="cpu", threads=2)


def vectors(model: Dinov2, files: list[bytes]) -> NDArray[np.float32]:
    how = model.description.image
    assert how is not None
    return model.embed("embed_image", [prepare_image(data, how) for data in files])


def noise(count: int, side: int = 48) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(7).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def theirs(folder: Path, processor: Any, photographs: list[Image.Image], pooling: str) -> NDArray[np.float32]:
    """The class token or the mean of the patches, of length 1, by the library's own chain."""

    def pooled(model: Any, output: Any) -> torch.Tensor:
        before = 1 + getattr(model.config, "num_register_tokens", 0)
        rows = output.pooler_output if pooling == "cls" else output.last_hidden_state[:, before:].mean(dim=1)
        return torch.nn.functional.normalize(rows, dim=-1)

    return by_transformers(folder, processor, photographs, pooled, AutoModel)


def as_files(photographs: list[Image.Image]) -> list[bytes]:
    return [stored(photograph, "PNG") for photograph in photographs]


@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_are_those_of_transformers(
    variant: str, tmp_path: Path, pictures: list[Image.Image], packing: bool
) -> None:
    plain = {"family": "dinov2", "config": {}, "pooling": "cls", "crop": (48, 48), "pickled": False}
    given: dict[str, Any] = {**plain, **VARIANTS[variant]}
    processor = tiny_processor(given["crop"])
    config = configured(given["family"], **given["config"])
    folder = stored_model(tmp_path / "model", config, processor, pickled=given["pickled"])

    model = loaded(folder, config={"pooling": given["pooling"]})
    ours, expected = vectors(model, as_files(pictures)), theirs(folder, processor, pictures, given["pooling"])

    assert ours.dtype == np.float32
    assert cosines(ours, expected).min() >= 0.9999
    # Their differences from the mean agree too, or a constant would pass.
    assert cosines(ours - expected.mean(axis=0), expected - expected.mean(axis=0)).min() >= 0.9999
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert np.abs(ours - expected).max() <= 2e-6


@pytest.mark.nightly
@pytest.mark.timeout(1200)  # 1.2 GB are drawn and written first
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_dinov2_large_gives_the_vectors_of_transformers_and_returns_its_memory(
    pooling: str, tmp_path: Path, photographs: list[Image.Image]
) -> None:
    sizes: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 518}
    processor = processor_of("Bit", **LARGE_PROCESSOR)
    folder = stored_model(tmp_path / "large", Dinov2Config(**sizes, patch_size=14), processor)
    expected = theirs(folder, processor, photographs, pooling)
    devices.release()
    before = psutil.Process().memory_info().rss

    model = loaded(folder, config={"pooling": pooling})
    ours = vectors(model, as_files(photographs))

    assert model.description.dimension == ours.shape[1] == 1024
    assert cosines(ours, expected).min() >= 0.9999
    assert psutil.Process().memory_info().rss - before >= 0.9 * model.weight_bytes
    model.close()
    devices.release()
    assert psutil.Process().memory_info().rss - before < 0.1 * model.weight_bytes


# --- describing --------------------------------------------------------------------------------------------------


def described(folder: Path, model: Any = None, processor: Any = None, **changes: Any) -> Description:
    """Of a folder with these two files; a text is written as it is."""
    files = {CONFIG: model or {"model_type": "dinov2", "hidden_size": 1024}, PROCESSOR: processor or LARGE_PROCESSOR}
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return PROVIDER.describe(dinov2(**changes), folder)


def test_a_description_follows_the_files_of_dinov2_large(tmp_path: Path) -> None:
    found = described(tmp_path)
    assert (found.model, found.dimension, found.max_batch, found.shortens) == ("tested@1.0.0", 1024, 16, 0)
    assert found.text is None
    assert found.image == Preprocess(
        resize="shortest",
        height=224,
        width=224,
        shortest=256,
        interpolation="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def test_preprocessing_may_be_overridden_in_the_registry(tmp_path: Path) -> None:
    overrides = {"size": {"shortest_edge": 518}, "crop_size": 518, "image_mean": 0.5, "resample": 2}
    image = described(tmp_path, config={"preprocess": overrides}).image
    assert image is not None
    assert (image.shortest, image.height, image.width, image.interpolation) == (518, 518, 518, "bilinear")
    assert image.mean == (0.5, 0.5, 0.5)
    assert image.std == (0.229, 0.224, 0.225)


def test_preprocessing_may_be_declared_where_there_is_no_file_of_it(tmp_path: Path) -> None:
    described(tmp_path)
    (tmp_path / PROCESSOR).unlink()
    declared = {
        key: value for key, value in LARGE_PROCESSOR.items() if key not in ("image_processor_type", "do_convert_rgb")
    }
    assert PROVIDER.describe(dinov2(config={"preprocess": declared}), tmp_path) == described(tmp_path)


def test_vectors_may_be_cut_as_far_as_the_registry_says(tmp_path: Path) -> None:
    assert described(tmp_path, config={"shortens": 128}).shortens == 128


def test_describing_needs_no_torch(tmp_path: Path) -> None:
    described(tmp_path)
    code = (
        "import sys; from pathlib import Path; from modelmora.domain.models import ModelSpec\n"
        "from runners.dinov2 import PROVIDER\n"
        "spec = ModelSpec(name='m', version='1.0.0', type='embedding', provider='dinov2', source='file:m')\n"
        "assert PROVIDER.describe(spec, Path(sys.argv[1])).dimension == 1024\n"
        "assert not {'torch', 'transformers', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"poling": "cls"}, "did you mean 'pooling'"),
        ({"pooling": "max"}, "pooling is 'max'; it takes cls"),
        ({"preprocess": {"mean": [0, 0, 0]}}, "no key 'mean'"),
        ({"preprocess": {"image_meen": [0, 0, 0]}}, "did you mean 'image_mean'"),
        ({"preprocess": [224]}, "preprocess is no mapping"),
        ({"preprocess": {"crop_size": 300}}, "crop_size is 300.*no more than the 256"),
        ({"shortens": 2048}, "shortens"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=said):
        described(tmp_path, config=config)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{", "config.json cannot be read"),
        ("[]", "not a JSON object"),
        ({"hidden_size": 64}, "model_type is None; provider dinov2 serves dinov2, dinov2_with_registers"),
        ({"model_type": "vit", "hidden_size": 64}, "model_type is 'vit'"),
        ({"model_type": "dinov2"}, "hidden_size is None"),
        ({"model_type": "dinov2", "hidden_size": "large"}, "hidden_size is 'large'"),
        ({"model_type": "dinov2", "hidden_size": 64, "quantization_config": {"bits": 4}}, "quantized"),
    ],
)
def test_a_model_that_is_no_dinov2_is_refused(model: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=said):
        described(tmp_path, model)


@pytest.mark.parametrize("name", [CONFIG, PROCESSOR])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    described(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelLoadFailed, match=f"{name} is not there"):
        PROVIDER.describe(dinov2(), tmp_path)


def test_a_model_without_a_folder_says_so() -> None:
    with pytest.raises(ModelLoadFailed, match="needs a folder"):
        PROVIDER.describe(dinov2(), None)


# --- loading -----------------------------------------------------------------------------------------------------


def test_the_hubs_names_of_weights_and_todays_load_alike(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", **SWIGLU)
    of_the_hub = load_file(folder / WEIGHTS)
    assert "encoder.layer.0.attention.attention.query.weight" in of_the_hub
    assert "encoder.layer.0.mlp.weights_in.weight" in of_the_hub
    expected = loaded(folder).embed("embed_image", noise(3))
    of_today = AutoModel.from_pretrained(folder).state_dict()
    assert "encoder.layer.0.attention.q_proj.weight" in of_today

    save_file(of_today, folder / WEIGHTS)

    np.testing.assert_array_equal(loaded(folder).embed("embed_image", noise(3)), expected)


def test_a_classifiers_folder_serves_its_trunk(tmp_path: Path) -> None:
    folder = stored_model(tmp_path / "model", configured("dinov2"), tiny_processor(), classifier=True)
    expected = theirs(folder, tiny_processor(), [Image.fromarray(noise(1, 60)[0])], "cls")
    ours = vectors(loaded(folder), as_files([Image.fromarray(noise(1, 60)[0])]))
    assert cosines(ours, expected).min() >= 0.9999


class Payload:
    """What a poisoned file would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Path.touch, (self.mark,))


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    folder, mark = written(tmp_path / "model"), tmp_path / "ran"
    (folder / WEIGHTS).unlink()
    torch.save({"weight": Payload(mark)}, folder / PICKLE)
    with pytest.raises(ModelLoadFailed, match="would run code"):
        loaded(folder)
    assert not mark.exists()


def test_code_beside_the_weights_is_never_run(tmp_path: Path) -> None:
    folder, mark = written(tmp_path / "model"), tmp_path / "ran"
    expected = loaded(folder).embed("embed_image", noise(2))
    classes = {"AutoModel": "modeling_own.Own", "AutoConfig": "modeling_own.Own"}
    config = json.loads((folder / CONFIG).read_text())
    config |= {"auto_map": classes, "attn_implementation": "somebody/kernel", "trust_remote_code": True}
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text(f"open({str(mark)!r}, 'w')")

    np.testing.assert_array_equal(loaded(folder).embed("embed_image", noise(2)), expected)

    assert not mark.exists()


@pytest.mark.parametrize("name", [WEIGHTS, PICKLE])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged_weights_are_called_corrupt(name: str, damage: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "model", pickled=name == PICKLE)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes({"truncated": whole[: len(whole) // 2], "garbage": b"\x17" * 999, "empty": b""}[damage])
    with pytest.raises(ArtifactCorrupt, match=name):
        loaded(folder)


def test_absent_weights_are_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "model")
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelLoadFailed, match=f"{WEIGHTS} nor {PICKLE}"):
        loaded(folder)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    folder = written(tmp_path / "model")
    weights = load_file(folder / WEIGHTS)
    del weights["layernorm.bias"]
    weights["embeddings.cls_token"] = torch.zeros(3, 3)
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ModelLoadFailed) as refused:
        loaded(folder)
    assert "layernorm.bias is missing" in refused.value.detail
    assert "embeddings.cls_token is (3, 3) instead of (1, 1, 32)" in refused.value.detail


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "model")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelLoadFailed, match="is missing"):
        loaded(folder)


def test_a_network_larger_than_any_memory_is_refused_before_it_takes_any(tmp_path: Path) -> None:
    folder = written(tmp_path / "model")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "hidden_size": 2**24}))
    with pytest.raises(ModelLoadFailed, match=r"instead of \(.*16777216"):
        loaded(folder)


def test_a_network_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "model")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "num_attention_heads": 0}))
    with pytest.raises(ModelLoadFailed, match="cannot be built"):
        loaded(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"precision": "int8"}, "'int8'"), ({"engine": "openvino"}, "'openvino' loads what was exported")],
)
def test_what_torch_does_not_do_is_said(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=said):
        loaded(written(tmp_path / "model"), **changes)


def test_loading_tells_the_bytes_and_leaves_torchs_default_format_alone(tmp_path: Path) -> None:
    folder, told = written(tmp_path / "model"), list[tuple[int, int]]()
    weights = sum(tensor.nbytes for tensor in load_file(folder / WEIGHTS).values())

    model = Dinov2Provider().load(
        dinov2(precision="bf16"), folder, device="cpu", threads=1, tell=lambda done, total: told.append((done, total))
    )

    assert told[0] == (0, weights)
    assert told[-1] == (weights, weights)
    assert told == sorted(told)
    assert torch.get_default_dtype() == torch.float32
    assert model.precision == "bf16"


def test_the_weights_are_measured_packed_or_not(tmp_path: Path, packing: bool) -> None:
    folder = written(tmp_path / "model")
    weights = sum(tensor.nbytes for tensor in load_file(folder / WEIGHTS).values())
    assert loaded(folder).weight_bytes == weights


# --- running -----------------------------------------------------------------------------------------------------


def test_the_model_does_what_its_family_says(tmp_path: Path) -> None:
    model = loaded(written(tmp_path / "model"))
    capabilities.check(dinov2(), PROVIDER.tasks(), model)
    assert model.embed("embed_image", [model.sample("embed_image")] * 3).shape == (3, 32)
    with pytest.raises(ValueError, match="embed_text"):
        model.embed("embed_text", noise(1))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_batch_gives_what_its_items_give_alone(pooling: str, tmp_path: Path, packing: bool) -> None:
    model = loaded(written(tmp_path / "model"), config={"pooling": pooling})
    items = noise(9)
    alone = np.concatenate([model.embed("embed_image", [item]) for item in items])
    np.testing.assert_allclose(model.embed("embed_image", items), alone, atol=1e-5)
    np.testing.assert_allclose(model.embed("embed_image", items, threads=1), alone, atol=1e-5)


def test_a_batch_is_one_forward_told_layer_by_layer(tmp_path: Path) -> None:
    model, told = loaded(written(tmp_path / "model")), list[tuple[int, int]]()
    model.embed("embed_image", noise(16), tell=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_a_batch_uses_as_many_threads_as_it_was_given_and_the_models_own_by_default(tmp_path: Path) -> None:
    model = loaded(written(tmp_path / "model"))

    def seen(**given: Any) -> int:
        model.embed("embed_image", noise(1), **given)
        return torch.get_num_threads()

    with ThreadPoolExecutor(1) as lane:
        assert [lane.submit(seen, **given).result() for given in ({"threads": 1}, {}, {"threads": 2})] == [1, 2, 2]


def test_several_lanes_get_the_same_vectors(tmp_path: Path) -> None:
    model, items = loaded(written(tmp_path / "model")), noise(4)
    expected = model.embed("embed_image", items, threads=1)
    with ThreadPoolExecutor(4) as lanes:
        found = list(lanes.map(lambda _: model.embed("embed_image", items, threads=1), range(40)))
    assert all((rows == expected).all() for rows in found)


def test_models_loaded_side_by_side_are_those_loaded_alone(tmp_path: Path) -> None:
    folders = [written(tmp_path / family, family=family) for family in ("dinov2", "dinov2_with_registers")]
    formats = ("fp32", "bf16")
    alone = [loaded(f, precision=p).embed("embed_image", noise(2)) for f in folders for p in formats]
    with ThreadPoolExecutor(4) as lanes:
        asked = [lanes.submit(loaded, f, precision=p) for f in folders for p in formats for _ in range(3)]
        found = [one.result().embed("embed_image", noise(2)) for one in asked]
    for place, rows in enumerate(found):
        np.testing.assert_array_equal(rows, alone[place // 3])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_is_smaller_and_close(precision: Any, tmp_path: Path, pictures: list[Image.Image]) -> None:
    folder = written(tmp_path / "model", hidden_size=128, num_attention_heads=4)
    full, low = loaded(folder), loaded(folder, precision=precision)
    assert low.weight_bytes * 2 == full.weight_bytes
    files = as_files(pictures)
    assert cosines(vectors(low, files), vectors(full, files)).min() >= 0.999


def test_it_can_be_verified_with_pictures(tmp_path: Path) -> None:
    folder = written(tmp_path / "model")
    made = inputs(loaded(folder), samples())
    assert {task: len(items) for task, items in made.items()} == {"embed_image": 64}
    assert PROVIDER.files(dinov2(), folder) == (folder / WEIGHTS, folder / CONFIG, folder / PROCESSOR)
    assert "fp32" in PROVIDER.precisions("cpu")


def test_memory_comes_back_when_it_is_closed(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", hidden_size=768, num_attention_heads=12, num_hidden_layers=6)
    loaded(folder).close()  # libraries and threads stay
    gc.collect()
    devices.release()
    process = psutil.Process()
    before = process.memory_info().rss
    model = loaded(folder)
    model.embed("embed_image", noise(4))
    devices.release()
    held = process.memory_info().rss - before
    assert model.weight_bytes >= 100 * 2**20
    assert 0.9 * model.weight_bytes <= held <= 1.3 * model.weight_bytes
    model.close()
    devices.release()
    assert process.memory_info().rss - before < 0.1 * model.weight_bytes
