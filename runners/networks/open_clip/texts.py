"""CLIP's text tower over as many positions as a batch's texts have, instead of all that it could read."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from torch import nn

from runners.networks.pooled import PooledBlock

STEP = 8
"""Lengths are multiples of it: few shapes, of each of which libraries keep what they found out."""


def encode_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """`model.encode_text` of (n, context) ids, the same vectors to rounding.

    Under a causal mask (Radford et al. 2021, section 2.4) what stands behind a text's end reaches no position before
    it, and the end's is the one that is taken; a caption has a dozen of 77. Other towers, and other devices than a CPU,
    which would have to be waited for, read everything.
    """
    if not looks_back(model):
        whole: torch.Tensor = model.encode_text(tokens)
        return whole
    ends = tokens.argmax(dim=-1)
    length = tokens.shape[1] if tokens.device.type != "cpu" else _length(ends, tokens.shape[1])
    tokens, kind = tokens[:, :length], model.transformer.get_cast_dtype()
    states = model.token_embedding(tokens).to(kind) + model.positional_embedding[:length].to(kind)
    pooled: torch.Tensor = model.ln_final(
        _states_at(model.transformer, states, ends, model.attn_mask[:length, :length])
    )
    projection = model.text_projection
    if projection is None:
        return pooled
    projected: torch.Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return projected


def looks_back(model: Any) -> bool:
    """Whether its text tower is CLIP's own: causal, and read at a text's end, whose id is the largest."""
    return bool(
        type(model) is CLIP
        and model.text_pool_type == "argmax"
        and model.attn_mask is not None
        and model.transformer.batch_first
    )


def _length(ends: torch.Tensor, context: int) -> int:
    """How many positions are enough for all of these texts."""
    return min(context, -(-(int(ends.max()) + 1) // STEP) * STEP)


def _states_at(transformer: Any, states: torch.Tensor, ends: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What the blocks make of (n, tokens, width) at each text's end: (n, width)."""
    *blocks, last = transformer.resblocks
    for block in blocks:
        states = block(states, attn_mask=mask)
    if isinstance(last, PooledBlock):
        pooled: torch.Tensor = last(states, ends, mask)[:, 0]
        return pooled
    states = last(states, attn_mask=mask)
    return states[torch.arange(len(states), device=states.device), ends]
