"""The network's shape, a part of its canvas at a time, and its folder in the form that transformers stores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch.func import functional_call
from transformers import SamConfig, SamModel

from runners.networks.sam.weights import renamed
from training.shapes_sam.scenes import SIDE

PATCH = 16
TOKENS = SIDE // PATCH
"""Along each side of the whole canvas."""

WIDTH, DEPTH, HEADS, WINDOW, EVERYWHERE = 192, 6, 6, 8, (2, 5)
CHANNELS, DECODER_MLP, IOU_WIDTH, MASK_CHANNELS = 128, 256, 128, 16

CONFIG: dict[str, Any] = {
    "vision_config": {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "mlp_dim": 4 * WIDTH,
        "window_size": WINDOW,
        "global_attn_indexes": list(EVERYWHERE),
        "image_size": SIDE,
        "patch_size": PATCH,
        "output_channels": CHANNELS,
        "num_pos_feats": CHANNELS // 2,
    },
    "prompt_encoder_config": {
        "hidden_size": CHANNELS,
        "image_size": SIDE,
        "patch_size": PATCH,
        "mask_input_channels": MASK_CHANNELS,
    },
    "mask_decoder_config": {
        "hidden_size": CHANNELS,
        "mlp_dim": DECODER_MLP,
        "num_attention_heads": 8,
        "iou_head_hidden_dim": IOU_WIDTH,
    },
}
"""As transformers' `SamConfig` takes it."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What the network sees of its canvas: `tokens` a side, from the token `top`, `left`."""

    tokens: int = TOKENS
    top: int = 0
    left: int = 0

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.tokens)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.tokens)


def build() -> Any:
    """A new network of segment_anything's modules, with random weights from torch's own generator."""
    return Sam(
        ImageEncoderViT(
            img_size=SIDE,
            patch_size=PATCH,
            embed_dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            mlp_ratio=4,
            out_chans=CHANNELS,
            qkv_bias=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=WINDOW,
            global_attn_indexes=EVERYWHERE,
        ),
        PromptEncoder(
            embed_dim=CHANNELS,
            image_embedding_size=(TOKENS, TOKENS),
            input_image_size=(SIDE, SIDE),
            mask_in_chans=MASK_CHANNELS,
        ),
        MaskDecoder(
            transformer_dim=CHANNELS,
            transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=DECODER_MLP, num_heads=8),
            iou_head_depth=3,
            iou_head_hidden_dim=IOU_WIDTH,
        ),
    )


@torch.no_grad()
def begin_with_cosines(network: Any) -> None:
    """The lowest 8 x 8 frequencies of the patches' brightness and two colors, high ones louder: all that is to be seen.

    What a random projection sees of a patch is mostly how bright it is.
    """
    steps, frequencies = torch.arange(PATCH), torch.arange(8)
    waves = torch.cos(math.pi * (2 * steps + 1) * frequencies[:, None] / (2 * PATCH)) * math.sqrt(2 / PATCH)
    waves[0] /= math.sqrt(2)
    loud = (1 + torch.hypot(*torch.meshgrid(frequencies.float(), frequencies.float(), indexing="ij"))) / PATCH
    colors = torch.nn.functional.normalize(torch.tensor([[1.0, 1, 1], [1, -1, 0], [0.5, 0.5, -1]]))
    colors[1:] *= 2
    patterns = torch.einsum("cr,ij,iy,jx->cijryx", colors, loud, waves, waves)
    network.image_encoder.patch_embed.proj.weight.copy_(patterns.reshape(WIDTH, 3, PATCH, PATCH))
    network.image_encoder.patch_embed.proj.bias.zero_()


def encode(network: Any, pixels: torch.Tensor, part: Part) -> torch.Tensor:
    """(items, channels, tokens, tokens) of normalized pixels (items, 3, side, side) that lie at `part`.

    What the encoder knows of places is cut to the part, so a small part trains the same weights as the whole.
    """
    encoder = network.image_encoder
    cut = {"pos_embed": encoder.pos_embed[:, part.rows, part.columns]}
    reach = slice(TOKENS - part.tokens, TOKENS + part.tokens - 1)
    for block in EVERYWHERE:
        for name in (f"blocks.{block}.attn.rel_pos_h", f"blocks.{block}.attn.rel_pos_w"):
            cut[name] = encoder.get_parameter(name)[reach]
    features: torch.Tensor = functional_call(encoder, cut, (pixels,))
    return features


def decode(
    network: Any,
    features: torch.Tensor,
    part: Part,
    *,
    points: tuple[torch.Tensor, torch.Tensor] | None,
    boxes: torch.Tensor | None,
    masks: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """All four masks (prompts, 4, h, w) of prompts on one picture (1, channels, tokens, tokens), and their scores.

    The first is the one for prompts that are clear, the others are whole, part and subpart. Places are in pixels of
    the part.
    """
    shift = torch.tensor([part.left, part.top], dtype=torch.float32) * PATCH
    sparse, dense = network.prompt_encoder(
        points=None if points is None else (points[0] + shift, points[1]),
        boxes=None if boxes is None else boxes + shift.repeat(2),
        masks=masks,
    )
    positions = network.prompt_encoder.get_dense_pe()[:, :, part.rows, part.columns]
    with torch.autocast("cpu", torch.bfloat16, enabled=network.training):  # not where the places become waves
        logits, scores = network.mask_decoder.predict_masks(
            image_embeddings=features,
            image_pe=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense[:, :, : part.tokens, : part.tokens],
        )
    return logits.float(), scores.float()


def save(state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Writes `config.json` and the weights in half precision, by transformers' names."""
    model = SamModel(SamConfig(**CONFIG))
    names = list(model.state_dict())
    places = renamed({name: torch.tensor([place]) for place, name in enumerate(names)})
    model.load_state_dict({names[int(place)]: state[name] for name, place in places.items()}, strict=False)
    torch.nn.Module.half(model)
    model.save_pretrained(folder)
