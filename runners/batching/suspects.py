"""Inputs that made a batch raise, by content: the next time they run alone."""

from __future__ import annotations

from collections import OrderedDict

from runners.payload import Payload, digest

REMEMBERED = 1024


class Suspects:
    """Digests of bad inputs, the latest REMEMBERED of each model; costs nothing while there are none."""

    def __init__(self) -> None:
        self._digests: dict[str, OrderedDict[bytes, None]] = {}

    def add(self, model: str, payload: Payload) -> None:
        """Remembers the input, forgetting the oldest beyond the limit."""
        known = self._digests.setdefault(model, OrderedDict())
        known[digest(payload)] = None
        while len(known) > REMEMBERED:
            known.popitem(last=False)

    def known(self, model: str, payload: Payload) -> bool:
        """Whether this very input was bad before."""
        digests = self._digests.get(model)
        return bool(digests) and digest(payload) in (digests or ())
