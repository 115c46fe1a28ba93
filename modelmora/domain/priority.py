"""Who goes first: interactive work overtakes bulk work, but only so often. Counted, not timed: pure decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PATIENCE = 4
"""So often bulk work is overtaken before it goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A queue that wants a lane: since when its oldest item waits, whether anything interactive is in it, and how
    often it was passed over by interactive work while it had only bulk."""

    since: float
    interactive: bool
    overtaken: int = 0


def next_turn(turns: Sequence[Turn]) -> int:
    """The index of the queue to serve: bulk whose patience is over, then interactive, then bulk; oldest first."""

    def rank(index: int) -> tuple[int, float]:
        turn = turns[index]
        if not turn.interactive and turn.overtaken >= PATIENCE:
            return 0, turn.since
        return (1 if turn.interactive else 2), turn.since

    return min(range(len(turns)), key=rank)


def share_out(count: int, *, interactive: int, bulk: int, overtaken: int) -> tuple[int, int]:
    """How many interactive and bulk items make a batch of at most `count`: interactive first, bulk fills up; bulk
    first once it was overtaken PATIENCE times."""
    if overtaken >= PATIENCE:
        first = min(bulk, count)
        return min(interactive, count - first), first
    first = min(interactive, count)
    return first, min(bulk, count - first)
