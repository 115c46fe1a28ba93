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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", help="a built-in open_clip configuration, such as ViT-B-32")
    parser.add_argument("folder", type=Path, help="where the model is written")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_random(given.architecture, given.folder, seed=given.seed)


if __name__ == "__main__":
    main()
