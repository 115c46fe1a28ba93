"""transformers' networks of pictures as modules by themselves: raw pixels in, vectors or logits out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from runners.networks.hf.network import pooled
from runners.networks.pixels import Normalised

if TYPE_CHECKING:
    from modelmora.domain.preprocess import Preprocess
    from runners.networks.hf.network import Pooling


class VectorTower(nn.Module):
    """uint8 (n, height, width, 3) to float32 (n, dimension)."""

    def __init__(self, network: nn.Module, how: Preprocess | None, pooling: Pooling) -> None:
        super().__init__()
        self.normalised, self.network, self.pooling = Normalised(how), network, pooling

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pooled(self.network, self.normalised(pixels), self.pooling)


class LogitTower(nn.Module):
    """uint8 (n, height, width, 3) to float32 (n, classes)."""

    def __init__(self, network: nn.Module, how: Preprocess | None) -> None:
        super().__init__()
        self.normalised, self.network = Normalised(how), network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(pixel_values=self.normalised(pixels)).logits
        return logits
