"""Protocol buffers read field by field where they lie: what is not asked for, gigabytes of weights, is passed over.

Nothing of the file is executed, and no library that could is needed. Encoding: protobuf.dev, "Encoding".
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

Value: TypeAlias = int | memoryview
"""A number, or the bytes of a text or of a message."""

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def mapped(path: Path) -> memoryview:
    """The file's bytes, read when they are looked at; raises ValueError where there are none, OSError."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Every field with its number, in the order of the file; raises ValueError where it is no message."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif kind == _LENGTH:
            length, at = _varint(message, at)
            _check_left(message, at, length)
            yield number, message[at : at + length]
            at += length
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if kind == _EIGHT_BYTES else 4
            _check_left(message, at, length)
            at += length
        else:
            raise ValueError(f"byte {at} begins a field of kind {kind}, which there is not")


def messages(message: memoryview, number: int) -> Iterator[memoryview]:
    """The fields of this number that are texts or messages."""
    return (value for found, value in fields(message) if found == number and isinstance(value, memoryview))


def texts(message: memoryview, number: int) -> Iterator[str]:
    """The fields of this number as texts; raises ValueError where one is none."""
    return (str(value, "utf-8") for value in messages(message, number))


def text(message: memoryview, number: int) -> str:
    """The last one, as protobuf has it; empty where there is none."""
    return next(reversed([*texts(message, number)]), "")


def integer(message: memoryview, number: int) -> int | None:
    """The last one as a signed number of 64 bits; None where there is none."""
    found = [value for at, value in fields(message) if at == number and isinstance(value, int)]
    return None if not found else found[-1] - (1 << 64) if found[-1] >> 63 else found[-1]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message):
            raise ValueError(f"it ends in the midst of a field, at byte {at}")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number at byte {at} has no end")


def _check_left(message: memoryview, at: int, length: int) -> None:
    if length > len(message) - at:
        raise ValueError(f"a field of {length} bytes at byte {at}, where {len(message) - at} are left")
