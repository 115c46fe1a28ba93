"""The towers of a CLIP whose last block computes the one position that is read."""

from __future__ import annotations

from typing import Any

from open_clip.transformer import VisionTransformer

from runners.networks.open_clip.texts import looks_back
from runners.networks.pooled import FirstTokenBlock, PooledBlock, usual


def pool_early(model: Any) -> None:
    """Takes the place of the last blocks of towers that are read at one position; `encode_text` knows how."""
    pool_image_early(model)
    if looks_back(model) and usual(model.transformer.resblocks[-1]):
        model.transformer.resblocks[-1] = PooledBlock(model.transformer.resblocks[-1])


def pool_image_early(model: Any) -> None:
    """The image tower alone: the result is called as before."""
    tower = model.visual
    if _reads_the_class_token(tower) and usual(tower.transformer.resblocks[-1]):
        tower.transformer.resblocks[-1] = FirstTokenBlock(tower.transformer.resblocks[-1])


def _reads_the_class_token(tower: Any) -> bool:
    return bool(
        type(tower) is VisionTransformer
        and tower.attn_pool is None
        and tower.pool_type == "tok"
        and not tower.output_tokens
        and tower.transformer.batch_first
    )
