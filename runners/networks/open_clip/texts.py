"""CLIP's text tower over as many positions as a batch's texts have, instead of all that it could read."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import text_global_pool
from torch import nn

STEP = 8
"""Lengths are multiples of it: few shapes, of each of which libraries keep what they found out."""


def encode_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """`model.encode_text` of (n, context) ids, the same vectors to rounding.

    Under a causal mask (Radford et al. 2021, section 2.4) what stands behind a text's end reaches no position before
    it, and the end's is the one that is taken; a caption has a dozen of 77. Other towers, and other devices than a CPU,
    which would have to be waited for, read everything.
    """
    length = _length(model, tokens)
    if length >= tokens.shape[1]:
        whole: torch.Tensor = model.encode_text(tokens)
        return whole
    tokens, kind = tokens[:, :length], model.transformer.get_cast_dtype()
    states = model.token_embedding(tokens).to(kind) + model.positional_embedding[:length].to(kind)
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    pooled: torch.Tensor = text_global_pool(states, tokens, model.text_pool_type)
    projection = model.text_projection
    if projection is None:
        return pooled
    projected: torch.Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return projected


def _length(model: Any, tokens: torch.Tensor) -> int:
    """How many positions are enough for all of these texts."""
    causal = type(model) is CLIP and model.text_pool_type == "argmax" and model.attn_mask is not None
    if not causal or tokens.device.type != "cpu":
        return tokens.shape[1]
    return -(-(int(tokens.argmax(dim=-1).max()) + 1) // STEP) * STEP
