"""Looks after pictures that nobody works on: waits that are over, ways that got stuck, pictures whose time is over."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

import structlog

from modelmora.errors import ModelMoraError
from modelmora.ports import DeadLetters, Leases, PictureRecords
from modelmora.telemetry import DEAD_LETTERS, WAYS
from modelmora.usecases.pictures.remove import Remove

log = structlog.get_logger(__name__)

LEASE = "sweep"
TTL_S = 10.0
PERIOD_S = 1.0
MEASURE_S = 5.0
"""How old what the gauges show may be."""
PAGE = 200
STATES = ("received", "working", "indexed", "retry_wait", "rejected", "dead", "superseded", "tombstoned")


class Sweep:
    """One at a time, whoever has the lease."""

    def __init__(
        self,
        records: PictureRecords,
        letters: DeadLetters,
        remove: Remove,
        leases: Leases,
        *,
        holder: str,
        source: str,
        stuck_s: float,
        tries: int,
        nudge: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._records = records
        self._letters = letters
        self._remove = remove
        self._leases = leases
        self._holder = holder
        self._source = source
        self._stuck_s = stuck_s
        self._tries = tries
        self._nudge = nudge
        self._wait = wait
        self._clock = clock
        self._measured_at = -math.inf
        self._failing = False

    async def run(self) -> None:
        """For ever, whatever happens: nobody else would announce again."""
        while True:
            try:
                await self.turn()
                self._failing = False
            except Exception as cause:
                if not self._failing:
                    expected = isinstance(cause, ModelMoraError)
                    log.warning("sweep_failed", why=str(cause), exc_info=None if expected else cause)
                self._failing = True
            await self._wait(PERIOD_S)

    async def turn(self) -> int:
        """How many pictures were announced again. Raises DependencyUnavailable."""
        if await self._leases.acquire(LEASE, self._holder, ttl_s=TTL_S) is None:
            return 0
        announced = await self._records.announce_again(
            stuck_s=self._stuck_s, tries=self._tries, limit=PAGE, source=self._source
        )
        if announced:
            log.info("announced_again", pictures=announced)
            self._nudge()
        while await self._remove.expired():
            await self._leases.acquire(LEASE, self._holder, ttl_s=TTL_S)
        await self._measure()
        return announced

    async def _measure(self) -> None:
        """Each question counts whole tables, which nobody needs each second."""
        if self._clock() < self._measured_at + MEASURE_S:
            return
        self._measured_at = self._clock()
        states = await self._records.lag()
        for state in STATES:
            WAYS.labels(state).set(states.get(state, 0))
        DEAD_LETTERS.set(await self._letters.count())
