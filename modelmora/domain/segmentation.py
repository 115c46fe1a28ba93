"""What is asked of a picture to be cut out, and the masks that are answered."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from modelmora.domain.inference import Timings
from modelmora.domain.tensors import Tensor
from modelmora.errors import LimitExceeded, ValidationFailed

PROMPTS = 1_000
"""Of one request, at most."""

POINTS = 100
"""Of one prompt, at most."""

POINTS_PER_SIDE = 64
"""Of the grid over a picture, at most."""


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


def wants_three(prompt: Prompt, options: MaskOptions) -> bool:
    """Whether the prompt gets three masks."""
    if options.multimask is not None:
        return options.multimask
    return len(prompt.points) == 1 and prompt.box is None and prompt.mask is None


def check(prompt: Prompt, field: str) -> None:
    """Raises ValidationFailed for what no picture could answer; `field` is where the prompt stands in the request."""
    if not prompt.points and prompt.box is None:
        raise ValidationFailed("the prompt has neither points nor a box", field=field, expected="points, a box or both")
    check_points(len(prompt.points), f"{field}.points")
    for place, point in enumerate(prompt.points):
        _finite(f"{field}.points[{place}]", point.x, point.y)
    box = prompt.box
    if box is not None:
        _finite(f"{field}.box", box.left, box.top, box.right, box.bottom)
        if box.left >= box.right or box.top >= box.bottom:
            raise ValidationFailed(
                "the box is inverted or empty",
                field=f"{field}.box",
                found=f"({box.left:g}, {box.top:g}, {box.right:g}, {box.bottom:g})",
                expected="left < right and top < bottom",
            )


def check_inside(prompt: Prompt, field: str, *, height: int, width: int) -> None:
    """Raises ValidationFailed for what is not in a picture of this size; its edges are in it."""
    places = [(f"points[{place}]", point.x, point.y) for place, point in enumerate(prompt.points)]
    if prompt.box is not None:
        places += [("box", prompt.box.left, prompt.box.top), ("box", prompt.box.right, prompt.box.bottom)]
    for name, x, y in places:
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValidationFailed(
                f"the prompt reaches out of the picture, which is {width} wide and {height} high",
                field=f"{field}.{name}",
                found=f"({x:g}, {y:g})",
                expected=f"0 <= x <= {width} and 0 <= y <= {height}",
            )


def check_count(prompts: int) -> None:
    """Raises LimitExceeded beyond PROMPTS; a door asks before it reads them."""
    if prompts > PROMPTS:
        raise LimitExceeded(
            f"{prompts} prompts in one request", field="prompts", found=str(prompts), expected=f"at most {PROMPTS}"
        )


def check_points(points: int, field: str) -> None:
    """Raises ValidationFailed beyond POINTS; a door asks before it reads them."""
    if points > POINTS:
        expected = f"at most {POINTS}"
        raise ValidationFailed("the prompt has too many points", field=field, found=str(points), expected=expected)


def check_everything(asked: Everything) -> None:
    """Raises ValidationFailed naming the field."""
    for name, found, low, high in (
        ("points_per_side", asked.points_per_side, 1, POINTS_PER_SIDE),
        ("min_score", asked.min_score, 0, 1),
        ("min_stability", asked.min_stability, 0, 1),
        ("min_area", asked.min_area, 0, 2**31 - 1),
    ):
        if not low <= found <= high:
            expected = f"{low} to {high}"
            raise ValidationFailed(
                f"{name} is out of range", field=f"everything.{name}", found=f"{found:g}", expected=expected
            )


def _finite(field: str, *values: float) -> None:
    if not all(map(isfinite, values)):
        found = ", ".join(f"{value:g}" for value in values)
        raise ValidationFailed("a coordinate is no number", field=field, found=found, expected="finite pixels")
