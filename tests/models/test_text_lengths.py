"""A text costs as many positions as it has, and its vector is that of all positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer

from runners.networks.open_clip.texts import encode_text

TEXTS = ["", "a", "a red circle", "a photograph of a cat that looks at a dog " * 2, "word " * 200]


@pytest.fixture
def clip() -> CLIP:
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 16}
    return CLIP(16, vision_cfg=vision, text_cfg={"layers": 3, "width": 32, "heads": 2}).eval()


def ids(*texts: str) -> torch.Tensor:
    tokens: torch.Tensor = SimpleTokenizer()(list(texts))
    return tokens


@pytest.mark.parametrize("texts", [TEXTS, *([text] for text in TEXTS)], ids=["together", *map(str, range(len(TEXTS)))])
def test_vectors_are_those_of_all_positions(clip: CLIP, texts: list[str]) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(encode_text(clip, ids(*texts)), clip.encode_text(ids(*texts)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("texts", "positions"), [(["a red circle"], 8), (["a red circle", "word " * 30], 32), (["word " * 200], 77)]
)
def test_no_more_positions_are_computed_than_the_longest_text_has(clip: CLIP, texts: list[str], positions: int) -> None:
    seen: list[int] = []
    clip.transformer.resblocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    with torch.inference_mode():
        encode_text(clip, ids(*texts))
    assert seen == [positions]


@pytest.mark.parametrize("change", [{"no_causal_mask": True}, {"pool_type": "last"}])
def test_a_tower_that_looks_ahead_reads_everything(change: dict[str, Any]) -> None:
    vision = {"layers": 1, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 16}
    clip = CLIP(16, vision_cfg=vision, text_cfg={"layers": 1, "width": 32, "heads": 2, **change}).eval()
    with torch.inference_mode():
        assert torch.equal(encode_text(clip, ids("a")), clip.encode_text(ids("a")))
