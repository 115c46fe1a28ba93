"""Where memory ends: each library's way of saying so becomes one error."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

from modelmora.errors import OutOfMemory

_SAID = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "not enough memory",
    "alloc_failed",
    "bad_alloc",
    "bad allocation",
)


def is_out_of_memory(cause: BaseException) -> bool:
    """Python's and numpy's MemoryError, torch's OutOfMemoryError, and what the allocators of native libraries say:
    torch's and OpenVINO's by a RuntimeError, onnxruntime's by an error of its own."""
    if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
        return True
    native = isinstance(cause, RuntimeError) or type(cause).__module__.startswith("onnxruntime")
    return native and any(words in str(cause).lower() for words in _SAID)


@contextlib.contextmanager
def told_as_one(detail: str) -> Iterator[None]:
    """Raises OutOfMemory with `detail` where the block ran out of memory; other errors pass.

    What the failed frames held is let go at once: whoever tries again with less needs that room.
    """
    try:
        yield
    except Exception as cause:
        if not is_out_of_memory(cause):
            raise
        traceback.clear_frames(cause.__traceback__)
        raise OutOfMemory(detail) from cause
