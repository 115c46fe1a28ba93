"""What the stores said when they were last looked at, in the background: who asks is answered at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from modelmora.errors import ModelMoraError

PERIOD_S = 5.0
CHECK_S = 1.0
"""A store that does not answer for so long is down."""
STALE_S = 3 * PERIOD_S
"""Nobody looks in the background any more: who asks does it then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """What the last look at a store said."""

    status: Literal["ok", "down"]
    checked_at: float
    latency_ms: float
    error: str | None = None

    def told(self) -> dict[str, object]:
        """As every health page shows it."""
        shown = {
            "status": self.status,
            "checked_at": round(self.checked_at, 3),
            "latency_ms": round(self.latency_ms, 2),
        }
        return shown | ({"error": self.error} if self.error else {})


class Probes:
    """`checks` are pings that raise when a store is away."""

    def __init__(
        self,
        checks: Mapping[str, Callable[[], Awaitable[object]]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._checks = dict(checks)
        self._clock = clock
        self._wall = wall
        self._looked_at: float | None = None
        self._last: dict[str, Dependency] = {}

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.look()
            await asyncio.sleep(PERIOD_S)

    async def look(self) -> None:
        """At all of them, side by side; each has `CHECK_S`."""
        found = await asyncio.gather(*(self._look(check) for check in self._checks.values()))
        self._last = dict(zip(self._checks, found, strict=True))
        self._looked_at = self._clock()

    async def last(self) -> Mapping[str, Dependency]:
        """By name; looks only where nobody did lately."""
        if self._looked_at is None or self._clock() - self._looked_at > STALE_S:
            await self.look()
        return self._last

    async def _look(self, check: Callable[[], Awaitable[object]]) -> Dependency:
        started = self._clock()
        error: str | None = None
        try:
            async with asyncio.timeout(CHECK_S):
                await check()
        except ModelMoraError as cause:
            error = cause.detail
        except TimeoutError:
            error = f"no answer within {CHECK_S:g} s"
        return Dependency(
            status="down" if error else "ok",
            checked_at=self._wall(),
            latency_ms=(self._clock() - started) * 1e3,
            error=error,
        )
