"""Building a SAM of segment_anything's modules and filling it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)
from segment_anything.modeling import Sam as Network
from torch import nn

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed
from runners.networks import exhaustion
from runners.networks.cores import use_threads
from runners.networks.linears import pack_linears
from runners.networks.sam.attention import slim
from runners.networks.sam.config import SamConfig
from runners.networks.sam.forward import Sam
from runners.networks.sam.weights import Shape, find_weights, renamed, shape_of
from runners.networks.transfer import settle
from runners.networks.weights import Uninitialised, Weights, copy_weights, read_weights, refuse_misfits
from runners.provider import Tell


def load_network(
    spec: ModelSpec,
    config: SamConfig,
    folder: Path,
    *,
    description: Description,
    device: str,
    threads: int = 0,
    tell: Tell | None = None,
) -> Sam:
    """Raises ModelLoadFailed, ArtifactCorrupt, OutOfMemory."""
    read = read_weights(spec, find_weights(spec, folder))
    weights = Weights(renamed(read.state), read.forget)
    shape = shape_of(spec, weights.state)
    if shape.side != config.side:
        said = f"the weights are for pictures of {shape.side} pixels, the configuration says {config.side}"
        raise ModelLoadFailed(f"{spec.key}: {said}", field="vision_config.image_size")
    with exhaustion.told_as_one(f"{spec.key} does not fit on {device} beside what is there already"):
        use_threads(threads)
        network = _build(spec, shape, config.decoder_heads, device)
        wanted = network.state_dict()
        refuse_misfits(spec, wanted, weights.state)
        copy_weights(wanted, weights, tell)
        slim(network.image_encoder)
        if device == "cpu":
            pack_linears(network, torch.float32)
        settle(device)
        return Sam(network, description, device=device, threads=threads, cache_bytes=config.cache_bytes)


def _build(spec: ModelSpec, shape: Shape, decoder_heads: int, device: str) -> Any:
    """The network on its device, its weights not set yet."""
    try:
        with Uninitialised():
            network = Network(_encoder(shape), _prompts(shape), _decoder(shape, decoder_heads))
    except Exception as cause:  # weights can have any shape, and asking for a device can fail in its own ways
        if exhaustion.is_out_of_memory(cause):
            raise
        raise ModelLoadFailed(f"{spec.key}: the network cannot be built: {cause}") from cause
    return network.to(device).eval().requires_grad_(False)


def _encoder(shape: Shape) -> nn.Module:
    encoder: nn.Module = ImageEncoderViT(
        depth=shape.depth,
        embed_dim=shape.width,
        img_size=shape.side,
        mlp_ratio=shape.mlp_ratio,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=shape.heads,
        patch_size=shape.patch,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=shape.global_blocks,
        window_size=shape.window,
        out_chans=shape.channels,
    )
    return encoder


def _prompts(shape: Shape) -> nn.Module:
    tokens = shape.side // shape.patch
    encoder: nn.Module = PromptEncoder(
        embed_dim=shape.channels,
        image_embedding_size=(tokens, tokens),
        input_image_size=(shape.side, shape.side),
        mask_in_chans=shape.mask_channels,
    )
    return encoder


def _decoder(shape: Shape, heads: int) -> nn.Module:
    decoder: nn.Module = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(
            depth=shape.decoder_depth, embedding_dim=shape.channels, mlp_dim=shape.decoder_mlp, num_heads=heads
        ),
        transformer_dim=shape.channels,
        iou_head_depth=3,
        iou_head_hidden_dim=shape.iou_width,
    )
    return decoder
