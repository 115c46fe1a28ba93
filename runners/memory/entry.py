"""One model's place in the pool."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from modelmora.domain.description import Description
from modelmora.domain.memory import Held, Resting
from modelmora.domain.models import ModelSpec, State
from modelmora.errors import ModelMoraError
from modelmora.ports import Holding
from runners.provider import Loaded, Tell
from runners.signals import Signal


@dataclass(slots=True, eq=False)
class Entry:
    """One model's place in the pool.

    `leases` hold it; `claims` are those and the ones still waiting for it: a claimed model is not evicted.
    `bytes` of `device`'s memory are taken: reserved before it is loaded, given back when it is gone. A load that failed
    and said so is not tried before `again_at`. `described` is what the model said of itself when it was last loaded.
    """

    spec: ModelSpec
    state: State = "unloaded"
    loaded: Loaded | None = None
    described: Description | None = None
    device: str = "cpu"
    bytes: int = 0
    loads: int = 0
    leases: int = 0
    claims: int = 0
    used_at: float = 0.0
    again_at: float = 0.0
    error: ModelMoraError | None = None
    loading: asyncio.Task[Loaded] | None = None
    converting: asyncio.Task[None] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    tells: list[Tell] = field(default_factory=list)
    idle: Signal = field(default_factory=Signal)
    freed: Signal = field(default_factory=Signal)

    def holding(self) -> Holding:
        """As the callers see it."""
        return Holding(
            model=self.spec.key,
            state=self.state,
            bytes=self.bytes if self.loaded else 0,
            in_flight=self.leases,
            error=self.error.detail if self.error else None,
            loads=self.loads,
        )

    def held(self) -> Held:
        """As evictions are decided."""
        busy = self.claims > 0 or self.state != "loaded"
        return Held(model=self.spec.key, bytes=self.bytes, device=self.device, busy=busy, pinned=self.spec.pin)

    def resting(self) -> Resting | None:
        """As idle ones are found; None for a model that may stay as long as it likes."""
        ttl = self.spec.idle_ttl_s
        if ttl is None or self.spec.pin or self.state != "loaded":
            return None
        return Resting(model=self.spec.key, ttl_s=ttl, used_at=self.used_at, busy=self.claims > 0)

    @contextlib.contextmanager
    def telling(self, tell: Tell | None) -> Iterator[None]:
        """Somebody who waits, and perhaps wants to know how far it is."""
        if tell is not None:
            self.tells.append(tell)
        try:
            yield
        finally:
            if tell is not None:
                self.tells.remove(tell)

    def tell(self, done: int, total: int) -> None:
        """Passes on how far the loading is to everybody who waits and asked."""
        for tell in list(self.tells):
            tell(done, total)
