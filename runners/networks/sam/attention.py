"""The attention of SAM's encoder in a small part of the time and memory of segment_anything's own.

Over a whole picture each head weighs 4096 x 4096 tokens, and the library keeps three such tables of all heads at once.
Here the heads go one after the other, a few rows at a time, through torch's fused attention. One global layer of ViT-B
on two cores, the best of four runs beside other work: 2.2 s and 2.4 GB there, 1.0 s and 0.1 GB here.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import (
    Attention,
    get_rel_pos,
)
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

TOGETHER = 1024
"""Up to so many tokens (a window has 196) all heads go at once, above that many rows of one head."""


class SlimAttention(Attention):  # type: ignore[misc]  # segment_anything ships no types
    """`Attention` of segment_anything/modeling/image_encoder.py, its weights and results (to 1e-6)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(items, height, width, channels) to the same."""
        items, height, width, _ = x.shape
        q, k, v = self.qkv(x).reshape(items, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        down = get_rel_pos(height, height, self.rel_pos_h)
        across = get_rel_pos(width, width, self.rel_pos_w)
        if height * width <= TOGETHER:
            mixed = _mix(q, k, v, (down, across))
        else:
            mixed = torch.empty_like(q)
            rows = max(1, TOGETHER // (2 * width))
            for head in range(self.num_heads):
                for top in range(0, height, rows):
                    part = slice(top * width, (top + rows) * width)
                    own = slice(head, head + 1)
                    bias = (down[top : top + rows], across)
                    mixed[:, own, part] = _mix(q[:, own, part], k[:, own], v[:, own], bias)
        return self.proj(mixed.transpose(1, 2).reshape(items, height, width, -1))  # type: ignore[no-any-return]


def _mix(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """What the queries make of all keys and values, each (items, heads, tokens, channels).

    `positions` are how a query sees rows and columns: (its rows, rows, channels) and (columns, columns, channels).
    The two are added to the logits (Li et al. 2021, MViTv2, decomposed relative positions).
    """
    down, across = positions
    placed = q.reshape(*q.shape[:2], len(down), len(across), -1)
    rows = torch.einsum("nahwc,hkc->nahwk", placed, down)
    columns = torch.einsum("nahwc,wkc->nahwk", placed, across)
    bias = (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)
    return scaled_dot_product_attention(q, k, v, attn_mask=bias)


def slim(encoder: nn.Module) -> None:
    """Lets every block of the encoder take the short way; its weights stay where they are."""
    for module in encoder.modules():
        if type(module) is Attention and module.use_rel_pos:
            module.__class__ = SlimAttention
