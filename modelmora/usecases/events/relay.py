"""Carries events from the outbox to the broker, under a lease, never in the way of a request."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import structlog

from modelmora.errors import ModelMoraError
from modelmora.ports import Leases, Outbox, Publisher
from modelmora.telemetry import EVENTS_RELAYED, OUTBOX_WAITING

log = structlog.get_logger(__name__)

LEASE = "outbox"
PAGE = 500
TTL_S = 10.0
PERIOD_S = 0.25
"""How soon is seen what another process kept; what this one keeps is seen at once, see `nudge`."""
LONGEST_S = 10.0
"""The longest wait while a broker is away."""


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
    ) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._leases = leases
        self._holder = holder
        self._draw = draw
        self._nudged = asyncio.Event()
        self._failures = 0

    def nudge(self) -> None:
        """There is something to carry."""
        self._nudged.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wait(await self.turn())

    async def turn(self) -> float:
        """Carries all that is due; returns for how long to wait."""
        try:
            if await self._leases.acquire(LEASE, self._holder, ttl_s=TTL_S) is None:
                return PERIOD_S
            while carried := await self._page():
                EVENTS_RELAYED.labels("ok").inc(carried)
                await self._leases.acquire(LEASE, self._holder, ttl_s=TTL_S)
            OUTBOX_WAITING.set(await self._outbox.waiting())
        except ModelMoraError as error:
            return self._failed(error)
        if self._failures:
            self._failures = 0
            log.info("events_flow")
        return PERIOD_S

    async def _page(self) -> int:
        """How many were carried."""
        due = await self._outbox.due(limit=PAGE)
        if not due:
            return 0
        safe = await self._publisher.publish(due)
        numbers = [event.number for event, is_safe in zip(due, safe, strict=True) if is_safe]
        await self._outbox.carried(numbers)
        return len(numbers)

    def _failed(self, error: ModelMoraError) -> float:
        self._failures += 1
        EVENTS_RELAYED.labels(error.code).inc()
        if self._failures == 1:
            log.warning("events_stuck", code=error.code, why=error.detail)
        return min(LONGEST_S, PERIOD_S * 2.0**self._failures) * (0.5 + self._draw() / 2)

    async def _wait(self, seconds: float) -> None:
        if self._failures:
            await asyncio.sleep(seconds)  # nudges do not bring a broker back
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._nudged.wait()
        self._nudged.clear()
