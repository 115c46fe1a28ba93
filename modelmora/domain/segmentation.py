"""What is asked of a picture to be cut out, and the masks that are answered."""

from __future__ import annotations

from dataclasses import dataclass

from modelmora.domain.inference import Timings
from modelmora.domain.tensors import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """In pixels of the upright picture, from its upper left corner; `background` is not to be in the mask."""

    x: float
    y: float
    background: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """In pixels: left <= x < right, top <= y < bottom."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What to look for: points, a box, an earlier mask (`Mask.logits`), at least a point or a box."""

    id: str = ""
    points: tuple[Point, ...] = ()
    box: Box | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """A grid of points over the picture, the good masks of all of them, doubles left out.

    Defaults and meaning: segment_anything/automatic_mask_generator.py (Kirillov et al. 2023, appendix B). `min_score`
    is the least predicted overlap with the truth (IoU), `min_area` in pixels.
    """

    points_per_side: int = 32
    min_score: float = 0.88
    min_stability: float = 0.95
    min_area: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskOptions:
    """`multimask`: three masks a prompt (whole, part, subpart), the best first; None: for a single point only, which is
    ambiguous. `logits`: also what a later prompt may take."""

    multimask: bool | None = None
    logits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """`counts` is COCO's compressed run-length encoding, column by column, of the whole picture's size.

    `score` is the predicted overlap with the truth (IoU), `area` in pixels, `box` the smallest around it, `logits`
    float32 (256, 256).
    """

    counts: bytes
    score: float
    area: int
    box: Box
    stability: float | None = None
    logits: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmented:
    """The masks of one prompt, the best first, or one mask of everything; `height` and `width` are the picture's."""

    masks: tuple[Mask, ...]
    height: int
    width: int
    timings: Timings
