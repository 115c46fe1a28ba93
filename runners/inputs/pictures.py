"""Bytes of a picture file to upright pixels: what a picture may be, and what is said of anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from modelmora.errors import InputError, InvalidInput, LimitExceeded, UnsupportedMedia

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PIXELS = 50_000_000


@dataclass(frozen=True, slots=True)
class _Format:
    """A kind of picture file: how its first bytes look and what reads it."""

    name: str
    looks: Callable[[bytes], bool]
    open: Callable[[BytesIO], ImageFile.ImageFile]


# Decoders are called by name and not through `Image.open`: nothing that is not listed here can run (EPS would start
# Ghostscript), and Pillow's process-wide MAX_IMAGE_PIXELS does not speak before the limit of the caller.
_FORMATS = (
    _Format("JPEG", lambda head: head.startswith(b"\xff\xd8"), lambda file: JpegImagePlugin.jpeg_factory(file, "")),
    _Format("PNG", lambda head: head.startswith(b"\x89PNG"), PngImagePlugin.PngImageFile),
    _Format("WebP", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", WebPImagePlugin.WebPImageFile),
    _Format("GIF", lambda head: head.startswith(b"GIF8"), GifImagePlugin.GifImageFile),
    _Format("TIFF", lambda head: head.startswith(tuple(TiffImagePlugin.PREFIXES)), TiffImagePlugin.TiffImageFile),
    _Format("AVIF", lambda head: head[4:12] in (b"ftypavif", b"ftypavis"), AvifImagePlugin.AvifImageFile),
    _Format("BMP", lambda head: head.startswith(b"BM"), BmpImagePlugin.BmpImageFile),
)
_ACCEPTED = ", ".join(known.name for known in _FORMATS)

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"%pdf", "PDF"),
    (b"%!ps", "PostScript"),
    (b"<!doctype html", "HTML text"),
    (b"<html", "HTML text"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML text"),
    (b"data:", "a data URI; send its decoded bytes"),
    (b"http", "a URL; send the picture's bytes"),
    (b"8bps", "Photoshop"),
    (b"\x00\x00\x01\x00", "a Windows icon"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip"),
    (b"riff", "RIFF audio or video"),
    (b"{", "JSON text"),
    (b"[", "JSON text"),
)
"""Beginnings, in lower case, of what people send by mistake."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame, upright, of mode RGB or L (grey), what is transparent laid over white; ICC profiles ignored.

    Raises InvalidInput (empty, truncated, damaged), UnsupportedMedia (not a picture of a kind taken), LimitExceeded
    (too many pixels by the header, before any is decoded).
    """
    if not data:
        raise InvalidInput("the picture is empty: it has 0 bytes", field="image", found="0 bytes")
    kind = _kind(data)
    with _said_of(kind):
        return _read(kind, data, max_pixels)


@contextmanager
def _said_of(kind: _Format) -> Iterator[None]:
    """What a decoder raises becomes ours."""
    try:
        yield
    except InputError:
        raise
    except (MemoryError, Image.DecompressionBombError) as cause:
        raise LimitExceeded(f"the {kind.name} picture needs more memory than a picture may", field="image") from cause
    except Exception as cause:  # decoders raise whatever they stumble over: OSError, SyntaxError, struct.error, ...
        said = str(cause)[:200] or type(cause).__name__
        raise InvalidInput(f"the {kind.name} picture is damaged or truncated: {said}", field="image") from cause


def _read(kind: _Format, data: bytes, max_pixels: int) -> Image.Image:
    image = kind.open(BytesIO(data))
    _check_size(image.width, image.height, max_pixels)
    image.load()
    return _over_white(_upright(image))


@dataclass(frozen=True, slots=True)
class Small:
    """A picture made small for a look at it: what kind of file it was, its upright size, and its pixels in RGB."""

    kind: str
    width: int
    height: int
    image: Image.Image


def small(data: bytes, *, edge: int, max_pixels: int = MAX_PIXELS) -> Small:
    """At most `edge` pixels a side; read to its end, so that what is damaged is found. Raises what `decode` raises."""
    if not data:
        raise InvalidInput("the picture is empty: it has 0 bytes", field="image", found="0 bytes")
    kind = _kind(data)
    with _said_of(kind):
        image = kind.open(BytesIO(data))
        width, height = image.size
        _check_size(width, height, max_pixels)
        image.draft("RGB", (2 * edge, 2 * edge))  # JPEGs are decoded at a fraction of their size; others pass it over
        image.load()
        turned = _orientation(image) >= 5
        shown = _over_white(_upright(image))
        shown.thumbnail((edge, edge), Image.Resampling.BICUBIC)
        size = (height, width) if turned else (width, height)
        return Small(kind.name, *size, shown.convert("RGB"))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise InvalidInput(f"the picture has no pixels: {width}x{height}", field="image")
    if width * height > max_pixels:
        raise LimitExceeded(
            f"the picture has {width}x{height} = {width * height:,} pixels, more than {max_pixels:,}; make it smaller",
            field="image",
            found=f"{width * height} pixels",
            expected=f"<= {max_pixels} pixels",
        )


def _kind(data: bytes) -> _Format:
    head = data[:64]
    for known in _FORMATS:
        if known.looks(head):
            return known
    found = _name_of(head)
    raise UnsupportedMedia(
        f"not a picture of a kind that is taken ({_ACCEPTED}); it looks like {found}",
        field="image",
        found=found,
        expected=_ACCEPTED,
    )


def _name_of(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        return f"an ISO media file of brand {head[8:12].decode('latin-1').strip()!r} (HEIC, MP4)"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, name in _OTHERS:
        if start.startswith(beginning) or head.startswith(beginning):
            return name
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "plain text"
    return f"unknown bytes {head[:8].hex(' ')}"


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(image))
    return image.transpose(turn) if turn is not None else image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) where there is none or it cannot be read, since the pixels are good still."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged EXIF block raises whatever it likes, see `decode`
        return 1
    return value if isinstance(value, int) else 1


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _to_8_bits(image)
    if image.has_transparency_data:
        seen = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        white = Image.new("RGB", seen.size, "white")
        white.paste(seen, mask=seen.getchannel("A"))
        return white
    if image.mode in ("RGB", "L"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Deep grey to 8 bits, scaled: `convert` would clip it to white."""
    if image.mode.startswith("I;16"):
        # The high byte, as Pillow itself takes of 16-bit colour.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    values = np.asarray(image, dtype=np.float32)
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = _grey_range(finite, natural=(255.0, 65535.0) if image.mode == "I" else (1.0, 255.0, 65535.0))
    return Image.fromarray(np.rint((finite - low) * (255.0 / (high - low))).astype(np.uint8))


def _grey_range(values: NDArray[np.float32], *, natural: tuple[float, ...]) -> tuple[float, float]:
    """The values that are to be black and white: the smallest natural range that holds all, else the extremes."""
    low, high = float(values.min()), float(values.max())
    for white in natural:
        if low >= 0 and high <= white:
            return 0.0, white
    return low, max(high, np.nextafter(low, np.inf, dtype=np.float32).item())
