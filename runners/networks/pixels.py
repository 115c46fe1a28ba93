"""From the bytes of pictures to the numbers that a network takes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from modelmora.domain.preprocess import Preprocess
from runners.precision import Concrete

DTYPES: Mapping[Concrete, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Pixels:
    """Normalises on the device; `mean` and `std` are the preprocessing's, in units of 0..1 (None: 0..1 as they are)."""

    def __init__(self, how: Preprocess | None, device: str) -> None:
        self._scale, self._shift = _scale_and_shift(how, device)

    def of(self, stacked: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(n, 3, height, width) of (n, height, width, 3) bytes."""
        # Channels first while still bytes: scaling them last in memory takes eight times as long.
        floats = stacked.permute(0, 3, 1, 2).contiguous().float().mul_(self._scale).add_(self._shift)
        return floats.to(dtype)


class Normalised(nn.Module):
    """The same as a module, for networks that are exported: float32, and nothing in place."""

    def __init__(self, how: Preprocess | None) -> None:
        super().__init__()
        self.scale, self.shift = _scale_and_shift(how, "cpu")

    def forward(self, stacked: torch.Tensor) -> torch.Tensor:
        """(n, 3, height, width) of (n, height, width, 3) bytes."""
        return stacked.permute(0, 3, 1, 2).float() * self.scale + self.shift


def _scale_and_shift(how: Preprocess | None, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    given = (how.mean, how.std) if how else ((0.0,) * 3, (1.0,) * 3)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in given)
    return 1 / (255 * std), -mean / std
