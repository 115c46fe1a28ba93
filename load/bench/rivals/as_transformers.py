"""An open_clip model's folder in the form of transformers' CLIP, which infinity serves: the same weights, renamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file

MODEL, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_WHOLE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",  # as transformers spells it
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def write(source: Path, folder: Path) -> Path:
    """Makes `folder` a model that `AutoModel` and `AutoProcessor` read, where it is not yet, and returns it."""
    if (folder / PROCESSOR).exists():  # written last
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    told = json.loads((source / "open_clip_config.json").read_text())
    weights = load_file(source / "open_clip_model.safetensors")
    renamed = {new: weight.clone() for name, weight in weights.items() for new, weight in _renamed(name, weight)}
    save_file(renamed, folder / MODEL, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(_config(told["model_cfg"])))
    _write_tokenizer(folder)
    (folder / PROCESSOR).write_text(json.dumps(_processor(told["preprocess_cfg"])))
    return folder


def _renamed(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Those of transformers' that a weight becomes; attention's three are one in open_clip."""
    owner, _, kind = name.rpartition(".")
    if name in _WHOLE:
        yield _WHOLE[name], weight
    elif name in _PROJECTIONS:
        yield _PROJECTIONS[name], weight.T.contiguous()
    elif owner in _NORMS:
        yield f"{_NORMS[owner]}.{kind}", weight
    elif ".resblocks." in f".{name}":
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        number, _, part = name.partition("resblocks.")[2].partition(".")
        layer = f"{tower}.encoder.layers.{number}"
        if part.startswith("attn.in_proj_"):
            for which, third in zip("qkv", weight.chunk(3), strict=True):
                yield f"{layer}.self_attn.{which}_proj.{part.removeprefix('attn.in_proj_')}", third.contiguous()
        else:
            yield f"{layer}.{_LAYER[part.rpartition('.')[0]]}.{kind}", weight


def _write_tokenizer(folder: Path) -> None:
    own = SimpleTokenizer()
    spelt = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {spelt.get(token, token): number for token, number in own.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in own.bpe_ranks)]))
    start, end = spelt.values()
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    told = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def _config(model: dict[str, Any]) -> dict[str, Any]:
    vision, text = model["vision_cfg"], model["text_cfg"]
    width = vision["width"]
    towers = {
        "vision_config": {
            "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": vision["layers"],
            "num_attention_heads": width // 64, "image_size": vision["image_size"], "patch_size": vision["patch_size"],
            "hidden_act": "gelu", "projection_dim": model["embed_dim"],
        },
        "text_config": {
            "hidden_size": text["width"], "intermediate_size": 4 * text["width"], "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"], "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"], "hidden_act": "gelu", "projection_dim": model["embed_dim"],
        },
    }  # fmt: skip
    same = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": model["embed_dim"]}
    return {**same, **towers, "torch_dtype": "float32"}


def _processor(told: dict[str, Any]) -> dict[str, Any]:
    size = told["size"] if isinstance(told["size"], int) else told["size"][0]
    return {
        "processor_class": "CLIPProcessor", "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True, "do_resize": True, "size": {"shortest_edge": size}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": size, "width": size}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": told["mean"], "image_std": told["std"],
    }  # fmt: skip
