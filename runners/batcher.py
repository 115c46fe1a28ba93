"""Puts the work of many callers together: queues, lanes, one outcome per item.

Decides nothing itself: when a batch starts and on how many lanes is `domain/batching.py`, who goes first
`domain/priority.py`. Everything runs on one event loop; only the batches run in threads, one a lane.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog
from opentelemetry.trace import Span

from modelmora import tracing
from modelmora.domain.batching import Lanes, Run, Wait, decide
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok
from modelmora.domain.priority import next_turn
from modelmora.domain.progress import Step
from modelmora.errors import InternalError, ModelMoraError, Overloaded
from runners.batching.compute import Ran, run_batch
from runners.batching.jobs import Computed, Job, JobQueue, Key, teller
from runners.batching.lanes import ComputeLanes, Hung, Patience
from runners.batching.sittings import Sittings
from runners.batching.spans import begin_batch, end_batch, waited_for
from runners.batching.suspects import Suspects
from runners.capabilities import Given, forward
from runners.payload import Payload, rows_of
from runners.pool import Pool
from runners.process import telemetry
from runners.provider import Loaded, Tell

T = TypeVar("T")
log = structlog.get_logger(__name__)

DEFAULT_MAX_BATCH = 16
IDLE_QUEUE_S = 60.0
TICK_S = 1e-3
WARY_S = 0.02
"""For the message that a batch begins to leave before the batch can end the process."""

PATIENCE = Patience()
LANE_ITEMS = 1
"""So many items justify a lane of its own on a CPU. ViT-B/32 on two cores, images/s on one lane of two threads and on
two lanes of one: 8.8 and 14.4 with one item in each batch, 15.1 and 18.8 with four, 16.3 and 19.1 with sixteen."""


class Batcher:
    """Accepts jobs and answers each exactly once: with its vector, its error, or its deadline's.

    `lanes` is the device: how many cores, how many batches side by side. `on_hang` is called when a forward of jobs
    does not come back: they have been answered, its thread is lost.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        lanes: Lanes | None = None,
        patience: Patience = PATIENCE,
        on_hang: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = pool
        self._lanes = ComputeLanes(lanes or Lanes(cores=1, limit=1, worth=LANE_ITEMS), patience=patience)
        self._on_hang = on_hang
        self._queues: dict[Key, JobQueue] = {}
        self._fetching: dict[Key, asyncio.Task[None]] = {}
        self._batches: set[asyncio.Task[None]] = set()
        self._fits: dict[Key, int] = {}
        self._suspects = Suspects()
        self._sittings = Sittings(self._queues, pool.peek)
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        pool.weighs_with(self._run_in_quiet)

    def submit(self, job: Job) -> None:
        """Queues the job; a full queue or a closed batcher answers at once."""
        if self._closed:
            return job.finish(Failed(_leaving()))
        job.alone = job.alone or self._suspects.known(job.spec.key, job.payload)
        key, queue = job.key, self._queue(job)
        waiting = self._sittings.waiting(key, queue)
        if waiting >= job.spec.batching.queue:
            telemetry.count_overload(job.spec, job.task)
            return job.finish(Failed(_full(queue, waiting)))
        queue.put(job)
        self._sittings.joined(key, queue, job)
        if job.tell is not None:
            job.tell(Step("queued"))
        self._pump_soon()

    async def run_alone(
        self,
        loaded: Loaded,
        task: Task,
        batch: Sequence[Payload],
        *,
        spec: ModelSpec | None = None,
        threads: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> tuple[Given, float]:
        """One batch outside the queues, on a lane of its own (`threads` 0: all cores): what it gave and its seconds.

        Its memory counts into the footprint of `spec` (None: into nobody's). Raises what the model does, and Hung, for
        which the worker is not replaced: a default that hangs in its warm-up would end one worker after the other.
        """

        def work() -> tuple[Given, float]:
            with self._pool.measuring(spec, task, sum(map(rows_of, batch))):
                started = clock()
                given = forward(loaded, task, batch, threads=threads or self._lanes.cores)
                return given, clock() - started

        await self._lanes.when_free()
        if self._closed:
            raise _leaving()
        self._lanes.take(len(batch))
        try:
            return await _uncut(self._lanes.run(work, predicted_s=0.0))
        finally:
            self._lanes.give(len(batch))
            self._pump_soon()

    def queued(self) -> int:
        """Items waiting, over all queues."""
        return sum(queue.waiting() for queue in self._queues.values())

    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return self._lanes.busy() > 0 or self.queued() > 0

    async def close(self) -> None:
        """Answers what still waits, and stops."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in (*self._fetching.values(), *self._batches):
            task.cancel()
        for queue in self._queues.values():
            queue.fail_all(_leaving())
        await asyncio.gather(*self._fetching.values(), *self._batches, return_exceptions=True)
        self._lanes.close()

    async def _run_in_quiet(self, work: Callable[[], None]) -> None:
        """While nothing else computes; raises Hung, for which the worker is not replaced, as in `run_alone`."""
        await _uncut(self._lanes.run_in_quiet(work))

    def _queue(self, job: Job) -> JobQueue:
        queue = self._queues.get(job.key)
        if queue is None:
            queue = self._queues[job.key] = JobQueue(job.spec, max_batch=1)
            self._size(job.key, queue)
        return queue

    def _size(self, key: Key, queue: JobQueue) -> None:
        """How large its batches may be: as the model says once it is here, until then as it is declared."""
        loaded = self._pool.peek(queue.spec)
        declared = queue.spec.batching.max_batch or DEFAULT_MAX_BATCH
        size = declared if loaded is None else loaded.description.max_batch
        queue.max_batch = 1 if key[3] else min(size, self._fits.get(key, size))

    def _pump_soon(self) -> None:
        """One look at the queues for everything that happens in one turn of the loop."""
        if not self._pumping and not self._closed:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Starts what is due; sleeps until the exact next moment something can be."""
        self._pumping = False
        if self._closed:
            return
        now = time.monotonic()
        tidy_at = self._tidy(now)
        while (wake := self._start_next(now)) is None:
            pass
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake = min(wake, tidy_at, now + IDLE_QUEUE_S) if self._queues else wake
        if wake < float("inf"):
            self._timer = asyncio.get_running_loop().call_later(max(0.0, wake - now), self._pump_soon)

    def _start_next(self, now: float) -> float | None:
        """Starts one batch and returns None, or returns the next moment to look again."""
        held = self._sittings.held()
        lanes = self._lanes.facts(self.queued() - sum(self._queues[key].waiting() for key in held))
        due: list[tuple[Key, Run]] = []
        wake = min(held.values(), default=float("inf"))
        for key, queue in self._queues.items():
            if not queue.waiting() or key in held or self._must_wait(key) or not self._in_memory(key, queue):
                wake = min(wake, queue.next_deadline())
                continue
            match decide(queue.facts(now), lanes, now):
                case Run() as run:
                    due.append((key, run))
                case Wait(until):
                    wake = min(wake, until, queue.next_deadline())
        if not due:
            return wake
        self._start(*self._choose(due))
        return None

    def _must_wait(self, key: Key) -> bool:
        """Items that go alone go one by one, over all lanes: else two of them would be there when one ends us."""
        return key[3] and any(other[3] and queue.running for other, queue in self._queues.items())

    def _choose(self, due: list[tuple[Key, Run]]) -> tuple[Key, Run]:
        """Whose turn it is; bulk queues that are passed over for interactive work are counted."""
        if len(due) == 1:
            return due[0]
        turns = [self._queues[key].turn() for key, _ in due]
        chosen = next_turn(turns)
        for (key, _), turn in zip(due, turns, strict=True):
            if turns[chosen].interactive and not turn.interactive:
                self._queues[key].passed_over += 1
        return due[chosen]

    def _start(self, key: Key, run: Run) -> None:
        queue = self._queues[key]
        jobs = queue.take(run.count)
        queue.passed_over = 0
        queue.running += 1
        self._sittings.reserve(key, queue)
        self._lanes.take(len(jobs))
        task = asyncio.create_task(self._batch(key, queue, jobs, run.threads))
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    async def _batch(self, key: Key, queue: JobQueue, jobs: list[Job], threads: int) -> None:
        """Runs one batch and answers every job of it, whatever happens."""
        try:
            async with self._pool.lease(queue.spec) as loaded:
                self._lanes.freed.set()  # whoever fetched the model for this queue may let go of it
                await self._compute(key, queue, loaded, jobs, threads)
        except ModelMoraError as error:
            _fail(jobs, error)
        except asyncio.CancelledError:
            _fail(jobs, _leaving())
            raise
        except Exception as cause:  # the lane must outlive whatever goes wrong in one batch
            log.exception("batch_failed", model=queue.spec.key)
            _fail(jobs, InternalError(f"{queue.spec.key}: {type(cause).__name__} in the runner; see its log"))
        finally:
            queue.running -= 1
            self._sittings.release(key, queue)
            self._lanes.give(len(jobs))
            self._pump_soon()

    async def _compute(self, key: Key, queue: JobQueue, loaded: Loaded, jobs: list[Job], threads: int) -> None:
        tell = teller(jobs)
        if any(job.wary for job in jobs):
            await asyncio.sleep(WARY_S)
        rows, started = sum(job.rows for job in jobs), time.monotonic()
        span = begin_batch((job.span for job in jobs), queue.spec, items=len(jobs), rows=rows, threads=threads)
        work = partial(self._forward, queue, loaded, jobs, threads=threads, tell=tell, span=span)
        try:
            # What a picture to be segmented takes says nothing of the next one: it is known already, or huge.
            predicted_s = 0.0 if key[1] == "segment" else queue.predict(rows, threads)
            ran = await self._lanes.run(work, predicted_s=predicted_s)
        except Hung as hung:
            tracing.end(span, failure=InternalError.code)
            return self._hung(queue, jobs, hung.seconds)
        end_batch(span, ran.outcomes)
        spent = time.monotonic() - started
        queue.learn(rows, threads, spent)
        self._learn(key, queue, jobs, ran)
        telemetry.count_batch(queue.spec, key[1], items=rows, seconds=spent, extra=ran.extra)
        for job, outcome in zip(jobs, ran.outcomes, strict=True):
            match outcome:
                case Ok(body):
                    job.finish(Ok(Computed(body, (started - job.since) * 1e3, spent * 1e3)))
                case Failed():
                    job.finish(outcome)

    def _forward(
        self,
        queue: JobQueue,
        loaded: Loaded,
        jobs: Sequence[Job],
        *,
        threads: int,
        tell: Tell | None,
        span: Span,
    ) -> Ran:
        """In a lane's thread."""
        task, batch = jobs[0].task, [job.payload for job in jobs]
        with self._pool.measuring(queue.spec, task, sum(map(rows_of, batch))), tracing.current(span):
            return run_batch(loaded, task, batch, threads=threads, tell=tell)

    def _learn(self, key: Key, queue: JobQueue, jobs: Sequence[Job], ran: Ran) -> None:
        for index in ran.culprits:
            self._suspects.add(queue.spec.key, jobs[index].payload)
        if ran.fits is not None:
            telemetry.count_halving(queue.spec, key[1])
            queue.max_batch = self._fits[key] = min(ran.fits, queue.max_batch)

    def _hung(self, queue: JobQueue, jobs: Sequence[Job], seconds: float) -> None:
        """The thread cannot be ended, only the process: its items are answered, then somebody must replace it."""
        log.error("forward_hung", model=queue.spec.key, items=len(jobs), ms=seconds * 1e3)
        said = f"{queue.spec.key} has not come back from a batch for {seconds:.0f} s; the runner is replaced, retry"
        _fail(jobs, InternalError(said))
        self._on_hang()

    def _in_memory(self, key: Key, queue: JobQueue) -> bool:
        """Whether the model is here; where it is not, it is fetched, once for the queue."""
        if self._pool.peek(queue.spec) is not None:
            return True
        if key not in self._fetching:
            self._fetching[key] = asyncio.create_task(self._fetch(key, queue))
        return False

    async def _fetch(self, key: Key, queue: JobQueue) -> None:
        """Loads the model and holds it until a batch does: else it might be evicted before its first one."""

        def told(done: int, total: int) -> None:
            queue.tell(Step("loading", done, total))

        lease = self._pool.lease(queue.spec, tell=told)
        try:
            async with waited_for(lease, (job.span for job in queue.jobs()), queue.spec):
                self._size(key, queue)
                self._pump_soon()
                while self._about_to_begin(queue):
                    await self._lanes.freed.wait(1.0)
        except ModelMoraError as error:
            queue.fail_all(error)
        except Exception as cause:
            log.exception("fetch_failed", model=queue.spec.key)
            queue.fail_all(InternalError(f"{queue.spec.key}: {type(cause).__name__} in the runner; see its log"))
        finally:
            self._fetching.pop(key, None)
            self._pump_soon()

    def _about_to_begin(self, queue: JobQueue) -> bool:
        """Whether the model should be held for a batch; not when somebody unloads it, who waits for our lease."""
        wanted = queue.waiting() and not queue.running and not self._closed
        return bool(wanted) and self._pool.peek(queue.spec) is not None

    def _tidy(self, now: float) -> float:
        """Answers those whose time is over; queues that nobody used for a while go. When the next one will."""
        next_at = float("inf")
        for key, queue in list(self._queues.items()):
            queue.expire(now)
            if queue.shown != queue.waiting():
                telemetry.queue_depth(queue.spec, key[1]).inc(queue.waiting() - queue.shown)
                queue.shown = queue.waiting()
            if queue.waiting() or queue.running or key in self._fetching:
                queue.idle_since = now
            elif now > (until := queue.unused_since + min(queue.idle_s, IDLE_QUEUE_S)):
                self._drop(key)
            else:
                next_at = min(next_at, until + TICK_S)
        return next_at

    def _drop(self, key: Key) -> None:
        del self._queues[key]
        if key[1] == "segment":  # a queue of every picture that ever was, else
            self._fits.pop(key, None)


async def _uncut(work: Coroutine[Any, Any, T]) -> T:
    """A batch cannot be stopped: who leaves meanwhile waits for its end, so that no lane or model is given back that
    still computes."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(running, return_exceptions=True)
        raise


def _full(queue: JobQueue, waiting: int) -> Overloaded:
    wait = queue.predict(queue.max_batch) * waiting / queue.max_batch
    return Overloaded(f"{queue.spec.key}: {waiting} items are waiting", retry_after_s=max(1.0, wait))


def _fail(jobs: Sequence[Job], error: ModelMoraError) -> None:
    for job in jobs:
        job.finish(Failed(error))


def _leaving() -> Overloaded:
    return Overloaded("this runner is shutting down", retry_after_s=1.0)
