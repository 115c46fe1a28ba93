"""An error as the one string that clients of the protocol show."""

from __future__ import annotations

from modelmora.errors import ModelMoraError

LENGTH = 1_000
"""Bytes at most: gRPC's status message travels three times in trailers, which take 8 KiB, its UTF-8 percent-encoded."""


def said(error: ModelMoraError) -> str:
    """What went wrong, where, what came and what is expected; of several faults one after the other."""
    rest = [fault for fault in error.faults if fault.detail not in error.detail]
    text = _told(error.detail, error.field, error.found, error.expected)
    if rest:
        text += "; also: " + "; ".join(_told(one.detail, one.field, one.found, one.expected) for one in rest)
    raw = text.encode()
    return text if len(raw) <= LENGTH else raw[: LENGTH - 3].decode(errors="ignore") + "..."


def retold(error: ModelMoraError) -> ModelMoraError:
    """The same error, whose detail alone says all."""
    return type(error)(
        said(error),
        field=error.field,
        found=error.found,
        expected=error.expected,
        retry_after_s=error.retry_after_s,
        faults=error.faults,
    )


def _told(detail: str, field: str | None, found: str | None, expected: str | None) -> str:
    named = (("", field), ("found ", found), ("expected ", expected))
    compared = ", ".join(word + value for word, value in named if value)
    return f"{detail} ({compared})" if compared else detail
