"""Inputs that made a batch raise, by content: the next time they run alone."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REMEMBERED = 1024


class Suspects:
    """Digests of bad inputs, the latest REMEMBERED of each model; costs nothing while there are none."""

    def __init__(self) -> None:
        self._digests: dict[str, OrderedDict[bytes, None]] = {}

    def add(self, model: str, array: NDArray[np.generic]) -> None:
        """Remembers the input, forgetting the oldest beyond the limit."""
        known = self._digests.setdefault(model, OrderedDict())
        known[_digest(array)] = None
        while len(known) > REMEMBERED:
            known.popitem(last=False)

    def known(self, model: str, array: NDArray[np.generic]) -> bool:
        """Whether this very input was bad before."""
        digests = self._digests.get(model)
        return bool(digests) and _digest(array) in (digests or ())


def _digest(array: NDArray[np.generic]) -> bytes:
    return hashlib.blake2b(array.tobytes(), digest_size=16).digest()
