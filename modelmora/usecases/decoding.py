"""What may be decoded at once: asked before anybody looks into a body."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modelmora.errors import Overloaded
from modelmora.ports import Capacity

DECODING_BYTES = 512 * 2**20
"""Bodies of so many bytes are decoded, and wait for their answers, at once in a process."""


class Decoding:
    """Counts the bytes of the bodies that are under way; `capacity` is where their items will need room."""

    def __init__(self, capacity: Capacity, *, most_bytes: int = DECODING_BYTES) -> None:
        self._capacity = capacity
        self._most_bytes = most_bytes
        self._bytes = 0

    @contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """Room for a body of so many bytes until its answer; one alone may be of any size.

        Raises Overloaded where there is none, or where none of its items would be taken now.
        """
        if self._bytes and self._bytes + size > self._most_bytes:
            raise Overloaded(f"bodies of {self._bytes:,} bytes are under way in this API worker", retry_after_s=1.0)
        with self._capacity.permit(1):
            pass
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size
