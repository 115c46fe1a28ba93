"""Brings runner workers to the wanted state: what was loaded explicitly is loaded on new workers too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

import structlog

from modelmora.domain.catalogue import Look
from modelmora.domain.models import ModelRef, ModelSpec
from modelmora.errors import RETRYABLE, ModelMoraError, NotFound
from modelmora.ports import Desire, DesiredModels, ModelHost, Wanted, WorkerView

log = structlog.get_logger(__name__)

PERIOD_S = 1.0
CHANGE_S = 600.0


def pending(
    desires: Sequence[Desire],
    workers: Sequence[WorkerView],
    applied: set[tuple[str, str, int]],
    known: Collection[str] = (),
) -> list[tuple[Desire, list[str]]]:
    """The wishes that some worker has not seen yet, with those workers.

    A worker sees each generation of a wish once: what it evicts afterwards for want of room stays out. An unload has
    reached the `known` workers, those that were there before the wish, by the call that made it: where the model is
    loaded now, somebody has asked for it since.
    """
    todo = []
    for desire in desires:
        model = f"{desire.name}@{desire.version}"
        unseen = [w for w in workers if (w.worker, model, desire.generation) not in applied]
        lagging = [w.worker for w in unseen if _lags(w, model, desire.wanted, known)]
        applied.update((w.worker, model, desire.generation) for w in unseen)
        if lagging:
            todo.append((desire, lagging))
    return todo


class Reconciler:
    """Polls the wishes each second; every step may be repeated."""

    def __init__(self, catalogue: Look, desired: DesiredModels, host: ModelHost) -> None:
        self._catalogue = catalogue
        self._desired = desired
        self._host = host
        self._applied: set[tuple[str, str, int]] = set()
        self._known: set[str] = set()
        self._before = catalogue()

    async def run(self) -> None:
        """For ever; a store that is away is asked again."""
        while True:
            try:
                await self.once()
            except ModelMoraError as error:
                log.warning("wishes_unknown", code=error.code, detail=error.detail)
            await asyncio.sleep(PERIOD_S)

    async def once(self) -> None:
        """One look at wishes and workers, and the changes that follow."""
        workers = [w for w in self._host.workers() if w.ready]
        await self._let_go(workers)
        todo = pending(await self._desired.all(), workers, self._applied, self._known)
        self._known = {w.worker for w in workers}
        for desire, lagging in todo:
            spec = self._spec(desire)
            if spec is not None and any(w.worker in lagging and w.group == spec.group for w in workers):
                await self._fulfil(desire, spec, lagging)

    async def _let_go(self, workers: Sequence[WorkerView]) -> None:
        """Models that were served and are not any more, such as a version that was archived, go from memory."""
        before, self._before = self._before, self._catalogue()
        if before is self._before:
            return
        served = {spec.key for spec in self._before.models}
        for spec in before.models:
            if spec.key not in served and any(spec.key in worker.holdings for worker in workers):
                gone = Desire(name=spec.name, version=spec.version, wanted="unloaded", generation=0)
                await self._fulfil(gone, spec, [])

    async def _fulfil(self, desire: Desire, spec: ModelSpec, lagging: Sequence[str]) -> None:
        """One wish; where it fails the others go on, and it is tried again if that may help."""
        change = self._host.load if desire.wanted == "loaded" else self._host.unload
        try:
            await change(spec, deadline=time.monotonic() + CHANGE_S)
        except ModelMoraError as error:
            log.warning("wish_failed", model=spec.name, version=spec.version, code=error.code, detail=error.detail)
            if error.code in RETRYABLE:
                self._applied -= {(worker, spec.key, desire.generation) for worker in lagging}
                self._known -= set(lagging)

    def _spec(self, desire: Desire) -> ModelSpec | None:
        try:
            return self._catalogue().get(ModelRef(desire.name, desire.version))
        except NotFound:  # declared once, no longer
            return None


def _lags(view: WorkerView, model: str, wanted: Wanted, known: Collection[str]) -> bool:
    if wanted == "unloaded" and view.worker in known:
        return False
    return _loaded(view, model) != (wanted == "loaded")


def _loaded(view: WorkerView, model: str) -> bool:
    holding = view.holdings.get(model)
    return holding is not None and holding.state in ("loaded", "loading")
