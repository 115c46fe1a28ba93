"""The port `Leases` for work that looks every moment: asked anew only when a quarter of the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable

from modelmora.ports import Leases

SHARE = 0.25
"""Of a lease, so long it is known to be held: three tries are left before it runs out."""


class SteadyLeases:
    """In front of another port of the kind; each renewal is a write, which an idle server need not make each second.

    What another holds is asked for each time. `clock` is in seconds.
    """

    def __init__(self, leases: Leases, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._leases = leases
        self._clock = clock
        self._held: dict[tuple[str, str], tuple[int, float]] = {}

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        """See the port."""
        asked_at = self._clock()  # before the question: the lease begins no earlier
        fence, until = self._held.get((name, holder), (None, 0.0))
        if fence is not None and asked_at < until:
            return fence
        fence = await self._leases.acquire(name, holder, ttl_s=ttl_s)
        if fence is None:
            self._held.pop((name, holder), None)
        else:
            self._held[name, holder] = fence, asked_at + SHARE * ttl_s
        return fence

    async def release(self, name: str, holder: str) -> None:
        """See the port."""
        self._held.pop((name, holder), None)
        await self._leases.release(name, holder)
