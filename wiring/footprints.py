"""What models were measured to take, remembered over restarts: runners measure, the API workers carry."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence

from modelmora.domain.catalogue import Look
from modelmora.domain.models import ModelSpec
from modelmora.errors import DependencyUnavailable
from modelmora.ports import Footprint, Footprints, Leases, WorkerView

LEASE = "footprints"
LEASE_TTL_S = 10.0
LEASE_PERIOD_S = 3.0


class FootprintMemory:
    """Between the runners and the store. A footprint stands under the device and precision that a model declares,
    `auto` being its worker's own device: what the runner knows before it loads the model."""

    def __init__(self, store: Footprints, leases: Leases, catalogue: Look) -> None:
        self._store = store
        self._leases = leases
        self._catalogue = catalogue
        self._holder = f"{os.uname().nodename}-{os.getpid()}"
        self._stored: dict[tuple[str, str, str], int] = {}

    async def of_group(self, group: str) -> Sequence[Footprint]:
        """What is known of a group's models; nothing while the store is away."""
        models = {spec.key for spec in self._catalogue().in_group(group)}
        try:
            return [footprint for footprint in await self._store.all() if footprint.model in models]
        except DependencyUnavailable:
            return []

    async def keep(self, workers: Callable[[], Sequence[WorkerView]]) -> None:
        """For ever: the lease holder stores what the runners measured, so that it outlives them."""
        while True:
            with contextlib.suppress(DependencyUnavailable):
                await self.keep_once(workers())
            await asyncio.sleep(LEASE_PERIOD_S)

    async def keep_once(self, workers: Sequence[WorkerView]) -> None:
        """Stores what is new, if this process is the one that does."""
        if await self._leases.acquire(LEASE, self._holder, ttl_s=LEASE_TTL_S) is None:
            self._stored.clear()  # another stores now: what stands there may change
            return
        specs = {spec.key: spec for spec in self._catalogue().models}
        for footprint in measured(workers, specs):
            key = (footprint.model, footprint.device, footprint.precision)
            if self._stored.get(key) != footprint.bytes:
                await self._store.remember(footprint)
                self._stored[key] = footprint.bytes


def measured(workers: Sequence[WorkerView], specs: Mapping[str, ModelSpec]) -> list[Footprint]:
    """The footprints of what is loaded: of several workers the largest."""
    largest: dict[tuple[str, str, str], int] = {}
    for view in workers:
        for holding in view.holdings.values():
            spec = specs.get(holding.model)
            if spec is not None and holding.state == "loaded" and holding.bytes:
                key = (spec.key, _device(spec, view), spec.form)
                largest[key] = max(holding.bytes, largest.get(key, 0))
    return [
        Footprint(model=model, device=device, precision=precision, bytes=size)
        for (model, device, precision), size in largest.items()
    ]


def _device(spec: ModelSpec, view: WorkerView) -> str:
    if spec.exported:
        return "cpu"
    return view.device if spec.device == "auto" else spec.device
