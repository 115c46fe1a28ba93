"""Linear layers by the faster of the two libraries that torch brings for a CPU: MKL, or oneDNN with packed weights.

MKL takes its AVX-512 kernels on Intel's processors alone; elsewhere oneDNN computes the same fp32 products at twice the
speed (AMD EPYC, one core, GFLOP/s of fp32: MKL 95, oneDNN 212). torch gives plain fp32 layers to MKL always. Which one
is faster is measured, once a process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import structlog
import torch
from torch import nn
from torch.nn.functional import linear

from runners.networks.attention import mix, plain
from runners.networks.pooled import PooledBlock

log = structlog.get_logger(__name__)

ROWS = 256
"""Tokens of a batch for which weights are laid out; any number works."""

GAIN = 0.9
"""Packed weights are used where they take at most so much of the time."""


class PackedLinear(nn.Module):
    """A linear layer whose weights are laid out for oneDNN; the given ones may go."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
        self.own_bias = None if bias is None else bias.detach()
        self.weight = weight.new_empty(0)  # open_clip and transformers ask it for its number format
        self.weight_bytes = sum(t.numel() * t.element_size() for t in (weight, bias) if t is not None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.own_bias, "none", [], "")
        return y


class PackedAttention(nn.Module):
    """Self-attention of packed layers, with or without a mask: what `nn.MultiheadAttention` computes in inference."""

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = original.num_heads
        self.project = PackedLinear(original.in_proj_weight, original.in_proj_bias)
        self.out_proj = PackedLinear(original.out_proj.weight, original.out_proj.bias)

    def forward(
        self, query: torch.Tensor, *_: torch.Tensor, attn_mask: torch.Tensor | None = None, **others: Any
    ) -> tuple[torch.Tensor, None]:
        """(items, tokens, width); a mask is (tokens, tokens), or (items * heads, tokens, tokens)."""
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.view(len(query), self.num_heads, *attn_mask.shape[1:])
        return self.out_proj(mix(self.project(query), self.num_heads, attn_mask)), None


def pack(network: nn.Module, dtype: torch.dtype) -> None:
    """Packs open_clip's transformer blocks of a network on the CPU, one layer at a time, where that pays."""
    if not packing_pays(dtype):
        return
    from open_clip.transformer import ResidualAttentionBlock  # noqa: PLC0415 - other families' runners go without

    for block in network.modules():
        if type(block) is ResidualAttentionBlock:
            _pack_block(block)
        elif isinstance(block, PooledBlock):
            pack_linears(block, dtype)


def pack_linears(network: nn.Module, dtype: torch.dtype) -> None:
    """Packs every plain linear layer of a network on the CPU, one at a time, where that pays.

    For networks that call their layers: one that reads a layer's `weight` would find nothing there.
    """
    if not packing_pays(dtype):
        return
    names = [name for name, layer in network.named_modules() if type(layer) is nn.Linear]
    for name in names:  # by name: whoever held the layers would keep their weights
        layer: Any = network.get_submodule(name)
        network.set_submodule(name, PackedLinear(layer.weight, layer.bias))


def packed_bytes(network: nn.Module) -> int:
    """Of weights that are no parameters any more."""
    return sum(module.weight_bytes for module in network.modules() if isinstance(module, PackedLinear))


def _pack_block(block: Any) -> None:
    for name in ("c_fc", "c_proj"):
        layer = getattr(block.mlp, name)
        if type(layer) is nn.Linear:
            setattr(block.mlp, name, PackedLinear(layer.weight, layer.bias))
    if not hasattr(block, "ln_1_kv") and isinstance(block.attn, nn.MultiheadAttention) and plain(block.attn):
        block.attn = PackedAttention(block.attn)


@cache
def packing_pays(dtype: torch.dtype) -> bool:
    """Whether oneDNN is the faster one here; False where it cannot."""
    x, weight = torch.randn(ROWS, 768, dtype=dtype), torch.randn(3072, 768, dtype=dtype)
    try:
        layer = PackedLinear(weight, None)
        packed_s, plain_s = _best(lambda: layer(x), lambda: linear(x, weight))
    except (RuntimeError, AttributeError) as cause:
        log.info("linear_layers", dtype=str(dtype), packed=False, why=str(cause)[:200])
        return False
    log.info("linear_layers", dtype=str(dtype), packed=packed_s < GAIN * plain_s, gain=round(plain_s / packed_s, 2))
    return packed_s < GAIN * plain_s


def _best(*works: Callable[[], object], times: int = 8) -> list[float]:
    """Seconds of the fastest of so many of each, taken in turns, after one that does not count."""
    seconds = [float("inf")] * len(works)
    for turn in range(times + 1):
        for place, work in enumerate(works):
            started = time.perf_counter()
            work()
            if turn:
                seconds[place] = min(seconds[place], time.perf_counter() - started)
    return seconds
