"""Whether evictions were those of a least-recently-used cache, replayed from the log of its uses."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Used:
    """A model was loaded, or taken into use again."""

    model: str


@dataclass(frozen=True, slots=True)
class Evicted:
    """A model went to make room, `short` of which there was; `kept` ones were used less recently, and stayed because
    they were in use."""

    model: str
    kept: Collection[str] = ()
    short: bool = True


Event: TypeAlias = Used | Evicted


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """`oldest` evictions took the least recently used; `forced` ones the next, older ones being in use; `wrong` ones
    are neither, or came while there was room."""

    oldest: int = 0
    forced: int = 0
    wrong: int = 0

    @property
    def evictions(self) -> int:
        return self.oldest + self.forced + self.wrong


def replay(events: Iterable[Event]) -> Replay:
    """Each eviction beside what a least-recently-used cache would have done in its place; it begins empty."""
    held: OrderedDict[str, None] = OrderedDict()
    oldest = forced = wrong = 0
    for event in events:
        if isinstance(event, Used):
            held[event.model] = None
            held.move_to_end(event.model)
            continue
        order = list(held)
        older = order[: order.index(event.model)] if event.model in held else None
        if older is None or not event.short or set(older) != set(event.kept):
            wrong += 1
        elif older:
            forced += 1
        else:
            oldest += 1
        held.pop(event.model, None)
    return Replay(oldest=oldest, forced=forced, wrong=wrong)
