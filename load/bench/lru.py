"""What a least-recently-used cache would have done with a log of accesses."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable


def evictions(accesses: Iterable[Hashable], *, fits: int) -> int:
    """How often one must go so that another fits, from an empty cache with room for so many."""
    held: OrderedDict[Hashable, None] = OrderedDict()
    gone = 0
    for access in accesses:
        if access not in held and len(held) == fits:
            held.popitem(last=False)
            gone += 1
        held[access] = None
        held.move_to_end(access)
    return gone
