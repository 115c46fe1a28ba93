"""COCO's compressed run-length encoding of masks, read without its library (cocoapi, common/maskApi.c: rleFrString)."""

from __future__ import annotations

import zlib
from itertools import cycle

from modelmora.errors import InternalError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DIGITS = bytes.maketrans(b"\x00\x01", b"01")
_BITS = 60
"""No picture has so many pixels that a number needs more."""


def runs_of(counts: bytes, *, height: int, width: int) -> list[int]:
    """How many pixels are out of the mask, in it, out of it ..., column by column.

    Raises InternalError where they are not those of a picture of this size.
    """
    runs, at = list[int](), 0
    try:
        while at < len(counts):
            value, at = _number(counts, at)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    except IndexError:
        raise _broken("a run does not end", height, width) from None
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise _broken(f"its runs have {sum(runs)} pixels", height, width)
    return runs


def rows_of(counts: bytes, *, height: int, width: int) -> list[bytes]:
    """A byte a pixel, 0 or 1, row by row; raises as `runs_of`."""
    columns = b"".join(
        value * run for value, run in zip(cycle((b"\0", b"\1")), runs_of(counts, height=height, width=width))
    )
    return [columns[row::height] for row in range(height)]


def png_of(counts: bytes, *, height: int, width: int) -> bytes:
    """A greyscale picture file of 1 bit a pixel, white in the mask; raises as `runs_of`."""
    if not height or not width:
        raise _broken("a picture file has at least a pixel", height, width)
    size = (width + 7) // 8
    lines = [
        b"\0" + int(row.translate(_DIGITS).ljust(8 * size, b"0"), 2).to_bytes(size, "big")
        for row in rows_of(counts, height=height, width=width)
    ]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((1, 0, 0, 0, 0))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _number(counts: bytes, at: int) -> tuple[int, int]:
    """A number of 5 bits a character, the least first, and where the next begins; IndexError where it is cut off."""
    value = shift = 0
    while shift < _BITS:
        bits = counts[at] - 48
        value |= (bits & 0x1F) << shift
        at, shift = at + 1, shift + 5
        if not bits & 0x20:
            return (value - (1 << shift) if bits & 0x10 else value), at
    raise IndexError


def _broken(reason: str, height: int, width: int) -> InternalError:
    return InternalError(
        f"the server sent no mask of {width}x{height} pixels: {reason}", field="counts", expected=f"{height * width}"
    )
