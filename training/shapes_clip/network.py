"""The network's shape, and its folder in the form that open_clip loads as `local-dir:`."""

import json
from pathlib import Path
from typing import Any

import torch
from open_clip import CLIP, create_model_and_transforms, get_tokenizer
from safetensors.torch import save_file

from training.shapes_clip.pool import IMAGE_SIZE

CONTEXT_LENGTH = 24
MEAN = STD = (0.5, 0.5, 0.5)

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": IMAGE_SIZE, "layers": 4, "width": 128, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": CONTEXT_LENGTH, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
    },
    "preprocess_cfg": {
        "size": IMAGE_SIZE,
        "mode": "RGB",
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def build() -> torch.nn.Module:
    """A new network, with random weights from torch's own generator."""
    network: torch.nn.Module = CLIP(**CONFIG["model_cfg"])
    return network


def save(network: torch.nn.Module, folder: Path) -> None:
    """Writes the configuration, and the weights in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    halves = {name: weight.half().contiguous() for name, weight in network.state_dict().items()}
    save_file(halves, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def load(folder: Path) -> tuple[torch.nn.Module, Any, Any]:
    """The network in single precision, its preprocessing and its tokenizer, all as open_clip makes them."""
    name = f"local-dir:{folder}"
    network, _, preprocess = create_model_and_transforms(name, precision="fp32")
    return network.eval(), preprocess, get_tokenizer(name)
