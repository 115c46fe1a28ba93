"""Small models of transformers' own classes with random weights, stored as the hub ships them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageClassification

from runners.networks.hf.processor import PROCESSOR_OF

CONVOLVING = frozenset(
    {"bit", "convnext", "convnextv2", "cvt", "hiera", "mobilenet_v1", "mobilenet_v2"}
    | {"pvt_v2", "regnet", "resnet", "segformer", "swiftformer"}
)
"""Families that want some more pixels than the others."""

LABELS = ("cat", "cup", "rocket", "astronaut", "galaxy", "coin", "leaf")

VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
FOUR: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
WINDOWED: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}

TINY: Mapping[str, dict[str, Any]] = {
    "beit": {**VIT, "use_relative_position_bias": True},
    "bit": {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 4},
    "clip": {"vision_config": {**VIT, "projection_dim": 16}, "projection_dim": 16},
    "convnext": FOUR,
    "convnextv2": FOUR,
    "cvt": {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
    "data2vec-vision": {**VIT, "use_relative_position_bias": True},
    "deit": VIT,
    "dinov2": VIT,
    "dinov2_with_registers": VIT,
    "focalnet": {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "hidden_sizes": [16, 32]},
    "hiera": {
        "image_size": [64, 64],
        "embed_dim": 16,
        "depths": [1, 1, 1],
        "num_heads": [1, 2, 4],
        "mask_unit_size": [4, 4],
        "query_stride": [2, 2],
        "num_query_pool": 2,
    },
    "mobilenet_v1": {"depth_multiplier": 0.25, "min_depth": 8},
    "mobilenet_v2": {"depth_multiplier": 0.25, "min_depth": 8},
    "pvt": {
        "num_labels": len(LABELS),
        "image_size": 32,
        "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 3, 4],
    },
    "pvt_v2": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]},
    "regnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2], "groups_width": 8},
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2]},
    "segformer": {
        "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 3, 4],
        "decoder_hidden_size": 16,
    },
    "siglip": {"vision_config": VIT},
    "swiftformer": {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "swin": WINDOWED,
    "swinv2": WINDOWED,
    "vit": VIT,
    "vit_msn": VIT,
}
"""What makes each family small; every other value is its real configuration's."""


def configured(family: str, **changes: Any) -> Any:
    """A configuration of the family's own class, with `LABELS`."""
    names = dict(enumerate(LABELS))
    values = {**TINY[family], **changes}
    return transformers.CONFIG_MAPPING[family](id2label=names, label2id={v: k for k, v in names.items()}, **values)


def randomized(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights that tell pictures apart: what the library draws for training gives nearly the same for all of them."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1
            noise = torch.randn(parameter.shape, generator=chance) * spread
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=chance) * 0.1)
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=chance) + 0.5)
    return model.eval()


def processor_of(name: str, **values: Any) -> Any:
    """An image processor by its class's name without `ImageProcessor`, the one that computes with Pillow and numpy."""
    return getattr(transformers, f"{name}ImageProcessorPil")(**values)


def stored(
    folder: Path, config: Any, processor: Any, *, classifier: bool = False, pickled: bool = False, seed: int = 0
) -> Path:
    """The folder, with what save_pretrained writes; `pickled` as `pytorch_model.bin`, as it was written for years."""
    auto: Any = AutoModelForImageClassification if classifier else AutoModel
    config.architectures = config.architectures or []  # of DeiT the library looks into it
    model: Any = randomized(auto.from_config(config), seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if pickled:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


def tiny_processor(family: str) -> Any:
    """The family's own processor at a small size, its crop where it has one."""
    kind, side = PROCESSOR_OF[family], 64 if family in CONVOLVING else 32
    match kind:
        case "ConvNext":
            return processor_of(kind, size={"shortest_edge": side}, crop_pct=0.875)
        case "Bit" | "CLIP" | "MobileNetV1" | "MobileNetV2":
            return processor_of(kind, size={"shortest_edge": side + 5}, crop_size={"height": side, "width": side})
        case "DeiT":
            return processor_of(kind, size=side + 5, crop_size=side)
        case _:
            return processor_of(kind, size={"height": side, "width": side})


def classifier_folder(folder: Path, *, family: str = "vit", pickled: bool = False, **changes: Any) -> Path:
    """A tiny classifier of the family with its processor."""
    config = configured(family, **changes)
    return stored(folder, config, tiny_processor(family), classifier=True, pickled=pickled)


def by_transformers(
    folder: Path, processor: Any, pictures: list[Image.Image], compute: Callable[[Any, Any], torch.Tensor], auto: Any
) -> NDArray[np.float32]:
    """Rows of the reference chain: processor, from_pretrained, and what `compute` takes of the output."""
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = processor([picture.convert("RGB") for picture in pictures], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        rows: NDArray[np.float32] = compute(model, model(pixel_values=pixels)).numpy()
    return rows
