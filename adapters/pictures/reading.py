"""What an answer must be to count as a picture, and how much of it is read."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from modelmora.domain.links import FIELD, Target
from modelmora.errors import DependencyUnavailable, LimitExceeded, ModelMoraError, UnsupportedMedia, ValidationFailed

_BYTES = ("application/octet-stream", "binary/octet-stream")
"""What object stores say of what they were told nothing about."""


@dataclass(slots=True)
class Allowance:
    """The bytes that the pictures of one request may still have together."""

    left: int

    def take(self, count: int) -> None:
        """Raises LimitExceeded when they are used up."""
        if count > self.left:
            raise LimitExceeded(
                "the pictures of this request are too large together; ask for fewer at once", field=FIELD
            )
        self.left -= count


async def read_picture(response: httpx.Response, target: Target, *, limit: int, allowance: Allowance) -> bytes:
    """The body as it comes over the wire: no encoding is undone, so it cannot grow here.

    A stated length may refuse it, and is not relied on to admit it. Raises ValidationFailed, UnsupportedMedia,
    LimitExceeded, DependencyUnavailable.
    """
    _check_status(response.status_code, target)
    _check_headers(response.headers, target)
    stated = response.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > limit:
        raise _too_large(target, limit)
    parts, size = [], 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > limit:
            raise _too_large(target, limit)
        allowance.take(len(part))
        parts.append(part)
    return b"".join(parts)


def _check_status(status: int, target: Target) -> None:
    if status == 200:
        return
    error: type[ModelMoraError] = ValidationFailed
    detail, expected = f"{target.origin} answered {status}", "a URL that is answered with the picture (200)"
    if 300 <= status < 400:
        detail = f"{target.origin} answered with a redirect ({status}), which is not followed"
        expected = "the URL that it leads to"
    elif status >= 500 or status == 429:
        error = DependencyUnavailable
    raise error(detail, field=FIELD, found=str(status), expected=expected)


def _check_headers(headers: httpx.Headers, target: Target) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("image/") and kind not in _BYTES:
        raise UnsupportedMedia(
            f"{target.origin} did not answer with a picture",
            field=FIELD,
            found=kind[:80] or "no content type",
            expected=f"image/* or {_BYTES[0]}",
        )
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMedia(
            f"{target.origin} encoded the picture though it was asked not to",
            field=FIELD,
            found=encoding[:40],
            expected="identity",
        )


def _too_large(target: Target, limit: int) -> LimitExceeded:
    return LimitExceeded(
        f"the picture at {target.origin} has more than {limit:,} bytes", field=FIELD, expected=f"at most {limit} bytes"
    )
