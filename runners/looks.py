"""The port `PictureLooks`: whether bytes are a picture, of which kind and size, and how it looks in small."""

from __future__ import annotations

import asyncio
import time
from io import BytesIO

from modelmora.errors import DeadlineExceeded
from modelmora.ports import Look
from runners.hop.errands import Errands
from runners.inputs.pictures import small

EDGE = 256
QUALITY = 80
_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WebP": "image/webp", "GIF": "image/gif"}
_TYPES |= {"TIFF": "image/tiff", "AVIF": "image/avif", "BMP": "image/bmp"}


class Looks:
    """In the threads that decode for the runners."""

    def __init__(self, errands: Errands, *, max_pixels: int) -> None:
        self._errands = errands
        self._max_pixels = max_pixels

    async def look(self, data: bytes, *, deadline: float) -> Look:
        """See the port."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await self._errands.in_turn(True, lambda: look_at(data, max_pixels=self._max_pixels))
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the picture was looked at") from None


def look_at(data: bytes, *, max_pixels: int) -> Look:
    """Blocks, for as long as decoding takes; JPEGs are decoded at a fraction of their size."""
    seen = small(data, edge=EDGE, max_pixels=max_pixels)
    file = BytesIO()
    seen.image.save(file, "WebP", quality=QUALITY, method=2)
    return Look(content_type=_TYPES[seen.kind], width=seen.width, height=seen.height, thumbnail=file.getvalue())
