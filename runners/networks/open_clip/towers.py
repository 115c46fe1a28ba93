"""The two towers of a CLIP as modules by themselves: raw input in, vectors of length 1 out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import normalize

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.preprocess import Preprocess
from modelmora.errors import ModelLoadFailed
from runners.engines.towers import Towers
from runners.networks.open_clip.config import Config
from runners.networks.open_clip.network import build
from runners.networks.open_clip.pooling import pool_image_early
from runners.networks.open_clip.weights import find_weights, put_weights
from runners.networks.pixels import Normalised
from runners.networks.weights import read_weights


class ImageTower(nn.Module):
    """uint8 (n, height, width, 3) to float32 (n, dimension)."""

    def __init__(self, network: nn.Module, how: Preprocess) -> None:
        super().__init__()
        self.network, self.normalised = network, Normalised(how)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalize(self.network.encode_image(self.normalised(pixels)), dim=-1)  # type: ignore[operator] # a module's method


class TextTower(nn.Module):
    """int32 (n, context) to float32 (n, dimension)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return normalize(self.network.encode_text(tokens.long()), dim=-1)  # type: ignore[operator] # as above


def load_towers(spec: ModelSpec, config: Config, folder: Path, description: Description) -> Towers:
    """In fp32, as open_clip builds them; raises what loading raises, and ModelLoadFailed for an own tokenizer."""
    if description.text is not None and description.text.tokenizer == "runner":
        raise ModelLoadFailed(f"{spec.key}: models with a tokenizer of their own run on torch only", field="engine")
    network = build(spec, config, device="cpu", precision="fp32")
    put_weights(spec, network, read_weights(spec, find_weights(spec, folder)))
    pool_image_early(network.eval().requires_grad_(False))
    modules: dict[Task, nn.Module] = {}
    if description.image is not None:
        modules["embed_image"] = ImageTower(network, description.image).eval()
    if description.text is not None:
        modules["embed_text"] = TextTower(network).eval()
    return Towers(modules)
