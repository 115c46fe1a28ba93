"""The provider of image classifiers against transformers itself: every family, same pixels, same logits."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, ViTConfig
from transformers.models.auto import image_processing_auto

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.description import Description, Scoring
from modelmora.domain.likelihoods import likelihoods
from modelmora.domain.models import GroupSpec
from modelmora.domain.preprocess import Preprocess
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed
from runners import capabilities
from runners.classifier import FAMILIES, ClassifierProvider
from runners.devices import Share
from runners.examinations.parity import verify
from runners.host import HostSettings, RunnerHost
from runners.networks.hf.network import Classifier
from runners.networks.hf.processor import DEFAULTS, PROCESSOR_OF
from runners.precision import Concrete
from runners.preprocess import prepare_image
from tests.folders import Folders
from tests.models.conftest import cosines, spec, stored
from tests.models.hub_folders import LABELS, by_transformers, processor_of, tiny_processor
from tests.models.hub_folders import classifier_folder as written
from tests.models.hub_folders import stored as stored_model

ROOT = Path(__file__).parents[2]
CONFIG, PROCESSOR, WEIGHTS, PICKLE = "config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"
PROVIDER = ClassifierProvider()

RESNET_50: dict[str, Any] = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}
"""The file of microsoft/resnet-50 as it was written in 2022."""


def classifier(**changes: Any) -> Any:
    return spec(provider="classifier", type="classification", **changes)


def loaded(folder: Path, **changes: Any) -> Classifier:
    return ClassifierProvider().load(classifier(**changes), folder, device="cpu", threads=2)


def logits(model: Classifier, pictures: list[Image.Image]) -> NDArray[np.float32]:
    how = model.description.image
    assert how is not None
    return model.classify([prepare_image(stored(picture, "PNG"), how) for picture in pictures])


def theirs(folder: Path, processor: Any, pictures: list[Image.Image]) -> NDArray[np.float32]:
    return by_transformers(
        folder, processor, pictures, lambda model, output: output.logits, AutoModelForImageClassification
    )


def noise(count: int, side: int = 32) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(7).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def assert_the_same(ours: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Logits alike in direction and size, and so for what tells pictures apart."""
    assert ours.dtype == np.float32
    assert cosines(ours, expected).min() >= 0.9999
    assert cosines(ours - expected.mean(axis=0), expected - expected.mean(axis=0)).min() >= 0.9999
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_every_family_are_those_of_transformers(
    family: str, tmp_path: Path, pictures: list[Image.Image], packing: bool
) -> None:
    folder = written(tmp_path / "model", family=family)
    model = loaded(folder)
    assert_the_same(logits(model, pictures), theirs(folder, tiny_processor(family), pictures))
    assert model.description.labels == LABELS


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_pickled_weights_give_the_logits_of_transformers(
    family: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    folder = written(tmp_path / "model", family=family, pickled=True)
    assert_the_same(logits(loaded(folder), pictures), theirs(folder, tiny_processor(family), pictures))


def test_a_teachers_head_is_chosen_as_transformers_does(tmp_path: Path, pictures: list[Image.Image]) -> None:
    folder = written(tmp_path / "model", family="deit", architectures=["DeiTForImageClassificationWithTeacher"])
    assert any("distillation" in name for name in load_file(folder / WEIGHTS))
    assert_the_same(logits(loaded(folder), pictures), theirs(folder, tiny_processor("deit"), pictures))


@pytest.mark.nightly
@pytest.mark.timeout(600)  # 350 MB are drawn and written first
def test_vit_base_gives_the_logits_of_transformers(tmp_path: Path, photographs: list[Image.Image]) -> None:
    processor = processor_of("ViT")
    real: dict[str, Any] = {"num_labels": 1000}
    folder = stored_model(tmp_path / "base", ViTConfig(**real), processor, classifier=True)
    model = loaded(folder)
    assert len(model.description.labels) == 1000
    assert_the_same(logits(model, photographs), theirs(folder, processor, photographs))


# --- describing --------------------------------------------------------------------------------------------------


def described(folder: Path, model: Any = None, processor: Any = None, **changes: Any) -> Description:
    """Of a folder with these two files."""
    named = {"model_type": "resnet", "id2label": {"0": "tench", "1": "goldfish"}}
    for name, content in ((CONFIG, model or named), (PROCESSOR, processor or RESNET_50)):
        (folder / name).write_text(json.dumps(content))
    return PROVIDER.describe(classifier(**changes), folder)


def test_a_description_follows_the_files_of_resnet_50(tmp_path: Path) -> None:
    found = described(tmp_path)
    assert (found.model, found.dimension, found.max_batch) == ("tested@1.0.0", 0, 16)
    assert found.labels == ("tench", "goldfish")
    assert found.scoring == Scoring(activation="softmax", scale=1.0, bias=0.0)
    assert found.image == Preprocess(
        resize="shortest",
        height=224,
        width=224,
        shortest=256,
        interpolation="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (
            {"image_processor_type": "ViTFeatureExtractor", "size": 384, "resample": 2},
            Preprocess(
                resize="exact", height=384, width=384, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
            ),
        ),
        (
            {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 192, "width": 256}},
            Preprocess(
                resize="exact", height=192, width=256, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
            ),
        ),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, "resample": None},
            Preprocess(resize="exact", height=224, width=224, shortest=256, mean=(0.5,) * 3, std=(0.5,) * 3),
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "do_normalize": False},
            Preprocess(resize="exact", height=384, width=384),
        ),
        (
            {
                "image_processor_type": "MobileNetV2ImageProcessor",
                "do_rescale": False,
                "image_mean": 127.5,
                "image_std": 51,
            },
            Preprocess(
                resize="shortest",
                height=224,
                width=224,
                shortest=256,
                interpolation="bilinear",
                mean=(0.5,) * 3,
                std=(0.2,) * 3,
            ),
        ),
        (
            {"image_processor_type": "ViTImageProcessor", "rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": 1},
            Preprocess(
                resize="exact", height=224, width=224, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
            ),
        ),
    ],
)
def test_processors_of_all_years_become_the_same_words(processor: Any, expected: Preprocess, tmp_path: Path) -> None:
    assert described(tmp_path, processor=processor).image == expected


@pytest.mark.parametrize("kind", DEFAULTS)
def test_what_a_file_does_not_say_is_what_transformers_takes(kind: str, tmp_path: Path) -> None:
    theirs, ours = getattr(transformers, f"{kind}ImageProcessorPil"), DEFAULTS[kind]
    for name in ("size", "resample", "image_mean", "image_std", "do_resize", "do_rescale", "do_normalize"):
        assert ours.get(name, True) == getattr(theirs, name), name
    assert bool(ours.get("do_center_crop")) == bool(getattr(theirs, "do_center_crop", None))
    for name in ("crop_size", "crop_pct"):
        assert ours.get(name) == getattr(theirs, name, None), name


def test_families_have_the_processors_that_transformers_gives_them() -> None:
    by_family: Any = vars(image_processing_auto)["IMAGE_PROCESSOR_MAPPING_NAMES"]
    known = {family: by_family.get(family, {}).get("pil") for family in FAMILIES}
    wrong = {
        family: pil for family, pil in known.items() if pil not in (None, f"{PROCESSOR_OF[family]}ImageProcessorPil")
    }
    assert not wrong


def test_a_file_that_names_no_processor_has_its_familys(tmp_path: Path) -> None:
    image = described(tmp_path, {"model_type": "vit", "num_labels": 3}, {"size": 224}).image
    assert image == Preprocess(
        resize="exact", height=224, width=224, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )


def test_labels_have_the_order_of_the_logits(tmp_path: Path) -> None:
    many = {str(place): f"class {place}" for place in sorted(range(1000), key=str)}
    found = described(tmp_path, {"model_type": "resnet", "id2label": many})
    assert found.labels == tuple(f"class {place}" for place in range(1000))


@pytest.mark.parametrize(("model", "count"), [({}, 2), ({"num_labels": 5}, 5), ({"id2label": {}, "num_labels": 3}, 3)])
def test_labels_without_names_are_numbered_as_transformers_does(model: Any, count: int, tmp_path: Path) -> None:
    found = described(tmp_path, {"model_type": "resnet", **model})
    assert found.labels == tuple(f"LABEL_{place}" for place in range(count))


def test_labels_of_several_at_once_are_scored_each_by_itself(tmp_path: Path) -> None:
    many = {"model_type": "resnet", "problem_type": "multi_label_classification"}
    assert described(tmp_path, many).scoring == Scoring(activation="sigmoid")


def test_describing_needs_no_torch(tmp_path: Path) -> None:
    described(tmp_path)
    code = (
        "import sys; from pathlib import Path; from modelmora.domain.models import ModelSpec\n"
        "from runners.classifier import PROVIDER\n"
        "spec = ModelSpec(name='m', version='1.0.0', type='classification', provider='classifier', source='file:m')\n"
        "assert PROVIDER.describe(spec, Path(sys.argv[1])).labels == ('tench', 'goldfish')\n"
        "assert not {'torch', 'transformers', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"image_processor_type": "EfficientNetImageProcessor"}, "image_processor_type"),
        ({"image_processor_type": "ImageProcessor"}, "image_processor_type"),
        ({"do_resize": False}, "do_resize"),
        ({"do_pad": True}, "do_pad"),
        ({"do_center_crop": False}, "do_center_crop"),
        ({"resample": 1}, "resample"),
        ({"resample": "bicubic"}, "resample"),
        ({"size": {"shortest_edge": 256, "longest_edge": 512}}, "size"),
        ({"size": {"max_height": 256, "max_width": 512}}, "size"),
        ({"size": {"height": 256, "width": 300}}, "size"),
        ({"size": {"shortest_edge": 0}}, "size"),
        ({"size": {"shortest_edge": 10**9}}, "size"),
        ({"size": "large"}, "size"),
        ({"size": True}, "size"),
        ({"crop_size": {"shortest_edge": 224}}, "crop_size"),
        ({"crop_size": 300}, "crop_size"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_mean": "grey"}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std"),
        ({"image_std": [0.5, 0.5, float("nan")]}, "image_std"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0}, "crop_pct"),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 1e-9}, "crop_pct"),
        ({"image_processor_type": "ConvNextImageProcessor", "do_center_crop": True}, "do_center_crop"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 9, "width": 9}}, "size"),
    ],
)
def test_what_no_preprocessing_can_be_is_refused_by_its_name(change: Any, field: str, tmp_path: Path) -> None:
    bit = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "crop_size": 224}
    with pytest.raises(
        ModelLoadFailed, match=field if field != "image_processor_type" else "image processor"
    ) as refused:
        described(tmp_path, processor={**bit, **change})
    assert refused.value.field == f"{PROCESSOR}: {field}"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'; provider classifier serves beit, bit"),
        ({"model_type": "timm_wrapper", "architecture": "hf-hub:somebody/something"}, "timm_wrapper"),
        ({"model_type": "vit", "num_labels": 0}, "num_labels"),
        ({"model_type": "vit", "id2label": {"0": "cat", "2": "dog"}}, "id2label"),
        ({"model_type": "vit", "id2label": {"one": "cat"}}, "id2label"),
        ({"model_type": "vit", "id2label": {"0": 7}}, "id2label"),
        ({"model_type": "vit", "id2label": ["cat", "dog"]}, "id2label"),
        ({"model_type": "vit", "problem_type": "regression"}, "'regression' is no classification"),
    ],
)
def test_what_is_no_classifier_is_refused(model: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=said):
        described(tmp_path, model)


def test_a_key_that_means_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="no key 'pooling'"):
        described(tmp_path, config={"pooling": "mean"})


# --- loading -----------------------------------------------------------------------------------------------------


def edited(folder: Path, name: str = CONFIG, **changes: Any) -> Path:
    (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **changes}))
    return folder


def test_what_a_file_has_beyond_the_network_is_left(tmp_path: Path) -> None:
    folder = written(tmp_path / "model")
    expected = loaded(folder).classify(noise(2))
    save_file({**load_file(folder / WEIGHTS), "vit.pooler.dense.weight": torch.zeros(32, 32)}, folder / WEIGHTS)
    np.testing.assert_array_equal(loaded(folder).classify(noise(2)), expected)


def test_a_trunk_without_its_head_is_no_classifier(tmp_path: Path) -> None:
    folder = written(tmp_path / "model")
    weights = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if "classifier" not in name}
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ModelLoadFailed, match=r"classifier\.weight is missing"):
        loaded(folder)


def test_counters_of_training_may_be_missing(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", family="resnet")
    weights = load_file(folder / WEIGHTS)
    counters = [name for name in weights if name.endswith("num_batches_tracked")]
    assert counters
    expected = loaded(folder).classify(noise(2, 64))
    save_file({name: tensor for name, tensor in weights.items() if name not in counters}, folder / WEIGHTS)
    np.testing.assert_array_equal(loaded(folder).classify(noise(2, 64)), expected)


def test_pictures_of_a_size_that_the_network_does_not_take_are_refused_at_once(tmp_path: Path) -> None:
    folder = edited(written(tmp_path / "model"), PROCESSOR, size={"height": 40, "width": 40})
    with pytest.raises(ModelLoadFailed, match="does not take what its processor makes"):
        loaded(folder)


def test_a_network_with_more_classes_than_names_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", family="pvt")
    names = dict(enumerate(("one", "two")))
    with pytest.raises(ModelLoadFailed, match="has 7 classes, its configuration names 2"):
        loaded(edited(folder, id2label=names, label2id={}))


def test_another_familys_weights_do_not_fit(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", family="vit")
    with pytest.raises(ModelLoadFailed, match="is missing"):
        loaded(edited(folder, model_type="dinov2"))


@pytest.mark.parametrize("name", [WEIGHTS, PICKLE])
def test_damaged_weights_are_called_corrupt(name: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "model", pickled=name == PICKLE)
    (folder / name).write_bytes((folder / name).read_bytes()[:1000])
    with pytest.raises(ArtifactCorrupt, match=name):
        loaded(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"precision": "int8"}, "'int8'"), ({"engine": "onnxruntime"}, "'onnxruntime' loads what was exported")],
)
def test_what_torch_does_not_do_is_said(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=said):
        loaded(written(tmp_path / "model"), **changes)


# --- running -----------------------------------------------------------------------------------------------------


def test_the_model_does_what_its_family_says(tmp_path: Path) -> None:
    model = loaded(written(tmp_path / "model"))
    capabilities.check(classifier(), PROVIDER.tasks(), model)
    given = capabilities.forward(model, "classify", [model.sample("classify")] * 3, threads=1)
    assert capabilities.rows(given).shape == (3, len(LABELS))


def test_scores_of_a_picture_are_those_of_transformers(tmp_path: Path, pictures: list[Image.Image]) -> None:
    folder = written(tmp_path / "model")
    model = loaded(folder)
    assert model.description.scoring is not None
    expected = torch.softmax(torch.from_numpy(theirs(folder, tiny_processor("vit"), pictures)), dim=-1).numpy()
    for row, scores in zip(logits(model, pictures), expected, strict=True):
        np.testing.assert_allclose(likelihoods(row, model.description.scoring), scores, atol=1e-5)


@pytest.mark.parametrize(("family", "side"), [("vit", 32), ("resnet", 64), ("swin", 32)])
def test_a_batch_gives_what_its_items_give_alone(family: str, side: int, tmp_path: Path) -> None:
    model, items = loaded(written(tmp_path / "model", family=family)), noise(9, side)
    alone = np.concatenate([model.classify([item]) for item in items])
    np.testing.assert_allclose(model.classify(items), alone, atol=1e-5)
    np.testing.assert_allclose(model.classify(items, threads=1), alone, atol=1e-5)


def test_a_batch_is_one_forward_told_layer_by_layer(tmp_path: Path) -> None:
    model, told = loaded(written(tmp_path / "model")), list[tuple[int, int]]()
    model.classify(noise(16), tell=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_several_lanes_get_the_same_logits(tmp_path: Path) -> None:
    model, items = loaded(written(tmp_path / "model", family="swin")), noise(4)
    expected = model.classify(items, threads=1)
    with ThreadPoolExecutor(4) as lanes:
        found = list(lanes.map(lambda _: model.classify(items, threads=1), range(20)))
    assert all((rows == expected).all() for rows in found)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("family", "side"), [("vit", 32), ("resnet", 64)])
def test_a_lower_precision_is_smaller_and_close(
    precision: Any, family: str, side: int, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    folder = written(tmp_path / "model", family=family)
    full, low = loaded(folder), loaded(folder, precision=precision)
    assert low.precision == precision
    assert low.weight_bytes < 0.6 * full.weight_bytes
    assert cosines(logits(low, pictures), logits(full, pictures)).min() >= 0.999


class TwoFormats(ClassifierProvider):
    """The real one, on hardware that is made for bf16."""

    def precisions(self, device: str) -> tuple[Concrete, ...]:
        return ("fp32", "bf16")


async def test_it_is_verified_by_the_logits_of_pictures(tmp_path: Path) -> None:
    folder = written(tmp_path / "model")
    asked = classifier(precision="auto", warmup=False)
    settings = HostSettings(
        group="default",
        index=1,
        directory=tmp_path,
        share=Share(threads=1, budget_bytes=0),
        drain_timeout_s=5.0,
        parity=tmp_path / "parity",
    )
    host = RunnerHost(settings, Catalogue((asked,), (GroupSpec(),)), lambda _: TwoFormats(), Folders(lambda _: folder))
    try:
        steps = [step async for step in verify(host, asked, deadline=time.monotonic() + 60)]
    finally:
        await host.stop()

    report = steps[-1]
    low = next(one for one in report["candidates"] if one["precision"] == "bf16")
    assert report["auto"]["precision"] in ("fp32", "bf16")
    assert low["likeness"].keys() == low["ms"].keys() == {"classify"}
    assert 0.999 <= low["likeness"]["classify"]["lowest"] < 1
    assert PROVIDER.files(asked, folder) == (folder / WEIGHTS, folder / CONFIG, folder / PROCESSOR)
