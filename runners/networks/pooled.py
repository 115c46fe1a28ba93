"""The last block of a transformer whose vector is read at one position: nothing else of it is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from runners.networks.attention import plain


class PooledBlock(nn.Module):
    """open_clip's `ResidualAttentionBlock` (pre-norm, Dosovitskiy et al. 2021) at the positions that are pooled.

    Every position still gives its key and value; queries, the output projection and the MLP, ten twelfths of a block,
    are computed where somebody reads them. In a network of twelve blocks that is 7 % of the work, and the vectors are
    the same to rounding. The weights are views of the original's.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention, width = block.attn, block.attn.embed_dim
        self.num_heads: int = attention.num_heads
        self.ln_1, self.ls_1, self.ln_2, self.ls_2, self.mlp = block.ln_1, block.ls_1, block.ln_2, block.ls_2, block.mlp
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self.query = _linear(weight[:width], None if bias is None else bias[:width])
        self.keys_values = _linear(weight[width:], None if bias is None else bias[width:])
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self, x: torch.Tensor, at: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(items, tokens, width) to (items, 1, width): at the first position, or each item's of `at`, (items,).

        `mask` is (tokens, tokens), added to the scores.
        """
        items, tokens, width = x.shape
        normed = self.ln_1(x)
        q = self.query(_at(normed, at)).view(items, 1, self.num_heads, -1).transpose(1, 2)
        k, v = self.keys_values(normed).view(items, tokens, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        rows = None if mask is None or at is None else mask[at][:, None, None].to(x.dtype)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=rows).transpose(1, 2).reshape(items, 1, width)
        x = _at(x, at) + self.ls_1(self.out_proj(mixed))
        out: torch.Tensor = x + self.ls_2(self.mlp(self.ln_2(x)))
        return out

    def get_weight_dtype(self) -> torch.dtype:
        """What open_clip asks the first block of a tower."""
        dtype: torch.dtype = self.query.weight.dtype
        return dtype


class FirstTokenBlock(PooledBlock):
    """In the place of the last block of an image tower that is read at its class token."""

    def forward(self, x: torch.Tensor, *_: object, **others: object) -> torch.Tensor:
        """Takes what a block takes, without a mask."""
        return super().forward(x)


def usual(block: Any) -> bool:
    """Whether it is a plain self-attention block, of which the above is the same."""
    from open_clip.transformer import ResidualAttentionBlock  # noqa: PLC0415 - other families' runners go without

    own_norm = hasattr(block, "ln_1_kv")
    attention = getattr(block, "attn", None)
    return (
        type(block) is ResidualAttentionBlock
        and not own_norm
        and isinstance(attention, nn.MultiheadAttention)
        and plain(attention)
    )


def _at(x: torch.Tensor, at: torch.Tensor | None) -> torch.Tensor:
    """(items, 1, width) of (items, tokens, width)."""
    return x[:, :1] if at is None else x[torch.arange(len(x), device=x.device), at][:, None]


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A plain layer of these very weights."""
    layer = nn.Linear(1, 1, bias=bias is not None, device="meta")
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer
