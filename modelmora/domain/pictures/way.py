"""The way of one picture into one space: its states, and what a failure makes of it.

::

    received --> working --> indexed                                 (the vector and its event are kept)
       ^            |
       |            +-- trouble that may pass --> retry_wait --> received   (announced again when it is due)
       |            |                                |
       |            |                        tries are used up --> dead  -- replay --> received
       |            +-- the picture is at fault --> rejected            -- replay --> received
       |
    any of them: superseded (a newer event of the picture), tombstoned (the picture was removed)

`working` stands for fetching, embedding and upserting, which many pictures go through together within milliseconds;
`stage` says which of them a way failed in, and a repeated one starts anew: fetching costs little, and an embedding
that was made is in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from modelmora.domain.events.envelope import Event
from modelmora.domain.pictures.picture import PictureState
from modelmora.errors import InputError, ModelMoraError, NotFound

WayState = Literal["received", "working", "indexed", "retry_wait", "rejected", "dead", "superseded", "tombstoned"]
Stage = Literal["", "reading", "fetching", "embedding", "upserting"]
ENDED: frozenset[WayState] = frozenset({"indexed", "rejected", "dead", "superseded", "tombstoned"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One picture's way into one space (`name@version`). `seq` is the picture's when it began; `attempts` are those
    that failed since it was received, `first_failed_at` the first of them."""

    picture_id: str
    space: str
    state: WayState
    seq: int
    attempts: int = 0
    next_attempt_at: datetime | None = None
    stage: Stage = ""
    code: str = ""
    detail: str = ""
    first_failed_at: datetime | None = None
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a way after a step: the next state, and why. `superseded` is one into a space that is no more."""

    state: Literal["indexed", "retry_wait", "rejected", "dead", "superseded"]
    delay_s: float = 0.0
    stage: Stage = ""
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A verdict about the way of a picture with the event that tells of it (None for one that is tried again)."""

    picture_id: str
    space: str
    seq: int
    verdict: Verdict
    event: Event | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """Waits double from `base_s` up to `cap_s`, each drawn between none and all of it (full jitter)."""

    tries: int = 8
    base_s: float = 1.0
    cap_s: float = 600.0

    def after(self, error: ModelMoraError, *, attempts: int, stage: Stage, draw: Callable[[], float]) -> Verdict:
        """What becomes of a way whose `attempts`-th try has failed now; `draw` gives 0 to 1."""
        if isinstance(error, InputError | NotFound):
            return Verdict(state="rejected", stage=stage, code=error.code, detail=error.detail)
        if attempts >= self.tries:
            return Verdict(state="dead", stage=stage, code=error.code, detail=error.detail)
        wait = min(self.cap_s, self.base_s * 2 ** min(attempts - 1, 30))
        delay = max(error.retry_after_s or 0.0, wait * draw())
        return Verdict(state="retry_wait", delay_s=delay, stage=stage, code=error.code, detail=error.detail)


def shown(ways: Sequence[Way], *, deleted: bool = False) -> PictureState:
    """What the API shows of a picture with these ways: the worst of what is not done, else `indexed`."""
    if deleted:
        return "deleted"
    states = {way.state for way in ways} - {"superseded"}
    if states & {"rejected", "dead"}:
        return "failed"
    if "retry_wait" in states:
        return "retrying"
    if "working" in states:
        return "embedding"
    return "indexed" if states == {"indexed"} else "registered"
