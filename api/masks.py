"""Masks in the form that a caller wants them: run lengths as they are, a PNG, or a byte a pixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from modelmora.domain.segmentation import Box, Mask, Segmented
from modelmora.errors import LimitExceeded

if TYPE_CHECKING:
    from numpy.typing import NDArray

Format = Literal["rle", "png", "bytes"]
FORMATS: tuple[Format, ...] = get_args(Format)

PART_BYTES = 48 * 2**20
"""Of one prompt's masks: they leave in one message."""

ANSWER_BYTES = 256 * 2**20
"""Of an answer that is collected before it leaves."""


def encoded(mask: Mask, format_: Format, *, height: int, width: int) -> bytes:
    """`counts` of COCO's compressed run-length encoding, a PNG of 1 bit a pixel, or uint8 (height, width) of 0 and 1.

    Takes a while but for `rle`: 24 million pixels some 0.1 s.
    """
    match format_:
        case "rle":
            return mask.counts
        case "png":
            file = io.BytesIO()
            Image.fromarray(_pixels(mask, height, width) * np.uint8(255)).convert("1").save(file, "PNG")
            return file.getvalue()
        case "bytes":
            return _pixels(mask, height, width).tobytes()


def check_room(value: Segmented, format_: Format) -> None:
    """Raises LimitExceeded for masks that are too large for one message before they are made."""
    if format_ == "bytes" and len(value.masks) * value.height * value.width > PART_BYTES:
        raise too_much(f"{len(value.masks)} masks of {value.width}x{value.height} bytes", PART_BYTES)


def too_much(what: str, limit: int) -> LimitExceeded:
    """The error of an answer that would be too large."""
    detail = f"{what} are more than an answer takes; ask for format rle or png, for fewer prompts or in lines of JSON"
    return LimitExceeded(detail, field="format", found=what, expected=f"at most {limit} bytes")


def to_json(value: Segmented, format_: Format) -> list[dict[str, Any]]:
    """The masks of a prompt, JSON-ready; raises LimitExceeded."""
    check_room(value, format_)
    return [_row(mask, format_, value.height, value.width) for mask in value.masks]


def size_of(rows: Sequence[Mapping[str, Any]]) -> int:
    """About how many bytes they take as JSON."""
    texts = [text for row in rows for text in (row.get("data"), row.get("logits"), row.get("rle", {}).get("counts"))]
    return sum(len(text) for text in texts if text is not None)


def _row(mask: Mask, format_: Format, height: int, width: int) -> dict[str, Any]:
    data = encoded(mask, format_, height=height, width=width)
    row: dict[str, Any] = {"format": format_}
    if format_ == "rle":
        row["rle"] = {"size": [height, width], "counts": data.decode("ascii")}
    else:
        row["data"] = base64.b64encode(data).decode("ascii")
    row |= {"score": mask.score, "area": mask.area, "box": _corners(mask.box)}
    if mask.stability is not None:
        row["stability"] = mask.stability
    if mask.logits is not None:
        row["logits"] = base64.b64encode(mask.logits.data).decode("ascii")
    return row


def _corners(box: Box) -> list[float]:
    return [box.left, box.top, box.right, box.bottom]


def _pixels(mask: Mask, height: int, width: int) -> NDArray[np.uint8]:
    """uint8 (height, width) of 0 and 1."""
    pixels: NDArray[np.uint8] = coco.decode({"size": [height, width], "counts": mask.counts})
    return pixels
