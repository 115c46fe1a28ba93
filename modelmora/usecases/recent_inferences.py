"""Whether the last inferences failed, one after the other, for reasons of the server's own."""

from __future__ import annotations

import time
from collections.abc import Callable

from modelmora.domain.inference import Inference
from modelmora.domain.outcome import Failed

ROW = 10
"""So many in a row are no accident."""
PASSES_S = 30.0
"""After so long without another failure traffic is let come back, since nothing else can show that it is over."""
DEFECTS = frozenset({"internal", "out_of_memory"})
"""Codes that speak of the server; others speak of what was sent, of one model, or of too much work."""


class RecentInferences:
    """A hook of every inference. `clock` is in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._row = 0
        self._failed_at = 0.0
        self._code = ""

    def __call__(self, record: Inference) -> None:
        failures = [outcome.error.code for outcome in record.outcomes if isinstance(outcome, Failed)]
        if len(failures) < len(record.outcomes):
            self._row = 0
        elif failures and DEFECTS.issuperset(failures):
            self._row += 1
            self._failed_at, self._code = self._clock(), failures[-1]

    def trouble(self) -> str | None:
        """In words; None while there is none, or when it was long ago."""
        if self._row < ROW or self._clock() - self._failed_at > PASSES_S:
            return None
        return f"the last {self._row} inferences failed: {self._code}"
