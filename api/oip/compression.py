"""Bodies that come compressed, opened with a limit on what comes out."""

from __future__ import annotations

import asyncio
import zlib

from modelmora.errors import InvalidInput, LimitExceeded, UnsupportedMedia

_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS
_WINDOWS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}


def most_bytes(body: bytes, coding: str | None, max_bytes: int) -> int:
    """How many bytes the body has once it is opened, at most."""
    return len(body) if _plain(coding) else max_bytes


async def opened(body: bytes, coding: str | None, *, max_bytes: int) -> bytes:
    """The body as it was before `Content-Encoding`.

    Raises UnsupportedMedia (another coding than gzip and deflate), InvalidInput (broken, cut off), LimitExceeded.
    """
    if _plain(coding):
        return body
    coding = (coding or "").strip().lower()
    window = _WINDOWS.get(coding)
    if window is None:
        raise UnsupportedMedia(
            "this compression is not taken", field="content-encoding", found=coding[:40], expected="gzip or deflate"
        )
    return await asyncio.to_thread(_opened, body, window, max_bytes)


def _plain(coding: str | None) -> bool:
    return (coding or "").strip().lower() in ("", "identity")


def _opened(body: bytes, window: int, max_bytes: int) -> bytes:
    reader = zlib.decompressobj(window)
    try:
        plain = reader.decompress(body, max_bytes + 1)
    except zlib.error as cause:
        raise InvalidInput(f"the body is not what its content-encoding says: {cause}", field="body") from cause
    if len(plain) > max_bytes:
        raise LimitExceeded(
            "the request body is too large once it is decompressed",
            field="body",
            found=f"over {max_bytes} bytes",
            expected=f"at most {max_bytes} bytes",
        )
    if not reader.eof or reader.unused_data:
        what = "goes on after its end" if reader.eof else "is cut off"
        raise InvalidInput(f"the compressed body {what}", field="body")
    return plain
