"""How the service is: alive, ready, and what each part says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from modelmora.ports import ModelHost
from modelmora.telemetry import show_health
from modelmora.usecases.models import Models, ModelStatus
from modelmora.usecases.probes import PERIOD_S, Dependency, Probes
from modelmora.usecases.recent_inferences import RecentInferences

RESTART_GRACE_S = 60.0
"""A missing runner worker makes the service unready only after so long: it is restarted in half of it."""

Status = Literal["ok", "degraded", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """`runners`: group -> (ready, live, wanted) workers."""

    ready: bool
    runners: Mapping[str, tuple[int, int, int]]
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """The answer of /health; memory in bytes."""

    status: Status
    uptime_s: float
    models: Sequence[ModelStatus]
    memory: Mapping[str, int]
    dependencies: Mapping[str, Dependency]
    readiness: Readiness


class Health:
    """Looks at the runners, and at what is told of the stores and of the last inferences."""

    def __init__(
        self,
        host: ModelHost,
        models: Models,
        probes: Probes,
        recent: RecentInferences,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._models = models
        self._probes = probes
        self._recent = recent
        self._clock = clock
        self._started = clock()
        self._short_since: float | None = self._started
        self.draining = False

    async def watch(self) -> None:
        """For ever: looks at the stores, and shows in gauges how the service is."""
        while True:
            await self._probes.look()
            self._show(await self._probes.last())
            await asyncio.sleep(PERIOD_S)

    def readiness(self) -> Readiness:
        """Ready while every group has a ready worker and none has been short of workers for long, no default model
        failed to load, and the last inferences did not all fail."""
        counts = self._counts()
        missing = [f"{g}: {ready} of {wanted} ready" for g, (ready, _, wanted) in counts.items() if ready < wanted]
        self._note_shortage(bool(missing))
        without = [group for group, (ready, _, _) in counts.items() if ready == 0]
        if self.draining:
            return Readiness(ready=False, runners=counts, why="shutting down")
        if without or (missing and self._short_for_long()):
            return Readiness(ready=False, runners=counts, why="; ".join(missing))
        if trouble := self._without_default() or self._recent.trouble():
            return Readiness(ready=False, runners=counts, why=trouble)
        return Readiness(ready=True, runners=counts, why="; ".join(missing) or None)

    async def report(self) -> HealthReport:
        """Down when not ready; degraded when anything else is amiss, such as a store that is away."""
        readiness = self.readiness()
        models = self._models.list()
        dependencies = await self._probes.last()
        return HealthReport(
            status=self._status(readiness, models, dependencies),
            uptime_s=self._clock() - self._started,
            models=models,
            memory=self._memory(),
            dependencies=dependencies,
            readiness=readiness,
        )

    def _show(self, dependencies: Mapping[str, Dependency]) -> None:
        readiness = self.readiness()
        told = {"ready": 0, "live": 0, "wanted": 0}
        for counts in readiness.runners.values():
            told = {kind: told[kind] + count for kind, count in zip(told, counts, strict=True)}
        show_health(
            ready=readiness.ready,
            up={name: look.status == "ok" for name, look in dependencies.items()},
            workers=told,
            memory={name.removesuffix("_bytes"): size for name, size in self._memory().items()},
        )

    def _counts(self) -> dict[str, tuple[int, int, int]]:
        workers = self._host.workers()
        return {
            group: (
                sum(w.group == group and w.ready for w in workers),
                sum(w.group == group for w in workers),
                wanted,
            )
            for group, wanted in self._host.wanted().items()
        }

    def _without_default(self) -> str | None:
        failed = (model for model in self._models.list() if model.spec.default and model.state == "failed")
        return next((f"{model.spec.key} is a default and cannot be loaded: {model.error}" for model in failed), None)

    def _note_shortage(self, short: bool) -> None:
        """Remembers since when it was seen: whoever asks rarely must not take a fresh shortage for an old one."""
        if not short:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = self._clock()

    def _short_for_long(self) -> bool:
        return self._short_since is not None and self._clock() - self._short_since > RESTART_GRACE_S

    def _status(
        self, readiness: Readiness, models: Sequence[ModelStatus], dependencies: Mapping[str, Dependency]
    ) -> Status:
        if not readiness.ready:
            return "down"
        amiss = (
            readiness.why is not None
            or any(m.state == "failed" for m in models)
            or any(d.status != "ok" for d in dependencies.values())
        )
        return "degraded" if amiss else "ok"

    def _memory(self) -> dict[str, int]:
        workers = self._host.workers()
        return {
            "held_bytes": sum(w.held_bytes for w in workers),
            "budget_bytes": sum(w.budget_bytes for w in workers),
            "resident_bytes": sum(w.resident_bytes for w in workers),
        }
