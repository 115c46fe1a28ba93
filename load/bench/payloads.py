"""Requests as bytes, ready to be sent: nothing is encoded while the clock runs."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Protocol

from load.bench import zipf
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


def picture_json(path: str, pictures: Sequence[bytes], *, before: bytes, after: bytes) -> Payload:
    """JSON with one picture each in base64 between the two, taken in turn, every one in bytes of its own."""
    split = -len(unique_parts(b"", 0)[0]) % 3  # base64 goes by three bytes: so many of the rest go with the comment
    encoded = [base64.b64encode(picture[2 + split :]) for picture in pictures]

    def request(number: int) -> Sequence[bytes]:
        comment, rest = unique_parts(pictures[number % len(pictures)][: 2 + split], number)
        opening, picture = base64.b64encode(comment + rest), encoded[number % len(pictures)]
        length = len(before) + len(opening) + len(picture) + len(after)
        return head(path, "application/json", length), before, opening, picture, after

    return request


def mixed(good: Payload, bad: Payload, *, every: int) -> Payload:
    """Each `every`-th request is a bad one, beginning with the last of the first `every`."""

    def request(number: int) -> Sequence[bytes]:
        return bad(number) if is_bad(number, every) else good(number)

    return request


def drawn(requests: Sequence[Payload], models: Sequence[str]) -> Payload:
    """Each request from the one of `requests` whose model is drawn for its number."""

    def request(number: int) -> Sequence[bytes]:
        return requests[zipf.draw(number, len(models))](number)

    return request


def repeated(requests: Payload, distinct: int) -> Payload:
    """The first `distinct` of the requests, again and again."""

    def request(number: int) -> Sequence[bytes]:
        return requests(number % distinct)

    return request


def is_bad(number: int, every: int) -> bool:
    """Whether that request of a mixed load is a bad one; `every` 0: none is."""
    return every > 0 and number % every == every - 1


def text_requests(path: str, model: str, *, word: str = "text") -> Payload:
    """JSON requests of one text each, no text twice; bodies of one length, under 100 bytes for short names."""

    def request(number: int) -> Sequence[bytes]:
        body = json.dumps({"texts": [f"{word} {number:08x}"], "model": model}, separators=(",", ":")).encode()
        return head(path, "application/json", len(body)), body

    return request


def _part(name: str, *, filename: str | None = None) -> bytes:
    """The opening of one part of a multipart body."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"\r\nContent-Type: image/jpeg'
    return b"--" + BOUNDARY + b"\r\n" + disposition.encode() + b"\r\n\r\n"
