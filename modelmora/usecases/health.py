"""How the service is: alive, ready, and what each part says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from modelmora.errors import ModelMoraError
from modelmora.ports import ModelHost
from modelmora.usecases.models import Models, ModelStatus

RESTART_GRACE_S = 60.0
"""A missing runner worker makes the service unready only after so long: it is restarted in half of it."""

CHECK_S = 1.0
"""A store that does not answer for so long is down: /health itself must answer."""

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
        self._short_since: float | None = self._started
        self.draining = False

    def readiness(self) -> Readiness:
        """Ready while every group has a ready worker and none has been short of workers for long."""
        counts = self._counts()
        missing = [f"{g}: {ready} of {wanted} ready" for g, (ready, _, wanted) in counts.items() if ready < wanted]
        self._note_shortage(bool(missing))
        without = [group for group, (ready, _, _) in counts.items() if ready == 0]
        if self.draining:
            return Readiness(ready=False, runners=counts, why="shutting down")
        if without or (missing and self._short_for_long()):
            return Readiness(ready=False, runners=counts, why="; ".join(missing))
        return Readiness(ready=True, runners=counts, why="; ".join(missing) or None)

    async def report(self) -> HealthReport:
        """Down when not ready; degraded when anything else is amiss, such as a store that is away."""
        readiness = self.readiness()
        models = self._models.list()
        looks = await asyncio.gather(*(self._look(check) for check in self._checks.values()))
        dependencies = dict(zip(self._checks, looks, strict=True))
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

    async def _look(self, check: Callable[[], Awaitable[object]]) -> Dependency:
        started = self._clock()
        error: str | None = None
        try:
            async with asyncio.timeout(CHECK_S):
                await check()
        except ModelMoraError as cause:
            error = cause.detail
        except TimeoutError:
            error = f"no answer within {CHECK_S:g} s"
        return Dependency(
            status="down" if error else "ok",
            checked_at=self._wall(),
            latency_ms=(self._clock() - started) * 1e3,
            error=error,
        )
