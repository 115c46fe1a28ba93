"""Requests as bytes, ready to be sent: nothing is encoded while the clock runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Protocol

from load.bench.pictures import unique_parts

BOUNDARY = b"----modelmora-bench-6f1d"


class Payload(Protocol):
    """The `number`-th request, in parts to be written one after another."""

    def __call__(self, number: int) -> Sequence[bytes]: ...


def head(path: str, content_type: str, length: int) -> bytes:
    """The request line and headers of a POST on a connection that stays open."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def picture_uploads(
    path: str, pictures: Sequence[bytes], *, file_field: str, fields: Mapping[str, str] | None = None
) -> Payload:
    """Multipart uploads of one picture each, taken in turn, every one in bytes of its own."""
    before = b"".join(_part(name) + value.encode() + b"\r\n" for name, value in (fields or {}).items())
    before += _part(file_field, filename="picture.jpg")
    after = b"\r\n--" + BOUNDARY + b"--\r\n"
    kind = "multipart/form-data; boundary=" + BOUNDARY.decode()

    def request(number: int) -> Sequence[bytes]:
        comment, rest = unique_parts(pictures[number % len(pictures)], number)
        length = len(before) + len(comment) + len(rest) + len(after)
        return head(path, kind, length), before, comment, rest, after

    return request


def text_requests(path: str, model: str) -> Payload:
    """JSON requests of one text each, no text twice; bodies of one length, under 100 bytes for a short name."""

    def request(number: int) -> Sequence[bytes]:
        body = json.dumps({"texts": [f"text {number:08x}"], "model": model}, separators=(",", ":")).encode()
        return head(path, "application/json", len(body)), body

    return request


def _part(name: str, *, filename: str | None = None) -> bytes:
    """The opening of one part of a multipart body."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"\r\nContent-Type: image/jpeg'
    return b"--" + BOUNDARY + b"\r\n" + disposition.encode() + b"\r\n\r\n"
