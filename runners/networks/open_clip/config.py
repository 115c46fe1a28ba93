"""An open_clip model's configuration, read without open_clip: what it wants as input and how it is built."""

from __future__ import annotations

import copy
import difflib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec
from modelmora.domain.preprocess import Interpolation, Preprocess, Resize, TextPreprocess
from modelmora.errors import ModelLoadFailed
from runners.networks.json_files import Json, read_json
from runners.provider import refuse_unknown
from runners.shortening import KEY as SHORTENS
from runners.shortening import shortest

CONFIG_FILE = "open_clip_config.json"
CLIP_VOCABULARY = 49408

_RESIZES: dict[str, Resize] = {"shortest": "shortest", "longest": "longest", "squash": "exact"}
# open_clip/constants.py: what a configuration means that says nothing.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
# Arguments of the tokenizers that only choose how texts are cleaned; `trust_remote_code` and the like stay out.
_TOKENIZER_KEYS = frozenset({"clean", "strip_sep_token", "language"})


@dataclass(frozen=True, slots=True)
class Config:
    """The two halves of `open_clip_config.json`; `architecture` is open_clip's `model_cfg`."""

    architecture: Json
    preprocess: Json

    @property
    def text(self) -> Json:
        return dict(self.architecture["text_cfg"])

    @property
    def vision(self) -> Json:
        return dict(self.architecture["vision_cfg"])

    def for_building(self) -> Json:
        """A copy to build the network from; no base weights of a tower are fetched."""
        building = copy.deepcopy(self.architecture)
        if "timm_model_name" in building["vision_cfg"]:
            building["vision_cfg"]["timm_model_pretrained"] = False
        if "hf_model_name" in building["text_cfg"]:
            building["text_cfg"]["hf_model_pretrained"] = False
        return building


def read_config(spec: ModelSpec, folder: Path) -> Config:
    """The folder's `open_clip_config.json`, or the built-in one that `config: {architecture: ...}` names.

    `config: {preprocess: {...}}` overrides `mean`, `std`, `interpolation`, `resize_mode`, `fill_color`. Raises
    ModelLoadFailed naming what is missing or wrong.
    """
    refuse_unknown(spec, ("architecture", "preprocess", "quantize", SHORTENS))
    stored = read_json(spec, folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    name = spec.config.get("architecture")
    if name is None and not stored:
        raise ModelLoadFailed(f"{spec.key}: {folder.name}/{CONFIG_FILE} is not there; add it, or set architecture")
    architecture = stored.get("model_cfg") if name is None else _built_in(spec, str(name))
    _check(spec, architecture)
    preprocess = {**(stored.get("preprocess_cfg") or {}), **(spec.config.get("preprocess") or {})}
    return Config(architecture or {}, {key: value for key, value in preprocess.items() if value is not None})


def describe(spec: ModelSpec, config: Config) -> Description:
    """What the API needs to prepare input; raises ModelLoadFailed for a value that open_clip would not take."""
    try:
        dimension = int(config.architecture["embed_dim"])
        return Description(
            model=spec.key,
            dimension=dimension,
            image=_preprocess(config),
            text=TextPreprocess(
                tokenizer=_tokenizer(config), context_length=int(config.text.get("context_length", 77))
            ),
            max_batch=spec.batching.max_batch or 16,
            shortens=shortest(spec, dimension),
        )
    except (KeyError, TypeError, ValueError) as cause:
        raise ModelLoadFailed(f"{spec.key}: the open_clip configuration is not usable: {cause!r}") from cause


def tokenizer_arguments(spec: ModelSpec, config: Config) -> Json:
    """`tokenizer_kwargs`, of which only harmless ones are let through."""
    arguments: Json = config.text.get("tokenizer_kwargs") or {}
    strange = sorted(set(arguments) - _TOKENIZER_KEYS)
    if strange:
        raise ModelLoadFailed(f"{spec.key}: tokenizer_kwargs {', '.join(strange)} are not supported")
    return arguments


def _preprocess(config: Config) -> Preprocess:
    given = config.preprocess
    height, width = _pair(config.vision.get("image_size", 224))
    resize = _RESIZES[given.get("resize_mode", "shortest")]
    return Preprocess(
        resize=resize,
        height=height,
        width=width,
        interpolation=_interpolation(given, oblong_crop=resize == "shortest" and height != width),
        fill=int(given.get("fill_color", 0)),
        mean=_triple(given.get("mean", _MEAN)),
        std=_triple(given.get("std", _STD)),
    )


def _interpolation(given: Json, *, oblong_crop: bool) -> Interpolation:
    """As open_clip has it: `random` is bicubic, and a crop that is not square is always bicubic."""
    name = given.get("interpolation", "bicubic")
    if name not in ("bicubic", "bilinear", "random"):
        raise ValueError(f"interpolation {name!r}")
    return "bilinear" if name == "bilinear" and not oblong_crop else "bicubic"


def _tokenizer(config: Config) -> Any:
    plain = not config.text.get("hf_tokenizer_name") and not config.text.get("tokenizer_kwargs")
    return "clip-bpe" if plain and config.text.get("vocab_size", CLIP_VOCABULARY) == CLIP_VOCABULARY else "runner"


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _triple(value: Any) -> tuple[float, float, float]:
    red, green, blue = (value, value, value) if isinstance(value, int | float) else value
    return float(red), float(green), float(blue)


def _check(spec: ModelSpec, architecture: Any) -> None:
    wanted = ("embed_dim", "vision_cfg", "text_cfg")
    missing = [key for key in wanted if not isinstance(architecture, dict) or key not in architecture]
    if missing:
        raise ModelLoadFailed(f"{spec.key}: model_cfg in {CONFIG_FILE} lacks {', '.join(missing)}")
    if ":" in str(architecture["vision_cfg"].get("timm_model_name", "")):
        raise ModelLoadFailed(
            f"{spec.key}: a timm_model_name on a hub is not fetched; use a name that timm has built in"
        )


def _built_in(spec: ModelSpec, name: str) -> Json:
    """open_clip's own configuration of an architecture, found without importing it."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ModelLoadFailed(f"{spec.key}: open-clip-torch is not installed, which has the architecture {name!r}")
    files = {file.stem: file for file in Path(package.submodule_search_locations[0], "model_configs").glob("*.json")}
    if name not in files:
        near = difflib.get_close_matches(name, files, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ModelLoadFailed(f"{spec.key}: open_clip has no architecture {name!r}{hint}", field="config.architecture")
    return read_json(spec, files[name])
