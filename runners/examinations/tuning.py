"""`tune`: a model's batches in every size and on every division of the cores, timed while nobody else is served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import structlog

from modelmora.domain import tuning
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.tuning import Division, Measured
from modelmora.errors import DeadlineExceeded, OutOfMemory, Overloaded
from runners import devices
from runners.forms import form_of
from runners.host import lanes_of
from runners.memory.meters import Meter, meter_of
from runners.payload import Payload
from runners.provider import Loaded

if TYPE_CHECKING:
    from runners.host import RunnerHost

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How long it measures: windows of `window_s` until three agree, at most `windows` of them a setting.

    Batches of more than `longest_ms` are not doubled; `lone` single items give the median of one alone.
    """

    largest: int = tuning.LARGEST
    window_s: float = 1.0
    windows: int = 6
    longest_ms: float = 10_000.0
    lone: int = 15


COURSE = Course()


class _OutOfTime(Exception):
    """The next window would end after the deadline."""


async def tune(
    host: RunnerHost, spec: ModelSpec, *, deadline: float, course: Course = COURSE
) -> AsyncGenerator[dict[str, Any], None]:
    """A row a setting, then the report; the deadline ends the sweep early, with what was measured until then.

    Raises what loading raises, Overloaded when others are served meanwhile, DeadlineExceeded when there was no time
    for a single setting.
    """
    _alone(host, spec)
    yield {"stage": "loading", "done": 0, "total": 0}
    async with host.pool.lease(spec) as loaded:
        task = sorted(host.provider(spec).tasks())[0]
        sweep = _Sweep(host, spec, loaded, task, deadline, course)
        async for row in sweep.rows():
            yield row
        yield sweep.report()


@dataclass(slots=True)
class _Sweep:
    """One task of one loaded model."""

    host: RunnerHost
    spec: ModelSpec
    loaded: Loaded
    task: Task
    deadline: float
    course: Course
    measured: list[Measured] = field(default_factory=list)
    ended: str = ""
    joined: bool = False

    async def rows(self) -> AsyncGenerator[dict[str, Any], None]:
        """Smallest batches first on each division; what does not fit or takes too long is left out."""
        plan = self._divisions()
        total = len(plan) * len(tuning.sizes(self.course.largest))
        try:
            for number, division in enumerate(plan):
                done = number * total // len(plan)
                lone_ms = await self._lone_ms(division.threads)
                async for one in self._division(division, lone_ms):
                    done += 1
                    yield {"stage": "measured", "done": done, "total": total, "task": self.task, **asdict(one)}
        except _OutOfTime:
            self.ended = "the deadline came before every setting was tried"
        if not self.measured:
            raise DeadlineExceeded(f"no time to tune {self.spec.key}; ask with a longer deadline")

    def _divisions(self) -> list[Division]:
        """What another library than torch runs has all cores in any lane: there is one way to divide them."""
        device = lanes_of(self.host.share)
        limit = device.limit if form_of(self.loaded).engine == "torch" else 1
        return tuning.divisions(device.cores, limit)

    def report(self) -> dict[str, Any]:
        """The best setting and what to write into the registry for it; `ended` says why the sweep is not whole."""
        best = tuning.best(self.measured)
        cores = best.lanes * best.threads * self.host.group.workers
        told = {
            "model": self.spec.name,
            "version": self.spec.version,
            "task": self.task,
            "device": self.loaded.device,
            **form_of(self.loaded).to_dict(),
            "group": self.spec.group,
            "ended": self.ended,
            "best": asdict(best),
            "settings": {
                "batching": {"max_batch": best.batch},
                "resources": {"cpu": cores},
            },
        }
        log.info("model_tuned", **{name: told[name] for name in ("model", "version", "task", "best")})
        return {"stage": "report", **told, "rows": [asdict(one) for one in self.measured]}

    async def _division(self, division: Division, lone_ms: float) -> AsyncGenerator[Measured, None]:
        for batch in tuning.sizes(self.course.largest):
            try:
                one = await self._setting(division, batch, lone_ms)
            except (OutOfMemory, MemoryError):
                self.ended = self.ended or f"batches of {batch} are too large for the memory"
                return
            self.measured.append(one)
            yield one
            if not tuning.grows(one, room=self._room(), longest_ms=self.course.longest_ms):
                self.ended = self.ended or f"batches of more than {batch} would take too much memory or time"
                return

    async def _setting(self, division: Division, batch: int, lone_ms: float) -> Measured:
        """Windows until three agree."""
        meter = meter_of(self.loaded.device)
        used = meter.start()
        rates: list[float] = []
        took: list[float] = []
        await self._window(division, batch, 0.0)  # the first batch of a size is slower: buffers are made for it
        while len(rates) < self.course.windows and not tuning.steady(rates):
            times = await self._window(division, batch, self.course.window_s)
            rates.append(sum(len(lane) * batch / sum(lane) for lane in times))
            took += [seconds for lane in times for seconds in lane]
        return Measured(
            batch=batch,
            lanes=division.lanes,
            threads=division.threads,
            items_per_s=median(rates[-tuning.WINDOWS :]),
            batch_ms=1e3 * median(took),
            lone_ms=lone_ms,
            memory_bytes=_taken(meter, used),
            steady=tuning.steady(rates),
        )

    async def _lone_ms(self, threads: int) -> float:
        """The median of one item with nothing beside it."""
        one = self._batch(1)
        times = [await self._timed(one, threads) for _ in range(self.course.lone + 1)]
        return 1e3 * median(times[1:])

    async def _window(self, division: Division, batch: int, window_s: float) -> list[list[float]]:
        """The seconds of each batch, by lane; every lane runs at least one and stops when others come."""
        _alone(self.host, self.spec)
        if time.monotonic() + window_s > self.deadline:
            raise _OutOfTime
        items, until = self._batch(batch), time.monotonic() + window_s
        self.joined = False
        lanes = [self._lane(items, division.threads, until) for _ in range(division.lanes)]
        ended = await asyncio.gather(*lanes, return_exceptions=True)
        for one in ended:
            if isinstance(one, BaseException):
                raise one
        if self.joined:
            raise _busy(self.spec)
        return [one for one in ended if not isinstance(one, BaseException)]

    async def _lane(self, items: Sequence[Payload], threads: int, until: float) -> list[float]:
        times = [await self._timed(items, threads)]
        while time.monotonic() < min(until, self.deadline) and not self._joined():
            times.append(await self._timed(items, threads))
        return times

    def _joined(self) -> bool:
        """Whether somebody else waits, or computes: a batch from a queue holds the model, as this sweep does once."""
        in_use = sum(one.in_flight for one in self.host.pool.holdings())
        self.joined = self.joined or self.host.batcher.queued() > 0 or in_use > 1
        return self.joined

    async def _timed(self, items: Sequence[Payload], threads: int) -> float:
        run = self.host.batcher.run_alone
        _, seconds = await run(self.loaded, self.task, items, spec=self.spec, threads=threads)
        return max(seconds, 1e-9)

    def _batch(self, items: int) -> list[Payload]:
        return [self.loaded.sample(self.task)] * items

    def _room(self) -> int | None:
        """Bytes that batches may take beside what is held; None where there is no limit."""
        home = devices.memory_home(self.loaded.device)
        budget = self.host.pool.budget_bytes(home)
        return max(0, budget - self.host.pool.held_bytes(home)) if budget else None


def _taken(meter: Meter, used: int | None) -> int:
    """The peak above what was in use; 0 where it cannot be had."""
    return 0 if used is None else max(0, meter.finish()[0] - used)


def _alone(host: RunnerHost, spec: ModelSpec) -> None:
    """Raises Overloaded when somebody else is served."""
    if host.batcher.busy():
        raise _busy(spec)


def _busy(spec: ModelSpec) -> Overloaded:
    """Neither the others' answers nor these numbers would be right."""
    said = f"this runner is busy with other callers, so {spec.key} cannot be tuned; try when it is quiet"
    return Overloaded(said, retry_after_s=60.0)
