"""What was computed of pictures, by their digest: bounded in bytes, made once however many ask."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A picture's `features` (1, channels, tokens, tokens); `size` is the height and width it was scaled to."""

    features: torch.Tensor
    size: tuple[int, int]

    @property
    def bytes(self) -> int:
        return self.features.numel() * self.features.element_size()


class EncodedPictures:
    """The least recently used goes first. Safe from several threads at once."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._kept: OrderedDict[bytes, Encoded] = OrderedDict()
        self._making: dict[bytes, Future[Encoded]] = {}
        self._lock = threading.Lock()

    def get(self, digest: bytes, make: Callable[[], Encoded] | None = None) -> Encoded | None:
        """What is kept; else made here, or waited for where another thread makes it; None where nobody can.

        An empty digest is made and not kept. Raises what `make` raises; who waited for one that failed tries itself.
        """
        if not digest:
            return make() if make else None
        while True:
            with self._lock:
                if (kept := self._kept.get(digest)) is not None:
                    self._kept.move_to_end(digest)
                    return kept
                waited = self._making.get(digest)
                if waited is None and make is not None:
                    mine = self._making[digest] = Future[Encoded]()
            if waited is None:
                return self._make(digest, make, mine) if make else None
            if waited.exception() is None:
                return waited.result()
            if make is None:
                return None

    def clear(self) -> None:
        """Lets go of everything."""
        with self._lock:
            self._kept.clear()
            self.held_bytes = 0

    def _make(self, digest: bytes, make: Callable[[], Encoded], mine: Future[Encoded]) -> Encoded:
        try:
            made = make()
        except BaseException as cause:
            with self._lock:
                del self._making[digest]
            mine.set_exception(RuntimeError(type(cause).__name__))  # not the cause: its frames hold what was computed
            raise
        with self._lock:
            self._keep(digest, made)
            del self._making[digest]
        mine.set_result(made)
        return made

    def _keep(self, digest: bytes, made: Encoded) -> None:
        if made.bytes > self.limit_bytes:
            return
        self._kept[digest] = made
        self.held_bytes += made.bytes
        while self.held_bytes > self.limit_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.held_bytes -= oldest.bytes
