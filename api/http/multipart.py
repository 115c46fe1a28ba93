"""A multipart form read part by part while it arrives: nothing on disk, one file in memory at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from modelmora.domain.outcome import Ok, Outcome
from modelmora.errors import InvalidInput, LimitExceeded, UnsupportedMedia
from modelmora.usecases.admission import too_large

FIELDS = 64
FIELD_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Field:
    """A part without a file name."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class File:
    """A part with a file name; failed when it is over its limit."""

    name: str
    filename: str
    content: Outcome[bytes]


async def parts(
    body: AsyncIterator[bytes], content_type: str, *, max_file_bytes: int, max_field_bytes: int = FIELD_BYTES
) -> AsyncGenerator[Field | File, None]:
    """Each part once it is whole. A file over the limit is read to its end and not kept.

    Raises UnsupportedMedia (no form), InvalidInput (no boundary, broken, cut off), LimitExceeded (its fields).
    """
    reader = _Reader(_boundary(content_type), max_file_bytes, max_field_bytes)
    async for chunk in body:
        reader.feed(chunk)
        while reader.ready:
            yield reader.ready.popleft()
    if not reader.ended:
        raise InvalidInput(
            "the form was cut off: it ends before its closing boundary", field="body", expected="a whole form"
        )


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedMedia(
            "this route takes multipart/form-data with `files`",
            field="content-type",
            found=content_type[:80] or "none",
            expected="multipart/form-data",
        )
    if not options.get(b"boundary"):
        raise InvalidInput("the form has no boundary", field="content-type", found=content_type[:80])
    return bytes(options[b"boundary"])


class _Reader:
    """The parser's callbacks, and the parts they have made of it."""

    def __init__(self, boundary: bytes, max_file_bytes: int, max_field_bytes: int) -> None:
        self.ready: deque[Field | File] = deque()
        self.ended = False
        self._max_file_bytes = max_file_bytes
        self._max_field_bytes = max_field_bytes
        self._fields = 0
        self._header, self._value = bytearray(), bytearray()
        self._begin_part()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._take,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as cause:
            raise InvalidInput(f"the form's boundary cannot be used: {cause}", field="content-type") from cause

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as cause:
            raise InvalidInput(f"the form is broken: {cause}", field="body") from cause

    def _begin_part(self) -> None:
        self._disposition = b""
        self._name = ""
        self._filename: str | None = None
        self._data: list[bytes] = []
        self._size = 0

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise InvalidInput(
                "a part of the form has no name", field="body", expected="Content-Disposition: form-data; name=..."
            )
        self._name = _text(options[b"name"])
        self._filename = _text(options[b"filename"]) if b"filename" in options else None
        if self._filename is None:
            self._fields += 1
            if self._fields > FIELDS:
                raise LimitExceeded("the form has too many fields", field="body", expected=f"at most {FIELDS}")

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._size <= (self._max_field_bytes if self._filename is None else self._max_file_bytes):
            self._data.append(data[start:end])
        elif self._filename is None:
            expected = f"{self._max_field_bytes} bytes"
            raise LimitExceeded(f"the field {self._name[:40]!r} is too large", field=self._name[:40], expected=expected)
        else:
            self._data.clear()

    def _end_part(self) -> None:
        if self._filename is None:
            self.ready.append(Field(self._name, _text(b"".join(self._data))))
        else:
            self.ready.append(File(self._name, self._filename, self._file()))
        self._begin_part()

    def _file(self) -> Outcome[bytes]:
        if self._size <= self._max_file_bytes:
            return Ok(b"".join(self._data))
        limit = self._max_file_bytes
        return too_large("picture file", field="image", found=self._size, limit=limit, unit="bytes")

    def _end(self) -> None:
        self.ended = True


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:  # a file name as some old system writes it
        return raw.decode("latin-1")
