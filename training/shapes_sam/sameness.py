"""What the encoder learns first: which places of a picture belong to the same thing.

A decoder's answer tells little to an encoder that knows nothing, and each is dear. This asks for dozens of places of
each picture at once, through a head that is thrown away afterwards. (The paper begins with an encoder that has learned
to fill in hidden patches of many more pictures.)
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.shapes_sam import losses

_PLACES = 48
_WIDTH = 48
_UNIT = 16
"""Places, that is four tokens or 64 pixels: what lengths are measured in."""

_WIDE = 3
"""Before anything is learned, a thing may reach this far (in e-folds of the inverse square) around a place."""


class Sameness(nn.Module):
    """From features (items, channels, h, w) to vectors of places, at four times the resolution.

    A place that is asked for says what the others have to look like, and once that is learned, where about they have to
    be: around which center and how far from it (Neven et al. 2019, *Instance Segmentation by Jointly Optimizing Spatial
    Embeddings*). Asked for both at once, the encoder is long content that what is near is mostly the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.places = nn.Sequential(
            nn.ConvTranspose2d(channels, 2 * _WIDTH, kernel_size=2, stride=2),
            nn.GELU(),
            nn.ConvTranspose2d(2 * _WIDTH, _WIDTH, kernel_size=2, stride=2),
        )
        self.look = nn.Linear(_WIDTH, _WIDTH + 1)
        self.around = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, 4))
        self.is_placed = False

    def forward(self, features: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Whether each place is of the same thing as the chosen ones (items, n): logits (items, n, places)."""
        grid = self.places(features).float()
        vectors = grid.flatten(2)
        at = torch.gather(vectors, 2, chosen[:, None].expand(-1, _WIDTH, -1)).transpose(1, 2)
        look, bias = self.look(at).float().split((_WIDTH, 1), dim=-1)
        logits: torch.Tensor = look @ vectors / _WIDTH**0.5 + bias
        return logits - self._distance(at, _places(*grid.shape[-2:]), chosen) if self.is_placed else logits

    def _distance(self, at: torch.Tensor, where: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Of each place from the center of what each chosen one is in, in parts of that thing's size."""
        shift, narrow = self.around(at).float().split((2, 2), dim=-1)
        off = where - (where[chosen] + shift)[:, :, None]
        far: torch.Tensor = (off**2 * (narrow - _WIDE).clamp(max=6).exp()[:, :, None]).sum(-1)
        return far

    def loss(self, rng: np.random.Generator, features: torch.Tensor, labels: NDArray[np.uint8]) -> torch.Tensor:
        """Labels are (items, side, side), 16 of them a token."""
        seen = labels[:, 2::4, 2::4].reshape(len(labels), -1)
        chosen = torch.from_numpy(np.stack([_chosen(rng, each) for each in seen]))
        logits = self(features, chosen)
        of = torch.from_numpy(seen.astype(np.int64))
        same = (torch.gather(of, 1, chosen)[..., None] == of[:, None]).float()
        return (losses.balanced(logits, same) + losses.dice(logits, same)).mean()


def _chosen(rng: np.random.Generator, seen: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Places of things as often as of one another, however large they are."""
    shares = 1 / np.bincount(seen)[seen]
    return rng.choice(len(seen), _PLACES, p=shares / shares.sum())


def _places(height: int, width: int) -> torch.Tensor:
    """Row and column of each, (places, 2), in units."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns], dim=-1).flatten(0, 1) / _UNIT
