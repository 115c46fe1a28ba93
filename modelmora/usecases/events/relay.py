"""Carries events from the outbox to the broker, under a lease, never in the way of a request."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable

import structlog

from modelmora.errors import InternalError, ModelMoraError
from modelmora.ports import Leases, Outbox, Publisher
from modelmora.telemetry import EVENTS_RELAYED, OUTBOX_WAITING

log = structlog.get_logger(__name__)

LEASE = "outbox"
PAGE = 500
TTL_S = 10.0
PERIOD_S = 0.5
"""How soon is seen what another process kept; what this one keeps is seen at once, see `nudge`."""
LONGEST_S = 10.0
"""The longest wait while a broker is away."""
KEPT_BACK_S = 1.0
MEASURE_S = 5.0
"""How old the gauge of what waits may be while nothing is carried."""
MOST_KEPT_BACK = 2_000
"""What a broker does not take is asked for again together with what comes after it, which may be another topic's."""


class Relay:
    """One at a time carries, whoever has the lease; what was carried and not crossed out is carried again."""

    def __init__(
        self,
        outbox: Outbox,
        publisher: Publisher,
        leases: Leases,
        *,
        holder: str,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._leases = leases
        self._holder = holder
        self._draw = draw
        self._clock = clock
        self._measured_at = -math.inf
        self._nudged = asyncio.Event()
        self._failures = 0
        self._kept_back = 0

    def nudge(self) -> None:
        """There is something to carry."""
        self._nudged.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wait(await self.turn())

    async def turn(self) -> float:
        """Carries all that is due; returns for how long to wait. Whatever goes wrong is tried anew."""
        moved = False
        try:
            while await self._leases.acquire(LEASE, self._holder, ttl_s=TTL_S) is not None:
                if carried := await self._page():
                    EVENTS_RELAYED.labels("ok").inc(carried)
                    moved = True
                    continue
                if moved or self._clock() >= self._measured_at + MEASURE_S:
                    await self._measure()
                return self._flows()
        except Exception as error:
            with contextlib.suppress(Exception):
                await self._measure()
            return self._failed(error)
        self._failures = 0  # another carries: what is wrong is told there
        return PERIOD_S

    async def release(self) -> None:
        """For the end of the process: another need not wait until the lease runs out. Raises DependencyUnavailable."""
        await self._leases.release(LEASE, self._holder)

    async def _page(self) -> int:
        """How many were carried."""
        due = await self._outbox.due(limit=PAGE + self._kept_back)
        safe = await self._publisher.publish(due) if due else []
        numbers = [event.number for event, is_safe in zip(due, safe, strict=True) if is_safe]
        if numbers:
            await self._outbox.carried(numbers)
        self._kept_back = min(MOST_KEPT_BACK, len(due) - len(numbers))
        return len(numbers)

    async def _measure(self) -> None:
        self._measured_at = self._clock()
        OUTBOX_WAITING.set(await self._outbox.waiting())

    def _flows(self) -> float:
        if self._failures:
            self._failures = 0
            log.info("events_flow")
        return KEPT_BACK_S if self._kept_back else PERIOD_S

    def _failed(self, error: Exception) -> float:
        self._failures += 1
        code, defect = (error.code, None) if isinstance(error, ModelMoraError) else (InternalError.code, error)
        EVENTS_RELAYED.labels(code).inc()
        if self._failures == 1:
            log.warning("events_stuck", code=code, why=str(error), exc_info=defect)
        return min(LONGEST_S, PERIOD_S * 2.0 ** min(self._failures - 1, 10)) * (0.5 + self._draw() / 2)

    async def _wait(self, seconds: float) -> None:
        if self._failures:
            await asyncio.sleep(seconds)  # nudges do not bring a broker back
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._nudged.wait()
        self._nudged.clear()
