"""The port `PictureLooks`: whether bytes are a picture, of which kind and size, and how it looks in small."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from io import BytesIO
from typing import Protocol, TypeVar

from modelmora.errors import DeadlineExceeded, Overloaded
from modelmora.ports import Look
from runners.inputs.pictures import small

T = TypeVar("T")

EDGE = 256
QUALITY = 80
WAITING = 512
"""As many as a consumer has in flight, and as many again that are uploaded meanwhile."""
_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WebP": "image/webp", "GIF": "image/gif"}
_TYPES |= {"TIFF": "image/tiff", "AVIF": "image/avif", "BMP": "image/bmp"}


class DecodeThreads(Protocol):
    """The threads that decode, as `Errands` has them."""

    async def in_turn(self, bulk: bool, prepare: Callable[[], T]) -> T: ...


class Looks:
    """In the threads that decode for the runners, behind what callers wait for; each that waits holds its bytes."""

    def __init__(self, threads: DecodeThreads, *, max_pixels: int, waiting: int = WAITING) -> None:
        self._threads = threads
        self._max_pixels = max_pixels
        self._most = waiting
        self._waiting = 0

    async def look(self, data: bytes, *, deadline: float) -> Look:
        """See the port."""
        if self._waiting >= self._most:
            raise Overloaded(f"{self._waiting} pictures wait to be looked at in this API worker", retry_after_s=1.0)
        self._waiting += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await self._threads.in_turn(True, lambda: look_at(data, max_pixels=self._max_pixels))
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the picture was looked at") from None
        finally:
            self._waiting -= 1


def look_at(data: bytes, *, max_pixels: int) -> Look:
    """Blocks, for as long as decoding takes; JPEGs are decoded at a fraction of their size."""
    seen = small(data, edge=EDGE, max_pixels=max_pixels)
    file = BytesIO()
    seen.image.save(file, "WebP", quality=QUALITY, method=2)
    return Look(content_type=_TYPES[seen.kind], width=seen.width, height=seen.height, thumbnail=file.getvalue())
