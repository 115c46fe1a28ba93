"""Decides which answers belong to a window and keeps their latencies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MAX_FAILURES = 1000
_KEPT_ERRORS = 5


@dataclass(slots=True, kw_only=True)
class Recorder:
    """Opens on the first answer after the lead-in and closes on the first answer after `window_s`.

    Batching servers answer in bursts. Both ends are the first answer of a burst, so that a window
    holds whole batches: a window cut by the clock alone would count up to a batch too many or too few.
    `lead_s` counts from `begun`, and every caller must have been answered once. `refused` counts requests that were
    bad on purpose and told so, neither answers nor failures.
    """

    callers: int
    lead_s: float
    window_s: float
    begun: float
    opened: float | None = None
    closed: float | None = None
    answered: int = 0
    failures: int = 0
    refused: int = 0
    errors: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether callers should stop."""
        return self.closed is not None or self.failures >= MAX_FAILURES

    def answer(self, sent: float, now: float) -> Literal["open", "close"] | None:
        """Takes note of a good answer; says when the window has just opened or closed."""
        self.answered += 1
        if self.closed is not None:
            return None
        if self.opened is None:
            return self._perhaps_open(now)
        self.latencies_s.append(now - sent)
        if now - self.opened < self.window_s:
            return None
        self.closed = now
        return "close"

    def failure(self, reason: str) -> None:
        """Takes note of a request that failed, whenever it did."""
        self.failures += 1
        if len(self.errors) < _KEPT_ERRORS and reason not in self.errors:
            self.errors.append(reason)

    def _perhaps_open(self, now: float) -> Literal["open"] | None:
        if now - self.begun < self.lead_s or self.answered <= self.callers:
            return None
        self.opened = now
        return "open"
