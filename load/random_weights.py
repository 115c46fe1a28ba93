"""Writes a model folder of a real open_clip architecture with random weights: for tests and benchmarks.

`python -m load.random_weights ViT-B-32 FOLDER` writes 605 MB. Speed, memory and shapes are those of the real model;
what it says of a picture is nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file


def write_random(
    architecture: str | Mapping[str, Any],
    folder: Path,
    *,
    seed: int = 0,
    preprocess: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Makes `folder` an open_clip `local-dir:` model and returns it.

    `architecture` is the name of a built-in configuration or a `model_cfg`; `preprocess` overrides open_clip's
    default `preprocess_cfg`. Raises ValueError for a name that open_clip does not have.
    """
    config = open_clip.get_model_config(architecture) if isinstance(architecture, str) else dict(architecture)
    if config is None:
        raise ValueError(f"open_clip has no architecture {architecture!r}; it has {', '.join(open_clip.list_models())}")
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = _network(config).state_dict()
    save_file({key: w.to(dtype).contiguous() for key, w in weights.items()}, folder / "open_clip_model.safetensors")
    told = {**vars(PreprocessCfg()), "size": config["vision_cfg"].get("image_size", 224), **(preprocess or {})}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": told}, indent=2))
    return folder


def _network(config: Mapping[str, Any]) -> torch.nn.Module:
    options = copy.deepcopy(dict(config))
    if "timm_model_name" in options["vision_cfg"]:
        options["vision_cfg"]["timm_model_pretrained"] = False
    custom = options.pop("custom_text", False)
    network: torch.nn.Module = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**options)
    return network


def write_random_transformer(name: str, folder: Path, *, seed: int = 0) -> Path:
    """A folder as transformers' save_pretrained writes it: `dinov2-base`, or `vit-base` with a thousand labels.

    Raises ValueError for another name.
    """
    import transformers  # noqa: PLC0415 - seconds, and only these need it

    kinds: dict[str, Any] = {
        "dinov2-base": (
            lambda: transformers.Dinov2Model(transformers.Dinov2Config(image_size=518)),
            transformers.BitImageProcessor(
                size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, resample=3,
                image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
            ),
        ),
        "vit-base": (
            lambda: transformers.ViTForImageClassification(_labelled(transformers.ViTConfig(), 1000)),
            transformers.ViTImageProcessor(
                size={"height": 224, "width": 224}, image_mean=[0.5] * 3, image_std=[0.5] * 3
            ),
        ),
    }  # fmt: skip
    if name not in kinds:
        raise ValueError(f"no architecture {name!r}; there are {', '.join(kinds)}")
    make, processor = kinds[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make()
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _labelled(config: Any, count: int) -> Any:
    config.id2label = {index: f"label {index}" for index in range(count)}
    config.label2id = {label: index for index, label in config.id2label.items()}
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", help="a built-in open_clip configuration, such as ViT-B-32")
    parser.add_argument("folder", type=Path, help="where the model is written")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_random(given.architecture, given.folder, seed=given.seed)


if __name__ == "__main__":
    main()
