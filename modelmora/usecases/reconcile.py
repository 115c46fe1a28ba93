"""Brings runner workers to the wanted state: what was loaded explicitly is loaded on new workers too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from modelmora.domain.catalogue import Look
from modelmora.domain.models import ModelSpec
from modelmora.errors import RETRYABLE, ModelMoraError
from modelmora.ports import Desire, DesiredModels, ModelHost, WorkerView
from modelmora.usecases.registry.roster import SETTLED_S

log = structlog.get_logger(__name__)

PERIOD_S = 1.0
CHANGE_S = 600.0


@dataclass(frozen=True, slots=True)
class _Unload:
    """A wish that a model goes, as it was first seen: when, and how often each worker had loaded the model by then."""

    generation: int
    seen_at: float
    loads: Mapping[str, int]


class Reconciler:
    """Polls the wishes each second; every step may be repeated.

    A worker sees each generation of a wish once: what it evicts afterwards for want of room stays out. A model that is
    to go does so `settled_s` after the wish, when no process asks for it any more, unless it was loaded anew since:
    then the call that made the wish has reached the worker, and somebody has asked for it again.
    """

    def __init__(
        self,
        catalogue: Look,
        desired: DesiredModels,
        host: ModelHost,
        *,
        declared: Sequence[ModelSpec] = (),
        settled_s: float = SETTLED_S,
    ) -> None:
        """`declared` is what workers know by themselves, served or not."""
        self._catalogue = catalogue
        self._desired = desired
        self._host = host
        self._settled_s = settled_s
        self._specs = {spec.key: spec for spec in declared}
        self._before = catalogue()
        self._applied: dict[tuple[str, str], int] = {}
        self._unloads: dict[str, _Unload] = {}

    async def run(self) -> None:
        """For ever; a store that is away is asked again."""
        while True:
            try:
                await self.once()
            except ModelMoraError as error:
                log.warning("wishes_unknown", code=error.code, why=error.detail)
            await asyncio.sleep(PERIOD_S)

    async def once(self) -> None:
        """One look at wishes and workers, and the changes that follow."""
        workers = [w for w in self._host.workers() if w.ready]
        alive = {w.worker for w in self._host.workers()}
        self._applied = {seen: generation for seen, generation in self._applied.items() if seen[0] in alive}
        await self._let_go(workers)
        for desire in await self._desired.all():
            spec = self._catalogue().find(desire.name, desire.version)
            if spec is not None and (lagging := self._lagging(desire, spec, workers)):
                await self._fulfil(desire, spec, lagging)

    def _lagging(self, desire: Desire, spec: ModelSpec, workers: Sequence[WorkerView]) -> list[str]:
        """The workers that this wish is new to, and that have not what it wants."""
        mine = [w for w in workers if w.group == spec.group]
        if desire.wanted == "unloaded" and not self._is_settled(desire, spec.key, mine):
            return []
        new_to = [w for w in mine if self._applied.get((w.worker, spec.key)) != desire.generation]
        self._applied.update({(w.worker, spec.key): desire.generation for w in new_to})
        if desire.wanted == "loaded":
            return [w.worker for w in new_to if not _loaded(w, spec.key)]
        since = [w for w in new_to if self._unloads[spec.key].loads.get(w.worker) not in (None, _loads(w, spec.key))]
        return [w.worker for w in new_to if _loaded(w, spec.key) and w not in since]

    def _is_settled(self, desire: Desire, model: str, workers: Sequence[WorkerView]) -> bool:
        seen, now = self._unloads.get(model), time.monotonic()
        if seen is None or seen.generation != desire.generation:
            loads = {w.worker: _loads(w, model) for w in workers}
            self._unloads[model] = seen = _Unload(desire.generation, now, loads)
        return now - seen.seen_at >= self._settled_s

    async def _let_go(self, workers: Sequence[WorkerView]) -> None:
        """What is not served (any more), such as a version that was archived, goes from memory."""
        now, before, self._before = self._catalogue(), self._before, self._catalogue()
        held = dict.fromkeys(key for worker in workers for key in worker.holdings if _loaded(worker, key))
        for key in held:
            name, _, version = key.rpartition("@")
            if now.find(name, version) is not None:
                continue
            spec = before.find(name, version) or self._specs.get(key)
            if spec is not None:
                self._specs[key] = spec
                await self._fulfil(Desire(name=name, version=version, wanted="unloaded", generation=0), spec, [])

    async def _fulfil(self, desire: Desire, spec: ModelSpec, lagging: Sequence[str]) -> None:
        """One wish; where it fails the others go on, and it is tried again if that may help."""
        change = self._host.load if desire.wanted == "loaded" else self._host.unload
        try:
            await change(spec, deadline=time.monotonic() + CHANGE_S)
        except ModelMoraError as error:
            log.warning("wish_failed", model=spec.name, version=spec.version, code=error.code, why=error.detail)
            if error.code in RETRYABLE:
                for worker in lagging:
                    self._applied.pop((worker, spec.key), None)


def _loaded(view: WorkerView, model: str) -> bool:
    holding = view.holdings.get(model)
    return holding is not None and holding.state in ("loaded", "loading")


def _loads(view: WorkerView, model: str) -> int:
    """How often the worker has loaded the model, with the load that is under way."""
    holding = view.holdings.get(model)
    return 0 if holding is None else holding.loads + (holding.state == "loading")
