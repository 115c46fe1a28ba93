"""How the service is: alive, ready, and what each part says."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from modelmora.errors import ModelMoraError
from modelmora.ports import ModelHost
from modelmora.usecases.models import Models, ModelStatus

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
class Dependency:
    """What the last look at a store said."""

    status: Status
    checked_at: float
    latency_ms: float
    error: str | None = None


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
    """Looks at the runners and the stores; `checks` are pings that raise when a store is away."""

    def __init__(
        self,
        host: ModelHost,
        models: Models,
        *,
        checks: Mapping[str, Callable[[], Awaitable[object]]],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._models = models
        self._checks = dict(checks)
        self._clock = clock
        self._wall = wall
        self._started = clock()
        self._complete_at: float | None = None
        self.draining = False

    def readiness(self) -> Readiness:
        """Ready while every group has a ready worker and none has been short of workers for long."""
        counts = self._counts()
        missing = [f"{g}: {ready} of {wanted} ready" for g, (ready, _, wanted) in counts.items() if ready < wanted]
        if not missing:
            self._complete_at = self._clock()
        without = [group for group, (ready, _, _) in counts.items() if ready == 0]
        if self.draining:
            return Readiness(ready=False, runners=counts, why="shutting down")
        if without or (missing and self._short_for_long()):
            return Readiness(ready=False, runners=counts, why="; ".join(missing))
        return Readiness(ready=True, runners=counts, why="; ".join(missing) or None)

    async def report(self) -> HealthReport:
        """Down without any ready runner or with a store away; degraded when anything else is amiss."""
        readiness = self.readiness()
        models = self._models.list()
        dependencies = {name: await self._look(check) for name, check in self._checks.items()}
        return HealthReport(
            status=self._status(readiness, models, dependencies),
            uptime_s=self._clock() - self._started,
            models=models,
            memory=self._memory(),
            dependencies=dependencies,
            readiness=readiness,
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

    def _short_for_long(self) -> bool:
        since = self._complete_at if self._complete_at is not None else self._started
        return self._clock() - since > RESTART_GRACE_S

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

    async def _look(self, check: Callable[[], Awaitable[object]]) -> Dependency:
        started = self._clock()
        error: str | None = None
        try:
            await check()
        except ModelMoraError as cause:
            error = cause.detail
        return Dependency(
            status="down" if error else "ok",
            checked_at=self._wall(),
            latency_ms=(self._clock() - started) * 1e3,
            error=error,
        )
