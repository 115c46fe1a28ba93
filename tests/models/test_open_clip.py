"""The provider against open_clip itself: same pixels, same vectors, and nothing left behind."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import psutil
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from load.random_weights import write_random
from modelmora.domain.description import Description
from modelmora.domain.preprocess import Preprocess
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed, ValidationFailed
from runners import devices
from runners.inputs.tokenizer import prepare_text
from runners.networks import linears
from runners.networks.open_clip.network import OpenClip
from runners.open_clip import PROVIDER, OpenClipProvider
from runners.preprocess import prepare_image
from tests.models.conftest import SMALL, cosines, small, spec, stored
from tests.support import required_in_ci

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "registry" / "bundled" / "shapes-clip"
CONFIG, WEIGHTS, PICKLE = "open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"

TEXTS = [
    "a photo of a cat",
    "a diagram",
    "A large RED circle, above two small blue squares!",
    "caf\u00e9 &amp; cr\u00e8me",
    "\u732b \U0001f600",
    "",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen " * 8,
]

VARIANTS: dict[str, dict[str, Any]] = {
    "shortest": {},
    "shortest, bilinear": {"preprocess": {"interpolation": "bilinear"}},
    "longest, grey fill": {"preprocess": {"resize_mode": "longest", "fill_color": 127}},
    "squash": {"preprocess": {"resize_mode": "squash", "interpolation": "bilinear"}},
    "other mean and std": {"preprocess": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}},
    "high": {"architecture": small(vision={"image_size": [96, 64]})},
    "wide, bilinear is ignored": {
        "architecture": small(vision={"image_size": [64, 96]}),
        "preprocess": {"interpolation": "bilinear"},
    },
    "wide, longest": {
        "architecture": small(vision={"image_size": [64, 96]}),
        "preprocess": {"resize_mode": "longest"},
    },
    "custom text tower": {"architecture": small(custom_text=True, init_logit_bias=-10.0)},
    "quick gelu": {"architecture": small(quick_gelu=True)},
    "residual network": {"architecture": small(vision={"layers": [1, 1, 1, 1], "width": 16, "patch_size": None})},
    "stored in half": {"dtype": torch.float16},
}


def loaded(folder: Path, **changes: Any) -> OpenClip:
    return OpenClipProvider().load(spec(**changes), folder, device="cpu", threads=2)


def pictures_by_us(model: OpenClip, files: list[bytes]) -> NDArray[np.float32]:
    how = model.description.image
    assert how is not None
    return model.embed("embed_image", [prepare_image(data, how) for data in files])


def texts_by_us(model: OpenClip, texts: list[str]) -> NDArray[np.float32]:
    how = model.description.text
    assert how is not None
    return model.embed("embed_text", [prepare_text(text, how, truncate=True) for text in texts])


class Reference:
    """open_clip's own chain, from bytes and texts to vectors."""

    def __init__(self, folder: Path) -> None:
        name = f"local-dir:{folder}"
        self.model, self.transform = open_clip.create_model_from_pretrained(name)
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    def pixels(self, files: list[bytes]) -> torch.Tensor:
        return torch.stack([self.transform(Image.open(io.BytesIO(data))) for data in files])

    def pictures(self, files: list[bytes]) -> NDArray[np.float32]:
        with torch.inference_mode():
            vectors: NDArray[np.float32] = self.model.encode_image(self.pixels(files), normalize=True).numpy()
        return vectors

    def texts(self, texts: list[str]) -> NDArray[np.float32]:
        with torch.inference_mode():
            vectors: NDArray[np.float32] = self.model.encode_text(self.tokenizer(texts), normalize=True).numpy()
        return vectors


def assert_parity(folder: Path, files: list[bytes]) -> None:
    """Both towers; the vectors' differences from their mean must agree too, or a constant would pass."""
    model, reference = loaded(folder), Reference(folder)
    for ours, theirs in (
        (pictures_by_us(model, files), reference.pictures(files)),
        (texts_by_us(model, TEXTS), reference.texts(TEXTS)),
    ):
        assert ours.dtype == np.float32
        assert cosines(ours, theirs).min() >= 0.9999
        assert cosines(ours - theirs.mean(axis=0), theirs - theirs.mean(axis=0)).min() >= 0.999
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_are_those_of_open_clip(variant: str, written: Callable[..., Path], files: list[bytes]) -> None:
    given = VARIANTS[variant]
    others = {key: value for key, value in given.items() if key != "architecture"}
    assert_parity(written(given.get("architecture", SMALL), **others), files)


def test_the_bundled_model_gives_the_vectors_of_open_clip(files: list[bytes]) -> None:
    if not (BUNDLED / WEIGHTS).is_file():
        required_in_ci(f"registry/bundled/{BUNDLED.name} has no {WEIGHTS}")
    assert_parity(BUNDLED, files)


@pytest.mark.slow
@pytest.mark.timeout(600)  # 605 MB are drawn and written first
def test_vit_b_32_gives_the_vectors_of_open_clip_and_returns_its_memory(tmp_path: Path, files: list[bytes]) -> None:
    folder = write_random("ViT-B-32", tmp_path / "vit-b-32")
    assert_parity(folder, files[:16])
    devices.release()
    process = psutil.Process()
    before = process.memory_info().rss
    model = loaded(folder)
    model.embed("embed_image", [model.sample("embed_image")] * 4)
    held = process.memory_info().rss - before
    assert held >= 0.9 * model.weight_bytes
    model.close()
    devices.release()
    assert process.memory_info().rss - before < 0.1 * model.weight_bytes


@pytest.mark.parametrize("variant", ["shortest", "shortest, bilinear", "longest, grey fill", "squash"])
@pytest.mark.parametrize("size", [64, 224, 336])
def test_pixels_are_within_one_grey_level_of_open_clip(variant: str, size: int, files: list[bytes]) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    cfg = PreprocessCfg(size=size, **VARIANTS[variant].get("preprocess", {}))
    theirs, mean, std = image_transform_v2(cfg, is_train=False), np.array(cfg.mean), np.array(cfg.std)
    resize = {"shortest": "shortest", "longest": "longest", "squash": "exact"}[cfg.resize_mode]
    how: Any = {"resize": resize, "interpolation": cfg.interpolation, "fill": cfg.fill_color}
    for data in files:
        ours = prepare_image(data, Preprocess(height=size, width=size, **how)) / 255
        expected = theirs(Image.open(io.BytesIO(data))).permute(1, 2, 0).numpy() * std + mean
        assert np.abs(ours - expected).max() <= 1.001 / 255


@pytest.mark.parametrize("size", [(3000, 20), (20, 3000), (1200, 50), (50, 1200), (4000, 1)])
def test_pixels_of_very_long_pictures_are_those_of_open_clip(size: tuple[int, int]) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    noise = np.random.default_rng(1).integers(0, 256, (max(2, size[1] // 4), max(2, size[0] // 4), 3), dtype=np.uint8)
    data = stored(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), "PNG")
    cfg = PreprocessCfg(size=64)
    expected = image_transform_v2(cfg, is_train=False)(Image.open(io.BytesIO(data))).permute(1, 2, 0).numpy()
    ours = prepare_image(data, Preprocess(resize="shortest", height=64, width=64)) / 255
    assert np.abs(ours - (expected * np.array(cfg.std) + np.array(cfg.mean))).max() <= 2.001 / 255


# --- describing --------------------------------------------------------------------------------------------------


def folder_with(tmp_path: Path, config: Any) -> Path:
    (tmp_path / CONFIG).write_text(config if isinstance(config, str) else json.dumps(config))
    return tmp_path


def test_a_description_follows_the_configuration(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path,
        {
            "model_cfg": small(vision={"image_size": [96, 64]}),
            "preprocess_cfg": {"mean": 0.5, "std": [0.1, 0.2, 0.3], "resize_mode": "longest", "fill_color": 9},
        },
    )
    described = PROVIDER.describe(spec(), folder)
    assert (described.model, described.dimension, described.max_batch) == ("tested@1.0.0", 64, 16)
    assert described.image == Preprocess(
        resize="longest", height=96, width=64, fill=9, mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.3)
    )
    assert described.text is not None
    assert (described.text.tokenizer, described.text.context_length) == ("clip-bpe", 32)


@pytest.mark.parametrize("architecture", open_clip.list_models())
def test_every_architecture_of_open_clip_can_be_described(architecture: str, tmp_path: Path) -> None:
    described = PROVIDER.describe(spec(config={"architecture": architecture}), tmp_path)
    expected = open_clip.get_model_config(architecture)
    assert described.dimension == expected["embed_dim"]
    assert described.image is not None
    assert described.image.height == np.ravel(expected["vision_cfg"].get("image_size", 224))[0]


def test_describing_needs_no_torch(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"model_cfg": SMALL})
    code = (
        "import sys; from pathlib import Path; from modelmora.domain.models import ModelSpec\n"
        "from runners.open_clip import PROVIDER\n"
        "spec = ModelSpec(name='m', version='1.0.0', type='embedding', provider='open_clip', source='file:m')\n"
        "assert PROVIDER.describe(spec, Path(sys.argv[1])).dimension == 64\n"
        "assert not {'torch', 'open_clip', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=ROOT)


def test_preprocessing_may_be_overridden_in_the_registry(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"model_cfg": SMALL, "preprocess_cfg": {"mean": [0.1, 0.1, 0.1]}})
    described = PROVIDER.describe(spec(config={"preprocess": {"mean": [0.5, 0.5, 0.5]}}), folder)
    assert described.image is not None
    assert described.image.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectur": "ViT-B-32"}, "did you mean 'architecture'"),
        ({"pretrained": "openai"}, "no key 'pretrained'"),
        ({"architecture": "ViT-B-23"}, "no architecture 'ViT-B-23'; did you mean"),
        ({"preprocess": {"resize_mode": "stretch"}}, "stretch"),
        ({"preprocess": {"interpolation": "lanczos"}}, "lanczos"),
        ({"preprocess": {"mean": [1, 2]}}, "not usable"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=said):
        PROVIDER.describe(spec(config=config), folder_with(tmp_path, {"model_cfg": SMALL}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "not a JSON object"),
        ({"model_cfg": {"embed_dim": 8}}, "lacks vision_cfg, text_cfg"),
        ({"preprocess_cfg": {}}, "lacks embed_dim"),
        ({"model_cfg": small(embed_dim="many")}, "not usable"),
        ({"model_cfg": small(vision={"timm_model_name": "hf-hub:somebody/something"})}, "hub"),
    ],
)
def test_a_configuration_file_that_cannot_be_is_refused(content: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=said):
        PROVIDER.describe(spec(), folder_with(tmp_path, content))


def test_a_folder_without_a_configuration_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=CONFIG):
        PROVIDER.describe(spec(), tmp_path)
    with pytest.raises(ModelLoadFailed, match="needs a folder"):
        PROVIDER.describe(spec(), None)


# --- loading -----------------------------------------------------------------------------------------------------


def test_an_architecture_by_name_loads_weights_without_a_configuration(
    written: Callable[..., Path], files: list[bytes]
) -> None:
    folder = written("RN50")
    expected = pictures_by_us(loaded(folder), files[:3])
    (folder / CONFIG).unlink()
    assert (pictures_by_us(loaded(folder, config={"architecture": "RN50"}), files[:3]) == expected).all()


def test_weights_stored_as_a_pickle_of_tensors_load_too(written: Callable[..., Path], files: list[bytes]) -> None:
    folder = written()
    expected = pictures_by_us(loaded(folder), files[:4])
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, folder / PICKLE)
    assert (pictures_by_us(loaded(folder), files[:4]) == expected).all()


class Payload:
    """What a poisoned file would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(
    legacy: bool, written: Callable[..., Path], tmp_path: Path
) -> None:
    folder, mark = written(), tmp_path / "ran"
    (folder / WEIGHTS).unlink()
    if legacy:
        (folder / PICKLE).write_bytes(pickle.dumps(Payload(mark), protocol=2))
    else:
        torch.save({"weight": Payload(mark)}, folder / PICKLE)
    with pytest.raises(ModelLoadFailed, match="would run code"):
        loaded(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", [WEIGHTS, PICKLE])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged_weights_are_called_corrupt(name: str, damage: str, written: Callable[..., Path]) -> None:
    folder = written()
    weights = load_file(folder / WEIGHTS)
    if name == PICKLE:
        (folder / WEIGHTS).unlink()
        torch.save(weights, folder / name)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes({"truncated": whole[: len(whole) // 2], "garbage": b"\x17" * 999, "empty": b""}[damage])
    with pytest.raises(ArtifactCorrupt, match=name):
        loaded(folder)


def test_absent_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=f"{WEIGHTS} nor {PICKLE}"):
        loaded(folder_with(tmp_path, {"model_cfg": SMALL}))


def test_weights_that_do_not_fit_are_listed(written: Callable[..., Path]) -> None:
    folder = written()
    weights = load_file(folder / WEIGHTS)
    del weights["ln_final.bias"]
    weights["visual.proj"] = torch.zeros(3, 3)
    save_file({**weights, "stranger": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(ModelLoadFailed) as refused:
        loaded(folder)
    assert "ln_final.bias is missing" in refused.value.detail
    assert "stranger is unknown" in refused.value.detail
    assert "visual.proj is (3, 3) instead of (64, 64)" in refused.value.detail


def test_an_architecture_that_cannot_be_built_is_refused(written: Callable[..., Path]) -> None:
    folder = written()
    folder_with(folder, {"model_cfg": small(vision={"depth_of_thought": 3})})
    with pytest.raises(ModelLoadFailed, match="depth_of_thought"):
        loaded(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "int8"}, "'int8' takes engine openvino"),
        ({"engine": "openvino"}, "'openvino'"),
    ],
)
def test_what_is_not_available_yet_is_said(changes: dict[str, Any], said: str, written: Callable[..., Path]) -> None:
    with pytest.raises(ModelLoadFailed, match=said):
        loaded(written(), **changes)


def test_every_weight_is_overwritten_though_none_is_initialised(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linears, "packing_pays", lambda dtype: False)  # packed ones are no parameters
    folder = written()
    model, weights = loaded(folder), load_file(folder / WEIGHTS)
    found = as_stored(model._model.state_dict())
    assert found.keys() - {"attn_mask"} == weights.keys() - {"attn_mask"}
    assert all((found[key] == tensor).all() for key, tensor in weights.items())


def as_stored(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the attention of last blocks under the names that files have for it."""
    found = {key.replace("1.out_proj", "1.attn.out_proj"): tensor for key, tensor in state.items()}
    for key in [key for key in found if ".query." in key]:
        block, kind = key.split(".query.")
        parts = [found.pop(f"{block}.{layer}.{kind}") for layer in ("query", "keys_values")]
        found[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
    return found


# --- running -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_is_smaller_and_close(
    precision: Any, written: Callable[..., Path], files: list[bytes]
) -> None:
    folder = written(small(text={"vocab_size": 49408, "width": 64}, vision={"width": 256, "layers": 4}))
    full, low = loaded(folder), loaded(folder, precision=precision)
    assert low.precision == precision
    assert low.weight_bytes < full.weight_bytes
    assert cosines(pictures_by_us(low, files[:8]), pictures_by_us(full, files[:8])).min() >= 0.999
    assert cosines(texts_by_us(low, TEXTS), texts_by_us(full, TEXTS)).min() >= 0.999


def test_the_weights_are_measured(written: Callable[..., Path]) -> None:
    folder = written()
    stored_bytes = sum(t.numel() * t.element_size() for t in load_file(folder / WEIGHTS).values())
    mask = 32 * 32 * 4
    assert loaded(folder).weight_bytes == stored_bytes + mask


def test_nothing_is_trained(written: Callable[..., Path]) -> None:
    model = loaded(written())
    assert not model._model.training
    assert not any(parameter.requires_grad for parameter in model._model.parameters())


@pytest.mark.parametrize("task", ["embed_image", "embed_text"])
def test_a_sample_can_be_run(task: Any, written: Callable[..., Path]) -> None:
    model = loaded(written())
    assert model.embed(task, [model.sample(task)] * 3).shape == (3, 64)


def test_the_order_of_a_batch_is_kept(written: Callable[..., Path], files: list[bytes]) -> None:
    model = loaded(written())
    together = pictures_by_us(model, files[:9])
    alone = np.concatenate([pictures_by_us(model, [data]) for data in files[:9]])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_vector_that_is_not_finite_comes_back_as_such_beside_healthy_ones(written: Callable[..., Path]) -> None:
    folder = written()
    weights = load_file(folder / WEIGHTS)
    poisoned = prepare_text("poison", text_how(loaded(folder).description), truncate=False)
    weights["token_embedding.weight"][int(poisoned[1])] = float("nan")
    save_file(weights, folder / WEIGHTS)
    model = loaded(folder)
    healthy = [prepare_text(text, text_how(model.description), truncate=True) for text in TEXTS]
    assert np.isfinite(model.embed("embed_text", healthy)).all()
    rows = model.embed("embed_text", [*healthy, poisoned])
    assert np.isfinite(rows).all(axis=1).tolist() == [True] * len(healthy) + [False]


def text_how(description: Description) -> Any:
    assert description.text is not None
    return description.text


def test_another_task_is_refused(written: Callable[..., Path]) -> None:
    model = loaded(written())
    with pytest.raises(ValueError, match="segment"):
        model.embed("segment", [model.sample("embed_image")])


# --- tokenizers other than CLIP's --------------------------------------------------------------------------------


def test_a_tokenizer_that_cleans_differently_runs_beside_the_model(written: Callable[..., Path]) -> None:
    folder = written(small(text={"tokenizer_kwargs": {"clean": "canonicalize"}}))
    model, reference = loaded(folder), Reference(folder)
    assert text_how(model.description).tokenizer == "runner"
    for text in TEXTS:
        assert (model.tokenize(text, truncate=True) == reference.tokenizer([text])[0].numpy()).all()
    ours = model.embed("embed_text", [model.tokenize(text, truncate=True) for text in TEXTS])
    assert cosines(ours, reference.texts(TEXTS)).min() >= 0.9999
    assert model.embed("embed_text", [model.sample("embed_text")]).shape == (1, 64)


def test_a_text_too_long_for_such_a_tokenizer_is_refused_unless_truncated(written: Callable[..., Path]) -> None:
    model = loaded(written(small(text={"tokenizer_kwargs": {"clean": "canonicalize"}})))
    assert model.tokenize("cat " * 30, truncate=False).shape == (32,)
    with pytest.raises(ValidationFailed, match="33 tokens"):
        model.tokenize("cat " * 31, truncate=False)
    assert model.tokenize("cat " * 31, truncate=True).shape == (32,)


def test_a_configuration_cannot_let_a_tokenizer_run_code(written: Callable[..., Path]) -> None:
    strange = {"hf_tokenizer_name": "somebody/something", "tokenizer_kwargs": {"trust_remote_code": True}}
    with pytest.raises(ModelLoadFailed, match="trust_remote_code"):
        loaded(written(small(text=strange)))


def test_a_model_with_clips_tokenizer_does_not_tokenise(written: Callable[..., Path]) -> None:
    with pytest.raises(ValidationFailed, match="token ids"):
        loaded(written()).tokenize("a cat", truncate=False)
