"""What a caller may hand over as a picture or a text, read into the content that is sent."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from modelmora.domain.inference import Content, Image, Text
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InvalidInput, ModelMoraError, ValidationFailed

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

    Picture: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | PilImage | IO[bytes] | Image
    Source: TypeAlias = Picture | Text

_ORIENTATION = 0x0112
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_AS_RGB = frozenset({"CMYK", "YCbCr", "LAB", "HSV", "RGBX"})
_AS_RGBA = frozenset({"PA", "RGBa", "La"})


async def read(source: Source) -> Outcome[Content]:
    """Bytes as they are; a path (`str` is one) or file object is read and a PIL image encoded in a thread.

    Fails with InvalidInput (unreadable, a text that is no Unicode) or ValidationFailed (of no kind that can be sent).
    """
    match source:
        case Image():
            return Ok(source)
        case Text():
            return _encodable(source)
        case bytes() | bytearray() | memoryview():
            return Ok(Image(bytes(source)))
    try:
        return Ok(Image(await asyncio.to_thread(_bytes_of, source)))
    except ModelMoraError as error:
        return Failed(error)


async def read_each(sources: Iterable[Source]) -> AsyncIterator[Outcome[Content]]:
    """One after the other, when asked for."""
    for source in sources:
        yield await read(source)


def _encodable(text: Text) -> Outcome[Content]:
    """A command line, or a file name, that is no UTF-8 comes to Python as half characters, which no wire takes."""
    try:
        text.text.encode()
    except UnicodeEncodeError as cause:
        found = ascii(text.text[cause.start : cause.end])[:40]
        return Failed(InvalidInput(f"the text is no Unicode: {cause.reason}", field="text", found=found))
    return Ok(text)


def _bytes_of(source: Any) -> bytes:
    if isinstance(source, str | os.PathLike):
        return _read_path(Path(source))
    # Whoever holds a PIL image has imported Pillow; nobody else pays for it.
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(source, pil.Image):
        return _encode(source)
    if hasattr(source, "read"):
        return _read_file(source)
    raise ValidationFailed(
        "this cannot be sent as a picture",
        field="image",
        found=type(source).__name__,
        expected="bytes, a path, a file opened in binary mode, or a PIL image; a text goes as Text(...)",
    )


def _read_path(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as cause:  # ValueError: a null character in the path
        reason = getattr(cause, "strerror", None) or cause
        raise InvalidInput(f"cannot read {path}: {reason}", field="image", found=str(path)) from cause


def _read_file(file: IO[bytes]) -> bytes:
    try:
        data = file.read()
    except (OSError, ValueError) as cause:
        raise InvalidInput(f"cannot read the file object: {cause}", field="image") from cause
    if not isinstance(data, bytes):
        raise ValidationFailed("the file was opened as text", field="image", found="text mode", expected="mode 'rb'")
    return data


def _encode(image: PilImage) -> bytes:
    """A lossless PNG that keeps the EXIF orientation, so that it means the same as the file it came from."""
    orientation = image.getexif().get(_ORIENTATION)
    options: dict[str, Any] = {}
    if orientation is not None:
        exif = sys.modules["PIL.Image"].Exif()
        exif[_ORIENTATION] = orientation
        options["exif"] = exif
    buffer = io.BytesIO()
    try:
        _for_png(image).save(buffer, "PNG", compress_level=1, **options)
    except (OSError, ValueError) as cause:  # a lazily opened file that is truncated, or closed
        raise InvalidInput(f"the PIL image cannot be encoded: {cause}", field="image") from cause
    return buffer.getvalue()


def _for_png(image: PilImage) -> PilImage:
    if image.mode in _PNG_MODES:
        return image
    if image.mode in _AS_RGB:
        return image.convert("RGB")
    if image.mode in _AS_RGBA:
        return image.convert("LA" if image.mode == "La" else "RGBA")
    raise ValidationFailed(
        f"a PIL image of mode {image.mode} has no certain range of values; convert it to RGB first",
        field="image",
        found=image.mode,
        expected="RGB, L, RGBA, ...",
    )
