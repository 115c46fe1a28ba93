"""Errors as the message that crosses every wire: the code travels, the class does not."""

from __future__ import annotations

from modelmora.errors import ModelMoraError
from modelmora.proto import types_pb2


def error_to_wire(error: ModelMoraError) -> types_pb2.ItemError:
    """An error as a message; what it lacks stays at proto's defaults."""
    return types_pb2.ItemError(
        code=error.code,
        detail=error.detail,
        field=error.field or "",
        found=error.found or "",
        expected=error.expected or "",
        retry_after_s=error.retry_after_s or 0.0,
    )
