"""A last block that computes only what is read gives the vectors of one that computes everything."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import nn
from torch.nn.functional import cosine_similarity

from runners.networks.attention import straighten
from runners.networks.linears import PackedLinear, pack_linears, packed_bytes
from runners.networks.open_clip.pooling import pool_early
from runners.networks.open_clip.texts import encode_text
from runners.networks.pooled import FirstTokenBlock, PooledBlock

VISION = {"layers": 3, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 8}
TEXT = {"layers": 3, "width": 32, "heads": 2}
TEXTS = ["", "a red circle", "a photograph of a cat that looks at a dog " * 2, "word " * 200]


def clips(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None) -> tuple[CLIP, CLIP]:
    """The same network as open_clip has it, and with what is read alone in its last blocks."""
    torch.manual_seed(0)
    original = CLIP(16, vision_cfg={**VISION, **(vision or {})}, text_cfg={**TEXT, **(text or {})})
    for parameter in original.parameters():  # biases begin as zeros, scales as ones
        nn.init.normal_(parameter, std=0.1)
    ours = copy.deepcopy(original).eval().requires_grad_(False)
    straighten(ours)
    pool_early(ours)
    return original.eval().requires_grad_(False), ours


def last(transformer: Any) -> nn.Module:
    block: nn.Module = transformer.resblocks[-1]
    return block


@pytest.mark.parametrize(
    "vision", [{}, {"layers": 1}, {"ls_init_value": 0.3}, {"final_ln_after_pool": True}, {"no_ln_pre": True}]
)
def test_a_picture_s_vector_is_that_of_all_positions(vision: dict[str, Any]) -> None:
    original, ours = clips(vision=vision)
    pixels = torch.randn(5, 3, 32, 32)
    assert isinstance(last(ours.visual.transformer), FirstTokenBlock)
    torch.testing.assert_close(ours.encode_image(pixels), original.encode_image(pixels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text", [{}, {"layers": 1}, {"ls_init_value": 0.3}, {"proj_bias": True}])
@pytest.mark.parametrize("texts", [TEXTS, ["a red circle"], ["word " * 200]], ids=["together", "short", "cut off"])
def test_a_text_s_vector_is_that_of_all_positions(text: dict[str, Any], texts: list[str]) -> None:
    original, ours = clips(text=text)
    tokens = SimpleTokenizer()(texts)
    assert isinstance(last(ours.transformer), PooledBlock)
    torch.testing.assert_close(encode_text(ours, tokens), original.encode_text(tokens), atol=1e-5, rtol=1e-5)


def test_packed_layers_and_bf16_give_the_same_to_rounding() -> None:
    original, ours = clips()
    pixels, tokens = torch.randn(5, 3, 32, 32), SimpleTokenizer()(TEXTS)
    block = last(ours.visual.transformer)
    weights = sum(p.numel() * p.element_size() for name, p in block.named_parameters() if "ln" not in name)
    pack_linears(block, torch.float32)
    if isinstance(block.query, PackedLinear):
        assert packed_bytes(block) == weights
    torch.testing.assert_close(ours.encode_image(pixels), original.encode_image(pixels), atol=1e-5, rtol=1e-5)

    _, rounded = clips()
    rounded = rounded.bfloat16()
    assert (
        cosine_similarity(rounded.encode_image(pixels.bfloat16()).float(), original.encode_image(pixels)).min() > 0.99
    )
    assert cosine_similarity(encode_text(rounded, tokens).float(), original.encode_text(tokens)).min() > 0.99


def test_the_last_block_s_mlp_sees_one_position_of_each_item() -> None:
    _, ours = clips()
    seen: list[torch.Size] = []
    for tower in (ours.visual.transformer, ours.transformer):
        last(tower).mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))  # type: ignore[union-attr]
    ours.encode_image(torch.randn(5, 3, 32, 32))
    encode_text(ours, SimpleTokenizer()(TEXTS))
    assert seen == [(5, 1, 32), (4, 1, 32)]


def test_no_weight_is_in_memory_twice() -> None:
    original, ours = clips()
    mine, theirs = (sum(p.numel() for p in network.parameters()) for network in (ours, original))
    assert mine == theirs
    block: Any = last(ours.visual.transformer)
    storages = {layer.weight.untyped_storage().data_ptr() for layer in (block.query, block.keys_values)}
    assert len(storages) == 1


@pytest.mark.parametrize(
    ("vision", "text", "pooled"),
    [
        ({"pool_type": "avg"}, {}, (False, True)),
        ({"attentional_pool": True, "attn_pooler_heads": 2}, {}, (False, True)),
        ({"output_tokens": True}, {}, (False, True)),
        ({"qk_norm": True}, {}, (False, True)),
        ({}, {"pool_type": "last"}, (True, False)),
        ({}, {"no_causal_mask": True}, (True, False)),
    ],
)
def test_a_tower_that_is_read_in_another_way_is_left_as_it_is(
    vision: dict[str, Any], text: dict[str, Any], pooled: tuple[bool, bool]
) -> None:
    original, ours = clips(vision=vision, text=text)
    towers = (ours.visual.transformer, ours.transformer)
    assert tuple(isinstance(last(tower), PooledBlock) for tower in towers) == pooled
    if not vision.get("output_tokens"):
        pixels = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(ours.encode_image(pixels), original.encode_image(pixels), atol=1e-5, rtol=1e-5)
    tokens = SimpleTokenizer()(TEXTS)
    torch.testing.assert_close(encode_text(ours, tokens), original.encode_text(tokens), atol=1e-5, rtol=1e-5)
