"""What transformers' image processors do to a picture, as a Preprocess: read from their file, without transformers."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

from modelmora.domain.models import ModelSpec
from modelmora.domain.preprocess import Interpolation, Preprocess, Resize
from modelmora.errors import ModelLoadFailed
from runners.networks.json_files import Json, read_json

Triple: TypeAlias = tuple[float, float, float]
"""Of red, green and blue."""

FILE = "preprocessor_config.json"
MAX_SIDE = 4096
"""Of what is made of a picture, in pixels."""

_CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_SQUARE = {"size": {"height": 224, "width": 224}}
_CROPPED = {"crop_size": {"height": 224, "width": 224}, "do_center_crop": True}

DEFAULTS: Mapping[str, Json] = MappingProxyType(
    {
        "Beit": {**_SQUARE, **_CROPPED, **_HALF, "do_center_crop": False, "resample": 3},
        "Bit": {"size": {"shortest_edge": 224}, **_CROPPED, **_CLIP, "resample": 3},
        "CLIP": {"size": {"shortest_edge": 224}, **_CROPPED, **_CLIP, "resample": 3},
        "ConvNext": {"size": {"shortest_edge": 384}, **_HALF, "resample": 3, "crop_pct": 224 / 256},
        "DeiT": {"size": {"height": 256, "width": 256}, **_CROPPED, **_HALF, "resample": 3},
        "MobileNetV1": {"size": {"shortest_edge": 256}, **_CROPPED, **_HALF, "resample": 2},
        "MobileNetV2": {"size": {"shortest_edge": 256}, **_CROPPED, **_HALF, "resample": 2},
        "Pvt": {**_SQUARE, **_IMAGENET, "resample": 3},
        "Segformer": {"size": {"height": 512, "width": 512}, **_IMAGENET, "resample": 2},
        "Siglip": {**_SQUARE, **_HALF, "resample": 3},
        "ViT": {**_SQUARE, **_HALF, "resample": 2},
    }
)
"""What a processor does of which the file says nothing: transformers 5, models/*/image_processing_pil_*.py."""

_ALWAYS: Json = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_pad": False,
}
_KEYS = (*_ALWAYS, "size", "crop_size", "crop_pct", "resample", "image_mean", "image_std")
_BY_SHORTEST = frozenset({"Bit", "CLIP", "ConvNext", "MobileNetV1", "MobileNetV2", "Siglip"})
"""A size that is one number is the shortest side's; the others make a square of it."""

PROCESSOR_OF: Mapping[str, str] = MappingProxyType(
    {
        "beit": "Beit",
        "bit": "Bit",
        "clip": "CLIP",
        "convnext": "ConvNext",
        "convnextv2": "ConvNext",
        "cvt": "ConvNext",
        "data2vec-vision": "Beit",
        "deit": "DeiT",
        "dinov2": "Bit",
        "dinov2_with_registers": "Bit",
        "focalnet": "Bit",
        "hiera": "Bit",
        "mobilenet_v1": "MobileNetV1",
        "mobilenet_v2": "MobileNetV2",
        "pvt": "Pvt",
        "pvt_v2": "Pvt",
        "regnet": "ConvNext",
        "resnet": "ConvNext",
        "segformer": "Segformer",
        "siglip": "Siglip",
        "swiftformer": "ViT",
        "swin": "ViT",
        "swinv2": "ViT",
        "vit": "ViT",
        "vit_msn": "ViT",
    }
)
"""The processor of a family, for files that name none: transformers 5, models/auto/image_processing_auto.py."""

_FILTERS: Mapping[int, Interpolation] = MappingProxyType({0: "nearest", 2: "bilinear", 3: "bicubic"})
"""By Pillow's numbers."""

_WARPED_FROM = 384
"""From this size on ConvNext's processor scales both sides and crops nothing (image_processing_pil_convnext.py)."""


def read_preprocess(spec: ModelSpec, folder: Path, family: str) -> Preprocess:
    """The processor's values in the folder, over them those of `config: {preprocess: {...}}`, under them its defaults.

    `family` is the `model_type`, for files that do not name their processor. Raises ModelLoadFailed naming the field
    that a Preprocess has no words for.
    """
    overrides = _overrides(spec)
    stored = _stored(spec, folder, needed=not overrides)
    kind = _kind(spec, stored, family)
    given = {**_ALWAYS, **DEFAULTS[kind], **_present(stored), **_present(overrides)}
    processor = Processor(spec, kind, given)
    mean, std = processor.normalisation()
    resize, height, width, shortest = processor.sizes()
    return Preprocess(
        resize=resize,
        height=height,
        width=width,
        shortest=shortest,
        interpolation=processor.interpolation(),
        mean=mean,
        std=std,
    )


def _present(values: Mapping[str, Any]) -> Json:
    """Nothing where the file says null: transformers takes its default then."""
    return {key: value for key, value in values.items() if value is not None}


def _stored(spec: ModelSpec, folder: Path, *, needed: bool) -> Json:
    if (folder / FILE).is_file():
        return read_json(spec, folder / FILE)
    if needed:
        said = f"{folder.name}/{FILE} is not there; put it beside the weights, or declare config.preprocess"
        raise ModelLoadFailed(f"{spec.key}: {said}")
    return {}


def _overrides(spec: ModelSpec) -> Json:
    given = spec.config.get("preprocess") or {}
    if not isinstance(given, Mapping):
        raise ModelLoadFailed(f"{spec.key}: config.preprocess is no mapping", field="config.preprocess")
    for key in given:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(_KEYS)}"
            raise ModelLoadFailed(
                f"{spec.key}: config.preprocess has no key {key!r}; {hint}", field=f"config.preprocess.{key}"
            )
    return dict(given)


def _kind(spec: ModelSpec, stored: Json, family: str) -> str:
    """`BitImageProcessorFast`, `BitFeatureExtractor` ... are all Bit."""
    named = stored.get("image_processor_type") or stored.get("feature_extractor_type")
    kind = PROCESSOR_OF.get(family, "")
    if named:
        kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", str(named))
    if kind in DEFAULTS:
        return kind
    what = f"image processor {named!r}" if named else f"image processor of {family!r}"
    raise ModelLoadFailed(
        f"{spec.key}: the {what} is not supported; those of {', '.join(DEFAULTS)} are",
        field=f"{FILE}: image_processor_type",
        found=str(named),
        expected=", ".join(f"{name}ImageProcessor" for name in DEFAULTS),
    )


@dataclass(frozen=True, slots=True)
class Processor:
    """One processor's values, its defaults filled in; each method raises ModelLoadFailed naming a field."""

    spec: ModelSpec
    kind: str
    given: Json

    def sizes(self) -> tuple[Resize, int, int, int]:
        """How it resizes, the height and width it gives, and what the shortest side is scaled to before the crop."""
        if not self.given["do_resize"]:
            self._refuse("do_resize", "true: pictures have any size")
        if self.given["do_pad"]:
            self._refuse("do_pad", "false")
        size = self._size("size")
        if self.kind == "ConvNext":
            return self._by_share(size)
        if not self.given["do_center_crop"]:
            return self._whole(size)
        return self._cropped(size)

    def interpolation(self) -> Interpolation:
        number = self.given["resample"]
        if not isinstance(number, int) or number not in _FILTERS:
            self._refuse("resample", "0 (nearest), 2 (bilinear) or 3 (bicubic)")
        return _FILTERS[number]

    def normalisation(self) -> tuple[Triple, Triple]:
        """Mean and deviation in units of 0..1, whatever the processor scales pixels to before it applies its own."""
        factor = 255 * self._number("rescale_factor") if self.given["do_rescale"] else 255.0
        scale = 1.0 if math.isclose(factor, 1.0, rel_tol=1e-9) else factor
        normal = bool(self.given["do_normalize"])
        mean = self._three("image_mean") if normal else (0.0, 0.0, 0.0)
        std = self._three("image_std") if normal else (1.0, 1.0, 1.0)
        if not scale > 0:
            self._refuse("rescale_factor", "a number above 0")
        if not min(std) > 0:
            self._refuse("image_std", "numbers above 0")
        return _divided(mean, scale), _divided(std, scale)

    def _whole(self, size: Json) -> tuple[Resize, int, int, int]:
        if "height" not in size:
            self._refuse("do_center_crop", "true where only the shortest side has a size: pictures differ in the other")
        return "exact", size["height"], size["width"], 0

    def _cropped(self, size: Json) -> tuple[Resize, int, int, int]:
        crop = self._size("crop_size")
        if "height" not in crop:
            self._refuse("crop_size", "a height and a width")
        height, width = crop["height"], crop["width"]
        before = size.get("shortest_edge") or size["height"]
        if size.get("width", before) != before:
            self._refuse("size", "a square where the centre is cropped")
        if max(height, width) > before:
            self._refuse("crop_size", f"no more than the {before} that are there before the crop")
        return "shortest" if "shortest_edge" in size else "exact", height, width, before

    def _by_share(self, size: Json) -> tuple[Resize, int, int, int]:
        """ConvNext's: a share of the picture is kept, unless it is large."""
        if self.given["do_center_crop"]:
            self._refuse("do_center_crop", "false for a ConvNextImageProcessor, which crops by crop_pct")
        if "shortest_edge" not in size:
            self._refuse("size", "a shortest_edge")
        edge, share = size["shortest_edge"], self._number("crop_pct")
        if edge >= _WARPED_FROM:
            return "exact", edge, edge, 0
        if not 0 < share <= 1 or edge / share > MAX_SIDE:
            self._refuse("crop_pct", "a share, above 0 and at most 1")
        return "shortest", edge, edge, int(edge / share)

    def _size(self, name: str) -> Json:
        """`{height, width}` or `{shortest_edge}`; older files have one number, or two."""
        value = self.given.get(name)
        if isinstance(value, int):
            shortest = name == "size" and self.kind in _BY_SHORTEST
            value = {"shortest_edge": value} if shortest else {"height": value, "width": value}
        elif isinstance(value, list | tuple) and len(value) == 2:
            value = {"height": value[0], "width": value[1]}
        found = _present(value) if isinstance(value, Mapping) else {}
        sides = all(type(side) is int and 0 < side <= MAX_SIDE for side in found.values())
        if found.keys() not in ({"shortest_edge"}, {"height", "width"}) or not sides:
            self._refuse(name, f"shortest_edge, or height and width, from 1 to {MAX_SIDE}")
        return found

    def _number(self, name: str) -> float:
        value = self.given[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self._refuse(name, "a number")
        return float(value)

    def _three(self, name: str) -> Triple:
        value = self.given[name]
        values = [value] * 3 if isinstance(value, int | float) else value
        numbers = isinstance(values, list | tuple) and len(values) == 3
        if not numbers or not all(isinstance(each, int | float) and math.isfinite(each) for each in values):
            self._refuse(name, "three numbers: red, green, blue")
        red, green, blue = values
        return float(red), float(green), float(blue)

    def _refuse(self, name: str, expected: str) -> NoReturn:
        found: Any = self.given.get(name)
        raise ModelLoadFailed(
            f"{self.spec.key}: {FILE}: {name} is {str(found)[:80]}, which cannot be served; it takes {expected}",
            field=f"{FILE}: {name}",
            found=str(found)[:80],
            expected=expected,
        )


def _divided(values: Triple, by: float) -> Triple:
    red, green, blue = values
    return red / by, green / by, blue / by
