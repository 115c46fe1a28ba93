"""What was computed of pictures, by their digest: bounded in bytes, made once however many ask."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
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
    """The least recently used goes first. Safe from several threads at once.

    `place_bytes` is what one takes. A place may be reserved for a picture before it is made (`runners/batching/
    sittings.py` does), so that those which are being asked about do not drive each other out.
    """

    def __init__(self, limit_bytes: int, place_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.places = limit_bytes // place_bytes
        self._place_bytes = place_bytes
        self._kept: OrderedDict[bytes, Encoded] = OrderedDict()
        self._reserved: dict[bytes, bool] = {}
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

    def keeps(self, digest: bytes) -> bool:
        """Whether it is there."""
        with self._lock:
            return digest in self._kept

    def has_place(self, busy: Collection[bytes]) -> bool:
        """Whether one more can be kept when all go that are not `busy`."""
        with self._lock:
            return self._free_bytes() + sum(self._idle(busy).values()) >= self._place_bytes

    def reserve(self, digest: bytes, busy: Collection[bytes]) -> None:
        """Sets a place aside, for which others than the `busy` go. Where there is none it will not be kept."""
        with self._lock:
            for idle in self._idle({*busy, digest}):
                if self._free_bytes() >= self._place_bytes:
                    break
                self._forget(idle)
            self._reserved[digest] = digest in self._kept or self._free_bytes() >= self._place_bytes

    def release(self, digest: bytes) -> None:
        """Gives back a place that was not used."""
        with self._lock:
            self._reserved.pop(digest, None)

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
        has_place = self._reserved.pop(digest, None)
        if made.bytes > self.limit_bytes or has_place is False:
            return
        self._kept[digest] = made
        self.held_bytes += made.bytes
        while self._free_bytes() < 0:
            self._forget(next(iter(self._kept)))

    def _forget(self, digest: bytes) -> None:
        self.held_bytes -= self._kept.pop(digest).bytes

    def _free_bytes(self) -> int:
        """Neither taken nor set aside."""
        aside = sum(granted and digest not in self._kept for digest, granted in self._reserved.items())
        return self.limit_bytes - self.held_bytes - aside * self._place_bytes

    def _idle(self, busy: Collection[bytes]) -> dict[bytes, int]:
        """What may go, the least recently used first, and its bytes."""
        return {digest: one.bytes for digest, one in self._kept.items() if digest not in busy}
