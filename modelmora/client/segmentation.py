"""Masks as the SDK hands them over: run lengths first, pixels and picture files on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelmora.client.rle import png_of, rows_of
from modelmora.client.served import Served
from modelmora.client.tensors import Array
from modelmora.domain.segmentation import Box

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """One mask of a picture of `height` x `width` pixels.

    `counts` is COCO's compressed run-length encoding, `score` the predicted overlap with the truth (IoU), `area` in
    pixels, `box` the smallest around it. `stability` comes with everything, `logits` when asked for: float32
    (256, 256), what a later `Prompt` may take as its `mask`.
    """

    counts: bytes = field(repr=False)
    height: int
    width: int
    score: float
    area: int
    box: Box
    stability: float | None = None
    logits: Array | None = field(default=None, repr=False)

    @property
    def rle(self) -> dict[str, object]:
        """As `pycocotools.mask` and COCO's files have it."""
        return {"size": [self.height, self.width], "counts": self.counts.decode("ascii", "replace")}

    def to_bytes(self) -> bytes:
        """A byte a pixel, 0 or 1, row by row. Raises InternalError where the server sent no mask of this size."""
        return b"".join(rows_of(self.counts, height=self.height, width=self.width))

    def to_png(self) -> bytes:
        """A picture file of 1 bit a pixel, white in the mask; raises as `to_bytes`."""
        return png_of(self.counts, height=self.height, width=self.width)

    def to_array(self) -> NDArray[np.bool_]:
        """bool (height, width); needs numpy. Raises as `to_bytes`."""
        import numpy as np  # noqa: PLC0415 - numpy is an extra; only who calls this has it

        return np.frombuffer(self.to_bytes(), dtype=np.bool_).reshape(self.height, self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation(Served):
    """The masks of one prompt, the best first, or one mask of everything.

    `height` and `width` are the upright picture's.
    """

    masks: tuple[Mask, ...]
    height: int
    width: int
