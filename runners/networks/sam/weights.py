"""The weights of a SAM: where they are, and by the names of segment_anything whichever library stored them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed
from runners.networks.weights import State

FILES = ("model.safetensors", "pytorch_model.bin")
"""As transformers stores them; a folder with one file `*.pth` is as segment_anything publishes them."""

_FREQUENCIES = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_RENAMED: tuple[tuple[str, str], ...] = (
    (r"^shared_image_embedding\.positional_embedding$", _FREQUENCIES),
    (r"^prompt_encoder\.shared_embedding\.positional_embedding$", _FREQUENCIES),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
    (r"\.neck\.conv1\.", ".neck.0."),
    (r"\.neck\.layer_norm1\.", ".neck.1."),
    (r"\.neck\.conv2\.", ".neck.2."),
    (r"\.neck\.layer_norm2\.", ".neck.3."),
    (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
    (r"\.mask_embed\.layer_norm1\.", ".mask_downscaling.1."),
    (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
    (r"\.mask_embed\.layer_norm2\.", ".mask_downscaling.4."),
    (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
    (r"\.point_embed\.", ".point_embeddings."),
    (r"\.upscale_conv1\.", ".output_upscaling.0."),
    (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
    (r"\.upscale_conv2\.", ".output_upscaling.3."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.0\.", r"\1.layers.1."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.proj_in\.", r"\1.layers.0."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.proj_out\.", r"\1.layers.2."),
    (r"\.layer_norm", ".norm"),
)
"""From transformers' names, in this order; the reverse of transformers' convert_sam_to_hf.py."""

_BLOCK = re.compile(r"^image_encoder\.blocks\.(\d+)\.")
_LAYER = re.compile(r"^mask_decoder\.transformer\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a network of these weights is built with; lengths in tokens, `window` 0 where all blocks are global."""

    side: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    window: int
    global_blocks: tuple[int, ...]
    channels: int
    mask_channels: int
    decoder_depth: int
    decoder_mlp: int
    iou_width: int


def find_weights(spec: ModelSpec, folder: Path) -> Path:
    """The folder's weights file; raises ModelLoadFailed saying what is taken."""
    found = next((folder / name for name in FILES if (folder / name).is_file()), None)
    checkpoints = sorted(folder.glob("*.pth"))
    if found is None and len(checkpoints) == 1:
        return checkpoints[0]
    if found is None:
        there = f"{len(checkpoints)} files *.pth" if checkpoints else "none of them"
        raise ModelLoadFailed(f"{spec.key}: {folder.name} needs {', '.join(FILES)} or one file *.pth; it has {there}")
    return found


def renamed(state: Mapping[str, Tensor]) -> State:
    """By segment_anything's names. transformers stores the frequencies of positions once or twice: they are one."""
    if not any(name.startswith("vision_encoder.") for name in state):
        return dict(state)
    return {_rename(name): tensor for name, tensor in state.items()}


def shape_of(spec: ModelSpec, state: Mapping[str, Tensor]) -> Shape:
    """Raises ModelLoadFailed for weights that are no SAM's."""
    try:
        return _shape(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as cause:
        said = "the weights are not those of a segment-anything network"
        raise ModelLoadFailed(f"{spec.key}: {said}: {type(cause).__name__} {cause}") from cause


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _shape(state: Mapping[str, Tensor]) -> Shape:
    _, tokens, _, width = state["image_encoder.pos_embed"].shape
    patch = state["image_encoder.patch_embed.proj.weight"].shape[-1]
    depth = _count(_BLOCK, state)
    reach = [len(state[f"image_encoder.blocks.{i}.attn.rel_pos_h"]) for i in range(depth)]
    everywhere = 2 * tokens - 1
    windows = {(length + 1) // 2 for length in reach if length != everywhere}
    if len(windows) > 1:
        raise ValueError(f"windows of {sorted(windows)} tokens")
    return Shape(
        side=tokens * patch,
        patch=patch,
        width=width,
        depth=depth,
        heads=width // state["image_encoder.blocks.0.attn.rel_pos_h"].shape[1],
        mlp_ratio=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
        window=windows.pop() if windows else 0,
        global_blocks=tuple(i for i, length in enumerate(reach) if length == everywhere),
        channels=state["image_encoder.neck.0.weight"].shape[0],
        mask_channels=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        decoder_depth=_count(_LAYER, state),
        decoder_mlp=state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        iou_width=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
    )


def _count(pattern: re.Pattern[str], state: Mapping[str, Tensor]) -> int:
    return 1 + max(int(found[1]) for name in state if (found := pattern.match(name)))
