"""What a SAM folder says of itself: the size that pictures are scaled to, from transformers' `config.json` if any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ByteSize, Field, TypeAdapter, ValidationError

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec
from modelmora.domain.preprocess import Preprocess
from modelmora.errors import ModelLoadFailed
from runners.networks.json_files import read_json
from runners.provider import refuse_unknown

CONFIG = "config.json"
SIDE = 1024
"""The longest side of a picture, in pixels, where no configuration says otherwise: of every published SAM."""

PATCH = 16
MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
"""segment_anything/build_sam.py, in units of 0..1."""

CACHE = "64MiB"
KNOWN = ("cache",)

_SIZE: TypeAdapter[ByteSize] = TypeAdapter(Annotated[ByteSize, Field(ge=0)])
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "vision_config": {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "num_channels": 3,
        "patch_size": PATCH,
        "use_abs_pos": True,
        "use_rel_pos": True,
    },
    "prompt_encoder_config": {"hidden_act": "gelu", "num_point_embeddings": 4, "patch_size": PATCH},
    "mask_decoder_config": {"hidden_act": "relu", "num_multimask_outputs": 3, "iou_head_depth": 3},
}
"""What segment_anything builds in; a configuration that says otherwise is of another network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamConfig:
    """`side` in pixels, `cache_bytes` of pictures' embeddings; the rest of a network is told by its weights."""

    side: int = SIDE
    decoder_heads: int = 8
    cache_bytes: int = 64 * 2**20


def read_config(spec: ModelSpec, folder: Path) -> SamConfig:
    """Raises ModelLoadFailed naming the field that cannot be."""
    refuse_unknown(spec, KNOWN)
    cache = _bytes(spec, spec.config.get("cache", CACHE))
    if not (folder / CONFIG).is_file():
        return SamConfig(cache_bytes=cache)
    told = read_json(spec, folder / CONFIG)
    _refuse_foreign(spec, told)
    side = _whole(spec, told, "vision_config.image_size", SIDE)
    if side % PATCH:
        raise _unfit(spec, "vision_config.image_size", side, f"a multiple of {PATCH}")
    heads = _whole(spec, told, "mask_decoder_config.num_attention_heads", 8)
    return SamConfig(side=side, decoder_heads=heads, cache_bytes=cache)


def describe(spec: ModelSpec, config: SamConfig) -> Description:
    """Pictures are scaled by their longest side and not padded: the network pads by itself."""
    image = Preprocess(
        resize="longest",
        height=config.side,
        width=config.side,
        interpolation="bilinear",
        pad=False,
        mean=MEAN,
        std=STD,
    )
    return Description(model=spec.key, image=image, max_batch=spec.batching.max_batch or 1)


def _refuse_foreign(spec: ModelSpec, told: Mapping[str, Any]) -> None:
    if told.get("model_type") != "sam":
        raise _unfit(spec, "model_type", told.get("model_type"), "sam")
    for part, fixed in _FIXED.items():
        for name, expected in fixed.items():
            found = _part(spec, told, part).get(name, expected)
            if found != expected:
                raise _unfit(spec, f"{part}.{name}", found, expected)


def _part(spec: ModelSpec, told: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    found = told.get(part) or {}
    if not isinstance(found, dict):
        raise _unfit(spec, part, found, "an object")
    return found


def _whole(spec: ModelSpec, told: Mapping[str, Any], place: str, usual: int) -> int:
    part, _, name = place.partition(".")
    found = _part(spec, told, part).get(name, usual)
    if type(found) is not int or not 1 <= found <= 4096:
        raise _unfit(spec, place, found, "a whole number from 1 to 4096")
    return found


def _unfit(spec: ModelSpec, place: str, found: object, expected: object) -> ModelLoadFailed:
    said = f"{spec.key}: {CONFIG} says {place} = {found!r}; provider sam runs {expected}"
    return ModelLoadFailed(said, field=place, found=repr(found)[:80], expected=str(expected))


def _bytes(spec: ModelSpec, value: object) -> int:
    """A size such as 67108864 or 64MiB; 0 keeps nothing."""
    try:
        return _SIZE.validate_python(value)
    except ValidationError as cause:
        takes = "bytes as a number or a size such as 64MiB"
        raise ModelLoadFailed(
            f"{spec.key}: config.cache takes {takes}, not {value!r}",
            field="config.cache",
            found=repr(value)[:80],
            expected=takes,
        ) from cause
