"""Tells of models that runners load and let go: what the workers say they hold, compared with what they said before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog

from modelmora.domain.events.data import ModelLoaded, ModelUnloaded
from modelmora.domain.events.envelope import Event
from modelmora.domain.events.models import loaded, unloaded
from modelmora.errors import ModelMoraError
from modelmora.ports import Leases, ModelHost, Outbox

log = structlog.get_logger(__name__)

TTL_S, PERIOD_S = 10.0, 1.0


class ModelEvents:
    """One of the processes that have the same runners tells, whoever has the lease of that name."""

    def __init__(
        self,
        host: ModelHost,
        outbox: Outbox,
        leases: Leases,
        *,
        lease: str,
        holder: str,
        source: str,
        topic: str,
        new_id: Callable[[], str],
        clock: Callable[[], datetime],
    ) -> None:
        self._host = host
        self._outbox = outbox
        self._leases = leases
        self._lease = lease
        self._holder = holder
        self._source = source
        self._topic = topic
        self._new_id = new_id
        self._clock = clock
        self._seen: dict[tuple[str, str], int] = {}

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.turn()
            except ModelMoraError as error:
                log.warning("model_events_failed", code=error.code, why=error.detail)
            await asyncio.sleep(PERIOD_S)

    async def turn(self) -> int:
        """How many events were kept. Raises DependencyUnavailable."""
        if await self._leases.acquire(self._lease, self._holder, ttl_s=TTL_S) is None:
            return 0
        now = {
            (worker.worker, holding.model): holding.bytes
            for worker in self._host.workers()
            for holding in worker.holdings.values()
            if holding.state == "loaded"
        }
        events = [self._loaded(key, model, now[key, model]) for key, model in now.keys() - self._seen.keys()]
        events += [self._unloaded(key, model) for key, model in self._seen.keys() - now.keys()]
        await self._outbox.add(events)
        self._seen = now
        return len(events)

    def _loaded(self, worker: str, key: str, bytes_: int) -> Event:
        model, _, version = key.partition("@")
        told = ModelLoaded(model=model, version=version, worker=worker, bytes=bytes_)
        return loaded(told, source=self._source, id_=self._new_id(), time=self._clock(), topic=self._topic)

    def _unloaded(self, worker: str, key: str) -> Event:
        model, _, version = key.partition("@")
        told = ModelUnloaded(model=model, version=version, worker=worker)
        return unloaded(told, source=self._source, id_=self._new_id(), time=self._clock(), topic=self._topic)
