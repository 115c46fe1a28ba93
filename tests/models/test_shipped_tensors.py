"""The tensor models of the shipped registry, with small networks of the same architectures in their places."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageClassification

from modelmora.domain.models import ModelSpec
from registry.declared import load
from runners import families
from runners.inputs.features import prepare
from runners.onnx import PROVIDER
from runners.payload import Parcel
from tests.models.conftest import stored
from tests.models.hub_folders import TINY, by_transformers, processor_of, randomized

SHIPPED = Path(__file__).resolve().parents[2] / "registry" / "ModelRegistry.yaml"
PROCESSOR: dict[str, Any] = {
    "size": {"shortest_edge": 224},
    "crop_pct": 0.875,
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
"""Of microsoft/resnet-50."""


def exported(folder: Path) -> Path:
    """A small ResNet as hubs hold them beside its export: `onnx/model.onnx`, with the names that optimum gives."""
    sizes: dict[str, Any] = {**TINY["resnet"], "num_labels": 1000}
    auto: Any = AutoModelForImageClassification
    network: Any = randomized(auto.from_config(transformers.ResNetConfig(**sizes)))
    network.save_pretrained(folder)
    axes = {"pixel_values": dict(enumerate(("batch_size", "num_channels", "height", "width")))}
    (folder / "onnx").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, 224, 224),),
            str(folder / "onnx" / "model.onnx"),
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch_size"}},
            dynamo=False,
        )
    return folder


def test_pictures_give_the_logits_that_transformers_gives(tmp_path: Path, photographs: list[Image.Image]) -> None:
    folder, spec = exported(tmp_path / "resnet"), next(m for m in load(SHIPPED).models if m.name == "resnet-50-onnx")
    files = np.array([stored(photograph, "PNG") for photograph in photographs], dtype=object)

    model = PROVIDER.load(spec, folder, device="cpu", threads=1)
    tensors, rows = prepare(
        {"image": files}, model.description.prepared, first=0, rows=len(files), max_pixels=50_000_000
    )
    (answer,) = model.predict([Parcel(tensors=tensors, rows=rows)])

    processor = processor_of("ConvNext", **PROCESSOR)
    expected = by_transformers(
        folder, processor, photographs, lambda _, output: output.logits, AutoModelForImageClassification
    )
    assert [(one.name, one.dtype) for one in model.description.inputs] == [("image", "bytes")]
    np.testing.assert_allclose(answer.tensors["logits"], expected, atol=1e-4 * np.abs(expected).max())


def test_the_row_that_is_marked_out_can_be_declared_as_it_stands(tmp_path: Path) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    file = tmp_path / "ModelRegistry.yaml"
    file.write_text(re.sub(r"^  # (?=- name: |  \w+: )", "  ", text, flags=re.MULTILINE), encoding="utf-8")

    new = {model.name: model for model in load(file).models if model not in load(SHIPPED).models}

    assert new == {
        "mobile-vit-flowers": ModelSpec(
            name="mobile-vit-flowers",
            version="1.0.0",
            type="tensor",
            provider="tensorflow",
            source="hub:keras-io/mobile-vit-xxs",
            warmup=False,
        )
    }


@pytest.mark.parametrize("model", [m for m in load(SHIPPED).models if not m.default], ids=lambda m: m.name)
def test_no_declared_model_is_loaded_by_the_start(model: ModelSpec) -> None:
    assert not model.warmup
    assert model.type in families.serves(model.provider)
