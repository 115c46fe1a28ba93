"""The losses of *Segment Anything* (Kirillov et al. 2023, appendix A): focal and dice 20 to 1, and MSE of the IoU."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import sigmoid_focal_loss  # type: ignore[import-untyped]

_FOCAL = 20.0


def of_masks(logits: torch.Tensor, scores: torch.Tensor, wanted: torch.Tensor, *, balance: float = 0.0) -> torch.Tensor:
    """Of `logits` (prompts, 4, h, w) and `scores` (prompts, 4) against masks (prompts, h, w) of 0 and 1.

    The first mask always counts, of the other three the best alone: what a point means is not told.
    """
    truth = wanted[:, None].expand_as(logits)
    focal = sigmoid_focal_loss(logits, truth, alpha=0.25, gamma=2).mean(dim=(-2, -1))
    flat, flat_truth = logits.flatten(-2), truth.flatten(-2)
    each = _FOCAL * focal + dice(flat, flat_truth)
    if balance:
        each = each + balance * balanced(flat, flat_truth)
    quality = torch.nn.functional.mse_loss(scores, overlap(logits, wanted))
    total: torch.Tensor = each[:, 0].mean() + each[:, 1:].min(dim=1).values.mean() + quality
    return total


def balanced(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the last dimension in which ones and zeros count alike, however few they are."""
    wrong = binary_cross_entropy_with_logits(logits, truth, reduction="none")
    missed = (wrong * truth).sum(-1) / truth.sum(-1).clamp(min=1)
    invented = (wrong * (1 - truth)).sum(-1) / (1 - truth).sum(-1).clamp(min=1)
    return missed + invented


@torch.no_grad()
def overlap(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The IoU of each of (prompts, n, h, w), (prompts, n)."""
    found, truth = logits > 0, wanted[:, None] > 0.5
    both = (found & truth).sum(dim=(-2, -1))
    return both / (found | truth).sum(dim=(-2, -1)).clamp(min=1)


def dice(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Over the last dimension."""
    found = logits.sigmoid()
    return 1 - (2 * (found * truth).sum(-1) + 1) / (found.sum(-1) + truth.sum(-1) + 1)
