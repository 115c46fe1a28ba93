"""Small SAMs with random weights, in both formats they are published in, and what the reference library says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from transformers import SamConfig, SamModel

from modelmora.domain.models import ModelSpec
from modelmora.domain.segmentation import Mask, MaskOptions, Prompt, wants_three
from runners.inputs.everything import choosing
from runners.networks.sam.weights import renamed

SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 3, "num_heads": 2, "window_size": 7, "global_attn_indexes": (1,)}


def photograph(name: str) -> NDArray[np.uint8]:
    """One that ships with scikit-image."""
    pixels: NDArray[np.uint8] = getattr(skimage.data, name)()
    return pixels


def build(side: int = 1024, *, seed: int = 0, **changes: Any) -> Sam:
    """segment_anything's network: the encoder small, prompt encoder and decoder as published."""
    tokens = side // 16
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = ImageEncoderViT(
            img_size=side,
            patch_size=16,
            out_chans=256,
            use_rel_pos=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            **{**SMALL, **changes},
        )
        prompts = PromptEncoder(
            embed_dim=256, image_embedding_size=(tokens, tokens), input_image_size=(side, side), mask_in_chans=16
        )
        transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
        sam = Sam(encoder, prompts, MaskDecoder(transformer_dim=256, transformer=transformer))
        _shake(sam)
    return sam.eval().requires_grad_(False)


def _shake(sam: Sam) -> None:
    """Positions that a new network leaves at zero, masks of some contrast, and scores as a trained one has them."""
    for name, weight in sam.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            torch.nn.init.normal_(weight, std=0.1)
    for mlp in sam.mask_decoder.output_hypernetworks_mlps:
        torch.nn.init.normal_(mlp.layers[-1].weight, std=0.5)
    torch.nn.init.constant_(sam.mask_decoder.iou_prediction_head.layers[-1].bias, 0.88)


def checkpoint(folder: Path, sam: Sam, name: str = "sam_vit_b_01ec64.pth") -> Path:
    """A folder with segment_anything's own kind of file."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(sam.state_dict(), folder / name)
    return folder


def hub_folder(folder: Path, side: int = 1024, *, seed: int = 0) -> SamModel:
    """A folder as the hub has it; transformers' own network."""
    vision = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "window_size": 7,
        "global_attn_indexes": [1],
        "image_size": side,
        "initializer_range": 0.2,
    }
    config = SamConfig(vision_config=vision, prompt_encoder_config={"image_size": side}, mask_decoder_config={})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SamModel(config)
        for name, weight in model.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                torch.nn.init.normal_(weight, std=0.1)
            if "hypernetworks" in name and "proj_out.weight" in name:
                torch.nn.init.normal_(weight, std=0.5)
    model.train(False).save_pretrained(folder)
    return model


def hub_like(folder: Path, sam: Sam, *, pickled: bool = False) -> Path:
    """A folder as the hub has it, with the weights of segment_anything's network."""
    theirs = hub_folder(folder, sam.image_encoder.img_size)
    names, own = list(theirs.state_dict()), sam.state_dict()
    ours = renamed({name: torch.tensor([place]) for place, name in enumerate(names)})
    places = {name: int(place) for name, place in ours.items()}
    state = {names[place]: own[name] for name, place in places.items()}
    theirs.load_state_dict(state, strict=False)
    theirs.save_pretrained(folder)
    if pickled:
        torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


def json_of(config: dict[str, Any]) -> str:
    return json.dumps(config)


def spec(**changes: Any) -> ModelSpec:
    given = {
        "name": "tested",
        "version": "1.0.0",
        "type": "segmentation",
        "provider": "sam",
        "source": "file:tested",
    }
    return ModelSpec(**{**given, **changes})


def chosen(masks: Sequence[Mask], *, min_area: int, height: int, width: int) -> list[Mask]:
    """The masks of everything that are left, all at once."""
    steps = choosing(masks, min_area=min_area, height=height, width=width)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return [mask for _, mask in end.value]


def reference(
    sam: Sam, pixels: NDArray[np.uint8], prompts: list[Prompt], options: MaskOptions | None = None
) -> list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]]:
    """What `SamPredictor` gives for each prompt alone: logits at full size, scores, small logits."""
    predictor = SamPredictor(sam)
    predictor.set_image(pixels)
    return [_predicted(predictor, prompt, options or MaskOptions()) for prompt in prompts]


def _predicted(predictor: SamPredictor, prompt: Prompt, options: MaskOptions) -> Any:
    side = predictor.model.image_encoder.img_size // 4
    points, box, mask = prompt.points, prompt.box, prompt.mask
    return predictor.predict(
        point_coords=np.array([(p.x, p.y) for p in points]) if points else None,
        point_labels=np.array([int(not p.background) for p in points]) if points else None,
        box=np.array((box.left, box.top, box.right, box.bottom)) if box else None,
        mask_input=np.frombuffer(mask.data, "<f4").reshape(1, side, side) if mask else None,
        multimask_output=wants_three(prompt, options),
        return_logits=True,
    )
