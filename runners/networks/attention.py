"""Attention under a mask, as text towers have it, without torch's detour."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention


class MaskedAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` that keeps the batch first when there is a mask.

    With a mask torch 2.15 leaves its fast path and projects a transposed view, for which it copies the weights once
    per token: on a CPU that is three quarters of a text's time in bf16, and a fifth in fp32. Weights and results are
    those of the original; what it is not made for goes to it.
    """

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        mask = options.get("attn_mask")
        if others or mask is None or mask.dim() != 2 or query is not key or key is not value:
            return super().forward(query, key, value, *others, **options)
        projected = linear(query, self.in_proj_weight, self.in_proj_bias)
        return self.out_proj(mix(projected, self.num_heads, mask)), None


def mix(projected: torch.Tensor, heads: int, mask: torch.Tensor | None) -> torch.Tensor:
    """What the heads make of queries, keys and values side by side: (items, tokens, 3 * width) to (..., width)."""
    items, length, _ = projected.shape
    q, k, v = projected.view(items, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(items, length, -1)


def straighten(network: nn.Module) -> None:
    """Lets every plain self-attention of the network take the straight way; its weights stay where they are."""
    for module in network.modules():
        if type(module) is nn.MultiheadAttention and plain(module):
            module.__class__ = MaskedAttention


def plain(module: nn.MultiheadAttention) -> bool:
    """Whether it is the usual kind: one width, no extra keys or values, the batch first, no dropout."""
    usual = module.bias_k is None and module.bias_v is None and not module.add_zero_attn
    return bool(usual and module.batch_first and module._qkv_same_embed_dim and not module.dropout)
