"""Deliveries in the order of their keys: of each key one is worked on at a time, of different keys many."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Sequence

from modelmora.ports import Delivery
from subscribers.watermarks import Place


class Lanes:
    """A lane a key; chunks take the first of each lane that nobody works on, those that wait longest first."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[tuple[str, bytes, object], deque[Delivery]] = OrderedDict()
        self._busy: set[tuple[str, bytes, object]] = set()
        self._size = 0

    def __len__(self) -> int:
        """Deliveries that wait or are worked on."""
        return self._size

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """At the end of their lanes."""
        for one in deliveries:
            self._lanes.setdefault(_key(one), deque()).append(one)
        self._size += len(deliveries)

    def chunk(self, most: int) -> list[Delivery]:
        """Deliveries of different keys, which are worked on from now on; none where all keys are."""
        taken: list[Delivery] = []
        for key, lane in self._lanes.items():
            if len(taken) == most:
                break
            if key not in self._busy:
                taken.append(lane[0])
        self._busy.update(map(_key, taken))
        return taken

    def done(self, deliveries: Sequence[Delivery]) -> None:
        """They are; the next of their keys may be taken. What was dropped meanwhile is passed over."""
        for one in deliveries:
            key = _key(one)
            self._busy.discard(key)
            lane = self._lanes.get(key)
            if lane and lane[0] is one:
                lane.popleft()
                self._size -= 1
                if not lane:
                    del self._lanes[key]

    def drop(self, places: Collection[Place]) -> None:
        """What waits of these partitions is another's now, and what is worked on is not waited for."""
        for key, lane in list(self._lanes.items()):
            kept = deque(one for one in lane if (one.topic, one.partition) not in places)
            self._size -= len(lane) - len(kept)
            if kept:
                self._lanes[key] = kept
            else:
                del self._lanes[key]

    def open_in(self, places: Collection[Place]) -> bool:
        """Whether something of these partitions is worked on."""
        return any((one[0].topic, one[0].partition) in places for key, one in self._lanes.items() if key in self._busy)


def _key(one: Delivery) -> tuple[str, bytes, object]:
    """Messages without a key are in nobody's way."""
    return (one.topic, one.key, None if one.key else (one.partition, one.offset))
