"""What a model is asked to segment, and its masks, as parcels that cross the hop; without torch.

Asked: `digest` (32,) of the picture and how it is prepared (empty: not to be kept), `size` (2,) its height and width,
`pixels` uint8 (h, w, 3) of the scaled picture unless the model is thought to know it; `points` (prompts, n, 2) and
`boxes` (prompts, 4) in the picture's own pixels, `labels` (prompts, n) as segment_anything has them (ABSENT where a
prompt has fewer points, NaN in the boxes of those that have none), `masks` (m, h, w) of the prompts `masked` (m,).
Of masks found before, `which` (prompts,) of their prompt's masks they were, where only their logits are asked for.
Options: `multimask` for each prompt, `logits`, `more` where further questions about the picture follow in the same
`sitting`, and of `everything` the thresholds that masks have to pass.

Answered: for each mask its prompt (`of`), `counts`, `scores`, `areas`, `boxes`, and `logits` where they were asked for;
of everything also `which` of the prompt's masks it is, and `stability`; to `which` only `of` and `logits`. Or the
option `unknown`: the picture is not known (any more), it is to be sent with its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from modelmora.domain.segmentation import Box, Everything, Mask, MaskOptions, Prompt, wants_three
from modelmora.domain.tensors import Tensor
from modelmora.errors import ValidationFailed
from runners.inputs.arrays import to_array, to_tensor
from runners.payload import Parcel

if TYPE_CHECKING:
    from numpy.typing import NDArray

ABSENT = -10
FOREGROUND, BACKGROUND = 1, 0

LARGEST = 1e6
"""A logit of an earlier mask: a thousand times what a network gives, and far from where it would overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Which picture, its height and width, its pixels where they are sent along, and whether `more` will be asked in
    this `sitting`."""

    digest: bytes
    size: tuple[int, int]
    pixels: NDArray[np.uint8] | None = None
    more: bool = False
    sitting: str = ""


def asking(picture: Picture, prompts: Sequence[Prompt], options: MaskOptions) -> Parcel:
    """The masks of prompts, which are valid."""
    points, labels = _points(prompts)
    tensors: dict[str, Any] = {
        **_of_picture(picture),
        "points": points,
        "labels": labels,
        "boxes": np.array([_corners(prompt.box) for prompt in prompts], dtype=np.float64).reshape(-1, 4),
    }
    masked = [index for index, prompt in enumerate(prompts) if prompt.mask is not None]
    if masked:
        tensors["masks"] = np.stack([to_array(mask) for prompt in prompts if (mask := prompt.mask) is not None])
        tensors["masked"] = np.array(masked, dtype=np.int32)
    multimask = [wants_three(prompt, options) for prompt in prompts]
    return Parcel(tensors=tensors, options={"multimask": multimask, "logits": options.logits, **_more(picture)})


def asking_for_everything(picture: Picture, grid: NDArray[np.float64], asked: Everything) -> Parcel:
    """The good masks of some points (n, 2) of the grid."""
    thresholds = {"min_score": asked.min_score, "min_stability": asked.min_stability}
    options = {"multimask": [True] * len(grid), "logits": False, "everything": thresholds, **_more(picture)}
    return Parcel(tensors=_at(picture, grid), options=options)


def asking_for_logits(picture: Picture, points: NDArray[np.float64], which: Sequence[int]) -> Parcel:
    """The logits of masks of everything, each by its point of the grid (n, 2) and which of the point's masks it is."""
    tensors = {**_at(picture, points), "which": np.array(which, dtype=np.int32)}
    return Parcel(tensors=tensors, options={"multimask": [True] * len(points), "logits": True, **_more(picture)})


def is_unknown(answer: Parcel) -> bool:
    """Whether the model does not know the picture."""
    return bool(answer.options.get("unknown"))


def masks_of(answer: Parcel) -> list[tuple[int, Mask]]:
    """Each mask with the place of its prompt, in the order answered."""
    of, counts, scores, areas, boxes = (answer.tensors[name] for name in ("of", "counts", "scores", "areas", "boxes"))
    stability, logits = answer.tensors.get("stability"), answer.tensors.get("logits")
    return [
        (
            int(prompt),
            Mask(
                counts=counts[i],
                score=float(scores[i]),
                area=int(areas[i]),
                box=Box(**dict(zip(("left", "top", "right", "bottom"), map(float, boxes[i]), strict=True))),
                stability=None if stability is None else float(stability[i]),
                logits=None if logits is None else to_tensor(logits[i]),
            ),
        )
        for i, prompt in enumerate(of)
    ]


def which_of(answer: Parcel) -> list[int]:
    """Of each mask of everything, which of its point's masks it is."""
    found: list[int] = answer.tensors["which"].tolist()
    return found


def logits_of(answer: Parcel) -> list[Tensor]:
    """What `asking_for_logits` is answered, in the order asked."""
    return [to_tensor(one) for one in answer.tensors["logits"]]


def check_mask(prompt: Prompt, side: int, field: str) -> None:
    """Raises ValidationFailed unless an earlier mask is float32 (side, side) of numbers that logits could be."""
    mask = prompt.mask
    if mask is None:
        return
    expected = f"float32 ({side}, {side}), the logits of an earlier answer"
    found = f"{mask.dtype} {tuple(mask.shape)} of {len(mask.data)} bytes"
    if mask.dtype != "float32" or mask.shape != (side, side) or len(mask.data) != 4 * side * side:
        raise ValidationFailed("the earlier mask has another form", field=field, found=found, expected=expected)
    if not (np.abs(to_array(mask)) <= LARGEST).all():
        expected = f"numbers from {-LARGEST:g} to {LARGEST:g}"
        raise ValidationFailed("the earlier mask has NaN or numbers out of range", field=field, expected=expected)


def _of_picture(picture: Picture) -> dict[str, Any]:
    tensors: dict[str, Any] = {
        "digest": np.frombuffer(picture.digest, np.uint8),
        "size": np.array(picture.size, dtype=np.int32),
    }
    return tensors if picture.pixels is None else {**tensors, "pixels": picture.pixels}


def _more(picture: Picture) -> dict[str, Any]:
    told = {"sitting": picture.sitting} if picture.sitting else {}
    return {**told, "more": True} if picture.more else told


def _at(picture: Picture, points: NDArray[np.float64]) -> dict[str, Any]:
    """A prompt for each point (n, 2)."""
    return {
        **_of_picture(picture),
        "points": points.reshape(-1, 1, 2),
        "labels": np.full((len(points), 1), FOREGROUND, dtype=np.int32),
        "boxes": np.full((len(points), 4), nan),
    }


def _points(prompts: Sequence[Prompt]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    longest = max(len(prompt.points) for prompt in prompts)
    points = np.zeros((len(prompts), longest, 2))
    labels = np.full((len(prompts), longest), ABSENT, dtype=np.int32)
    for row, prompt in enumerate(prompts):
        for place, point in enumerate(prompt.points):
            points[row, place] = point.x, point.y
            labels[row, place] = BACKGROUND if point.background else FOREGROUND
    return points, labels


def _corners(box: Box | None) -> tuple[float, float, float, float]:
    return (nan,) * 4 if box is None else (box.left, box.top, box.right, box.bottom)
