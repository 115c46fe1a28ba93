"""Up to where the messages of each partition are done, without a gap: that is what may be committed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Place: TypeAlias = tuple[str, int]
"""A topic and the number of one of its partitions."""


@dataclass(slots=True)
class _Partition:
    reached: int
    taken: int
    done: set[int] = field(default_factory=set)


class Watermarks:
    """Offsets that were taken, in order, and those that are done, in any order."""

    def __init__(self) -> None:
        self._partitions: dict[Place, _Partition] = {}
        self._told: dict[Place, int] = {}

    def take(self, place: Place, offset: int) -> None:
        """A message that is worked on from now on. One before what was taken last means that the partition begins
        anew: another member had it meanwhile."""
        known = self._partitions.get(place)
        if known is None or offset < known.taken:
            self._partitions[place] = _Partition(offset, offset + 1)
            self._told.pop(place, None)
            return
        if known.reached == known.taken:  # nothing is open: offsets that were skipped hold no messages
            known.reached = offset
        else:
            known.done.update(range(known.taken, offset))
        known.taken = offset + 1

    def done(self, place: Place, offset: int) -> None:
        """One of them is; what is no more known, since the partition went, is passed over."""
        known = self._partitions.get(place)
        if known is None or not known.reached <= offset < known.taken:
            return
        known.done.add(offset)
        while known.reached in known.done:
            known.done.remove(known.reached)
            known.reached += 1

    def reached(self) -> dict[Place, int]:
        """The first offset of each partition that is not done; those that were committed at it are left out."""
        return {
            place: known.reached for place, known in self._partitions.items() if self._told.get(place) != known.reached
        }

    def committed(self, reached: Mapping[Place, int]) -> None:
        """They need not be told again."""
        self._told.update(reached)

    def forget(self, places: Collection[Place]) -> None:
        """These partitions are another's now."""
        for place in places:
            self._partitions.pop(place, None)
            self._told.pop(place, None)
