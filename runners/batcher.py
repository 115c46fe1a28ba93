"""Puts the work of many callers together, one queue per (model, task, shape), one outcome per item."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from modelmora.domain.batching import BatchClock, Queue, Run, Wait, decide
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import DeadlineExceeded, InternalError, ModelMoraError, Overloaded
from runners.pool import Pool
from runners.provider import Loaded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = structlog.get_logger(__name__)

DEFAULT_MAX_BATCH = 16
IDLE_QUEUE_S = 60.0


@dataclass(frozen=True, slots=True)
class Computed:
    """One item's vector (float32 bytes) and its milliseconds in the queue and in the batch."""

    vector: bytes
    queue_ms: float
    inference_ms: float


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One item on its way; `done` is called exactly once, on the event loop.

    `deadline` is on `time.monotonic()`.
    """

    spec: ModelSpec
    task: Task
    array: NDArray[np.generic]
    deadline: float
    done: Callable[[Outcome[Computed]], None]
    since: float = field(default_factory=time.monotonic)
    gone: bool = False

    def finish(self, outcome: Outcome[Computed]) -> None:
        """Answers, unless the caller left or was answered already."""
        if not self.gone:
            self.gone = True
            self.done(outcome)


class Batcher:
    """Accepts jobs and answers each exactly once: with its vector, its error, or its deadline's.

    Jobs of one queue have one shape (but for the last axis: raw bytes may differ in length). A batch
    that raises is split until the bad item stands alone.
    """

    def __init__(self, pool: Pool, *, lanes: int = 1) -> None:
        self._pool = pool
        self._queues: dict[tuple[str, Task, tuple[int, ...]], _Lane] = {}
        self._compute = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
        self._turn = asyncio.Semaphore(lanes)
        self._closed = False

    def submit(self, job: Job) -> None:
        """Queues the job; a full queue or a closed batcher answers at once."""
        if self._closed:
            return job.finish(Failed(_leaving()))
        key = (job.spec.key, job.task, job.array.shape[:-1])
        lane = self._queues.get(key)
        if lane is None:
            lane = self._queues[key] = _Lane(job.spec, self._pool, self._run_batch, lambda: self._drop(key))
        lane.put(job)

    async def run_alone(self, loaded: Loaded, task: Task, batch: Sequence[NDArray[np.generic]]) -> None:
        """One batch outside the queues, in its turn: a model is never run beside its own work."""
        async with self._turn:
            await asyncio.get_running_loop().run_in_executor(self._compute, loaded.run, task, batch)

    def queued(self) -> int:
        """Items waiting, over all queues."""
        return sum(lane.waiting() for lane in self._queues.values())

    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return any(lane.waiting() or lane.running for lane in self._queues.values())

    async def close(self) -> None:
        """Answers what still waits, and stops."""
        self._closed = True
        for lane in list(self._queues.values()):
            lane.close()
        self._compute.shutdown(wait=False)

    def _drop(self, key: tuple[str, Task, tuple[int, ...]]) -> None:
        self._queues.pop(key, None)

    async def _run_batch(self, loaded: Loaded, jobs: Sequence[Job]) -> None:
        """Runs one batch in its turn and answers every job of it."""
        async with self._turn:
            jobs = [job for job in jobs if _alive(job)]
            if not jobs:
                return
            started = time.monotonic()
            loop = asyncio.get_running_loop()
            outcomes = await loop.run_in_executor(self._compute, bisect, loaded, jobs[0].task, [j.array for j in jobs])
            spent = (time.monotonic() - started) * 1e3
        for job, outcome in zip(jobs, outcomes, strict=True):
            match outcome:
                case Ok(vector):
                    job.finish(Ok(Computed(vector, (started - job.since) * 1e3, spent)))
                case Failed():
                    job.finish(outcome)


def bisect(loaded: Loaded, task: Task, batch: Sequence[NDArray[np.generic]]) -> list[Outcome[bytes]]:
    """One outcome per input: a batch that raises is halved until the input at fault stands alone."""
    try:
        rows = loaded.run(task, batch)
        if len(rows) != len(batch):
            raise InternalError(f"the model answered {len(rows)} rows for {len(batch)} inputs")
    except Exception as cause:
        if len(batch) > 1:
            half = len(batch) // 2
            return bisect(loaded, task, batch[:half]) + bisect(loaded, task, batch[half:])
        return [Failed(_blame(loaded, cause))]
    return [Ok(row.tobytes()) for row in rows]


def _blame(loaded: Loaded, cause: Exception) -> ModelMoraError:
    if isinstance(cause, ModelMoraError):
        return cause
    log.warning("item_failed", model=loaded.description.model, exc_info=cause)
    return InternalError(f"{loaded.description.model} failed on this item; the runner's log has the details")


def _leaving() -> Overloaded:
    return Overloaded("this runner is shutting down", retry_after_s=1.0)


def _alive(job: Job) -> bool:
    if not job.gone and job.deadline <= time.monotonic():
        job.finish(Failed(DeadlineExceeded("the deadline passed before the item was computed")))
    return not job.gone


class _Lane:
    """The queue of one (model, task, shape) and the task that empties it; goes away when idle."""

    def __init__(
        self,
        spec: ModelSpec,
        pool: Pool,
        run: Callable[[Loaded, Sequence[Job]], Awaitable[None]],
        drop: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._pool = pool
        self._run = run
        self._drop = drop
        self._jobs: deque[Job] = deque()
        self._arrival = asyncio.Event()
        self._clock = BatchClock()
        self._demand = 0
        self._free_since = time.monotonic()
        self._first_deadline = float("inf")
        self.running = False
        self._task = asyncio.create_task(self._serve())

    def put(self, job: Job) -> None:
        if len(self._jobs) >= self._spec.batching.queue:
            wait = self._clock.predict(self._max_batch()) * len(self._jobs) / self._max_batch()
            full = f"{self._spec.key}: {len(self._jobs)} items are waiting"
            return job.finish(Failed(Overloaded(full, retry_after_s=max(1.0, wait))))
        self._jobs.append(job)
        self._first_deadline = min(self._first_deadline, job.deadline)
        self._arrival.set()

    def waiting(self) -> int:
        return len(self._jobs)

    def close(self) -> None:
        self._task.cancel()
        while self._jobs:
            self._jobs.popleft().finish(Failed(_leaving()))

    async def _serve(self) -> None:
        while await self._has_work():
            try:
                await self._next_batch()
            except ModelMoraError as error:
                self._fail_all(error)
            except Exception as cause:  # the lane must outlive whatever goes wrong in one batch
                log.exception("lane_failed", model=self._spec.key)
                self._fail_all(self._unexpected(cause))
        self._drop()

    def _unexpected(self, cause: BaseException) -> ModelMoraError:
        if isinstance(cause, asyncio.CancelledError):
            return _leaving()
        return InternalError(f"{self._spec.key}: {type(cause).__name__} in the runner; see its log")

    async def _has_work(self) -> bool:
        while not self._jobs:
            self._arrival.clear()
            if not await self._arrives_within(IDLE_QUEUE_S):
                return bool(self._jobs)
        return True

    async def _next_batch(self) -> None:
        loaded = self._pool.peek(self._spec)
        if loaded is None:
            await self._load()
        count = await self._linger()
        jobs = [self._jobs.popleft() for _ in range(count)]
        self._first_deadline = min((job.deadline for job in self._jobs), default=float("inf"))
        jobs = [job for job in jobs if _alive(job)]
        if jobs:
            await self._run_and_learn(jobs)

    async def _run_and_learn(self, jobs: list[Job]) -> None:
        self.running = True
        try:
            async with self._pool.lease(self._spec) as loaded:
                started = time.monotonic()
                await self._run(loaded, jobs)
        except BaseException as cause:
            error = cause if isinstance(cause, ModelMoraError) else self._unexpected(cause)
            for job in jobs:
                job.finish(Failed(error))
            raise
        finally:
            self.running = False
        self._free_since = time.monotonic()
        self._clock = self._clock.learn(len(jobs), self._free_since - started)
        self._demand = len(jobs) + len(self._jobs)

    async def _load(self) -> None:
        """Brings the model in while letting those go whose deadline passes meanwhile."""
        loading = asyncio.ensure_future(self._pool.load(self._spec))
        while not loading.done():
            next_deadline = min((job.deadline for job in self._jobs), default=time.monotonic() + 1.0)
            await asyncio.wait({loading}, timeout=max(0.0, next_deadline - time.monotonic()))
            self._jobs = deque(job for job in self._jobs if _alive(job))
        loading.result()

    async def _linger(self) -> int:
        while self._jobs:
            match decide(self._facts(), time.monotonic()):
                case Run(count):
                    return count
                case Wait(until):
                    self._arrival.clear()
                    await self._arrives_within(until - time.monotonic())
        return 0

    async def _arrives_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._arrival.wait()
        except TimeoutError:
            return False

    def _facts(self) -> Queue:
        return Queue(
            queued=len(self._jobs),
            demand=self._demand,
            max_batch=self._max_batch(),
            free_since=self._free_since,
            batch_s=self._clock.predict(min(self._max_batch(), max(self._demand, 1))),
            max_wait_s=self._spec.batching.max_wait_ms / 1e3,
            first_deadline=self._first_deadline,
        )

    def _max_batch(self) -> int:
        return self._spec.batching.max_batch or DEFAULT_MAX_BATCH

    def _fail_all(self, error: ModelMoraError) -> None:
        while self._jobs:
            self._jobs.popleft().finish(Failed(error))
