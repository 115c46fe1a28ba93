"""How a model wants its input, as a value that a process without torch can apply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Resize = Literal["shortest", "longest", "exact", "none"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """From a picture to uint8 pixels, and what the device does with them afterwards.

    `resize` scales the shortest side (then the centre is cropped), the longest (then the rest is padded
    with `fill`, unless `pad` is false), or both (`exact`, aspect not kept). `height` and `width` are the
    result's; `shortest` is what the shortest side (of `exact`: both) is scaled to before the crop, 0: as the result's.
    `mean` and `std` are in units of 0..1 and applied on the device.
    Semantics: open_clip/transform.py, `image_transform_v2` (is_train=False); of `shortest` transformers' image
    processors; without `pad` segment_anything/utils/transforms.py, `ResizeLongestSide`.
    """

    resize: Resize
    height: int
    width: int
    interpolation: Interpolation = "bicubic"
    fill: int = 0
    shortest: int = 0
    pad: bool = True
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPreprocess:
    """From a text to token ids.

    `tokenizer` is `clip-bpe` (open_clip's SimpleTokenizer, done in the API worker), `runner` (the
    provider tokenises: the text crosses as UTF-8) or `bytes` (the raw UTF-8 is the input).
    """

    tokenizer: Literal["clip-bpe", "runner", "bytes"]
    context_length: int
