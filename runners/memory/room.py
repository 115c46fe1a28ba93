"""Who holds how much of each device's memory, and who must go when it is too much: one change at a time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import takewhile

import structlog

from modelmora.domain.memory import evictions
from modelmora.errors import OutOfMemory
from runners.devices import Share
from runners.memory.entry import Entry
from runners.process import telemetry
from runners.signals import Signal

log = structlog.get_logger(__name__)


class Room:
    """The accounts of the pool's entries, which are in least-recently-used order.

    `free` unloads one. `changing` is held by whoever reserves, loads or frees, so that room is reckoned, used and
    measured by one at a time; `released` is set whenever room may have come free.
    """

    def __init__(self, share: Share, entries: OrderedDict[str, Entry], free: Callable[[Entry], Awaitable[None]]):
        self.changing = asyncio.Lock()
        self.released = Signal()
        self._share = share
        self._entries = entries
        self._free = free
        self._settling: asyncio.Task[None] | None = None

    def budget(self, device: str) -> int:
        """Bytes for models in the memory of `device` (0: no limit)."""
        return self._share.budget(device)

    def held_bytes(self, device: str | None = None) -> int:
        """What is taken and reserved on a device, or on all."""
        return sum(e.bytes for e in self._entries.values() if device in (None, e.device))

    async def clear(self, entry: Entry, need: int) -> bool:
        """Makes `need` bytes free for an entry on its device, beside what it has; False while others are in use.

        Raises OutOfMemory when it would not fit even without those. Under `changing`.
        """
        return await self._evict(entry.device, need, model=entry.spec.key, besides=entry)

    def changed(self) -> None:
        """A footprint has changed: where the budget is passed now, others go as soon as they may."""
        self.released.set()
        if self._over() and (self._settling is None or self._settling.done()):
            self._settling = asyncio.create_task(self._settle())

    async def close(self) -> None:
        """Evicts nothing more."""
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)

    def _over(self) -> list[str]:
        devices = {e.device for e in self._entries.values() if e.bytes}
        return [device for device in devices if 0 < self.budget(device) < self.held_bytes(device)]

    async def _settle(self) -> None:
        """Evicts until every device is within its budget, waiting for what is in use."""
        while over := self._over():
            released = self.released.next()
            async with self.changing:
                try:
                    done = [await self._evict(device, 0, model="what is loaded") for device in over]
                except OutOfMemory as error:  # pinned models hold it all
                    log.warning("budget_passed", why=error.detail)
                    return
            if not all(done):
                await released.wait()

    async def _evict(self, device: str, need: int, *, model: str, besides: Entry | None = None) -> bool:
        """Evicts one by one: meanwhile others may be leased, or left."""
        budget = self.budget(device)
        while True:
            held = [e.held() for e in self._entries.values() if e.bytes and e is not besides and e.device == device]
            try:
                going = evictions(held, need, budget, model=model, device=device)
            except OutOfMemory:
                evictions([replace(h, busy=False) for h in held], need, budget, model=model, device=device)
                return False
            if not going:
                return True
            await self._let_go(self._entries[going[0]], need=need, free=budget - sum(h.bytes for h in held))

    def _older(self, entry: Entry) -> list[str]:
        """Those on its device that were used less recently and stay, being in use or pinned."""
        before = takewhile(lambda e: e is not entry, self._entries.values())
        return [e.spec.key for e in before if e.loaded is not None and e.device == entry.device]

    async def _let_go(self, entry: Entry, *, need: int, free: int) -> None:
        spec, size = entry.spec, entry.bytes
        log.info(
            "model_evicted", model=spec.name, version=spec.version, bytes=size, device=entry.device,
            need=need, free=free, kept=self._older(entry),
        )  # fmt: skip
        telemetry.EVICTIONS.labels(spec.name, spec.version).inc()
        try:
            evictions([], size, self.budget(entry.device), model=spec.key, device=entry.device)
        except OutOfMemory as error:  # it has grown larger than all the room there is: no use to load it again
            entry.error = error
        await self._free(entry)
