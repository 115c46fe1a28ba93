"""One item in a runner, and the queue of the items that may share a batch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from opentelemetry.trace import INVALID_SPAN, Span

from modelmora import tracing
from modelmora.domain import priority
from modelmora.domain.batching import BatchClock, Queue, linger_s
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Outcome
from modelmora.domain.priority import Turn
from modelmora.domain.progress import Step
from modelmora.errors import DeadlineExceeded, ModelMoraError
from runners.batching.spans import end_stay
from runners.capabilities import kin
from runners.payload import Body, Payload, rows_of
from runners.provider import Tell

Key: TypeAlias = tuple[str, Task, Hashable, bool]
"""Model, task, kin of input, and whether its items go alone."""


@dataclass(frozen=True, slots=True)
class Computed:
    """One item's result and its milliseconds in the queue and in the batch."""

    body: Body
    queue_ms: float
    inference_ms: float


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One item on its way; `done` is called exactly once, on the event loop.

    `deadline` is on `time.monotonic()`. `tell` is told how far the item is, on the event loop; None costs nothing.
    `alone`: never beside others. `wary`: that its batch begins must be known before it does, since it may end us.
    `span` is ended with it.
    """

    spec: ModelSpec
    task: Task
    payload: Payload
    deadline: float
    done: Callable[[Outcome[Computed]], None]
    bulk: bool = False
    alone: bool = False
    wary: bool = False
    tell: Callable[[Step], None] | None = None
    span: Span = INVALID_SPAN
    since: float = field(default_factory=time.monotonic)
    gone: bool = False
    queue: JobQueue | None = None

    @property
    def key(self) -> Key:
        """Jobs of one key may share a batch."""
        return (self.spec.key, self.task, kin(self.task, self.payload), self.alone)

    @property
    def rows(self) -> int:
        """How much of a batch it is."""
        return rows_of(self.payload)

    def finish(self, outcome: Outcome[Computed]) -> None:
        """Answers, unless the caller left or was answered already."""
        if not self.gone:
            self.gone = True
            end_stay(self.span, outcome)
            self.done(outcome)

    def leave(self) -> None:
        """The caller is gone: dropped before compute, and it makes room in the queue at once."""
        if not self.gone:
            self.gone = True
            tracing.end(self.span)
            if self.queue is not None:
                self.queue.forget(self)


class JobQueue:
    """The waiting jobs of one key, interactive and bulk, and what their batches taught."""

    def __init__(self, spec: ModelSpec, *, max_batch: int) -> None:
        self.spec = spec
        self.max_batch = max_batch
        self.expected = 0
        self.free_since = time.monotonic()
        self.idle_since = self.free_since
        self.idle_s = 0.0
        self.sittings: frozenset[str] = frozenset()
        self.running = 0
        self.passed_over = 0
        self.shown = 0
        self._lanes: dict[bool, deque[Job]] = {False: deque(), True: deque()}
        self._live = {False: 0, True: 0}
        self._overtaken = 0
        self._first_deadline = float("inf")
        self._clocks: dict[int, BatchClock] = {}
        self._threads = 1

    def put(self, job: Job) -> None:
        """At the end of its lane."""
        job.queue = self
        self._lanes[job.bulk].append(job)
        self._live[job.bulk] += job.rows
        self.expected = max(0, self.expected - job.rows)
        self._first_deadline = min(self._first_deadline, job.deadline)

    def forget(self, job: Job) -> None:
        """Its caller left: it counts no more, and is passed over when its turn comes."""
        self._live[job.bulk] -= job.rows
        job.queue = None

    @property
    def unused_since(self) -> float:
        """Since when nothing waits or runs, where nothing does."""
        return max(self.idle_since, self.free_since)

    def waiting(self) -> int:
        """Rows of the jobs whose callers are still there."""
        return self._live[False] + self._live[True]

    def turn(self) -> Turn:
        """What the choice among queues needs to know."""
        interactive = self._live[False] > 0
        oldest = [job.since for lane in self._lanes.values() if (job := self._head(lane)) is not None]
        return Turn(since=min(oldest), interactive=interactive, overtaken=self.passed_over)

    def facts(self, now: float) -> Queue:
        """What the decision needs to know; who has not come back in time is expected no more."""
        size = min(self.max_batch, max(1, self.waiting() + self.expected))
        batch_s, max_wait_s = self.predict(size), self.spec.batching.max_wait_ms / 1e3
        if now >= self.free_since + linger_s(batch_s, max_wait_s):
            self.expected = 0
        return Queue(
            queued=self.waiting(),
            expected=self.expected,
            max_batch=self.max_batch,
            free_since=self.free_since,
            batch_s=batch_s,
            max_wait_s=max_wait_s,
            first_deadline=self._first_deadline,
        )

    def predict(self, items: int, threads: int | None = None) -> float:
        """Seconds of a batch (None: on as many threads as the last one); 0 before the first."""
        clock = self._clocks.get(threads or self._threads)
        return clock.predict(items) if clock else 0.0

    def learn(self, items: int, threads: int, seconds: float) -> None:
        """From a batch that just ended: its callers are probably coming back."""
        self._clocks[threads] = self._clocks.get(threads, BatchClock()).learn(items, seconds)
        self._threads = threads
        self.expected += items
        self.free_since = time.monotonic()

    def take(self, count: int) -> list[Job]:
        """The next batch of so many rows: interactive first, bulk when it was overtaken often enough.

        A job of more rows than that goes alone.
        """
        interactive, bulk = priority.share_out(
            count, interactive=self._live[False], bulk=self._live[True], overtaken=self._overtaken
        )
        share, bulk_first = {False: interactive, True: bulk}, self._overtaken >= priority.PATIENCE
        jobs = self._pop(bulk_first, share[bulk_first])
        jobs += self._pop(not bulk_first, share[not bulk_first], beside=bool(jobs))
        passed_over = self._live[True] > 0 and not any(job.bulk for job in jobs)
        self._overtaken = self._overtaken + 1 if passed_over else 0
        self._first_deadline = min((job.deadline for job in self.jobs()), default=float("inf"))
        return jobs

    def expire(self, now: float) -> None:
        """Answers those whose time is over."""
        if self._first_deadline <= now:
            for job in list(self.jobs()):
                if job.deadline <= now:
                    self.forget(job)
                    job.finish(Failed(DeadlineExceeded("the deadline passed before the item was computed")))
            self._first_deadline = min((job.deadline for job in self.jobs()), default=float("inf"))

    def next_deadline(self) -> float:
        """The earliest of those who wait."""
        return self._first_deadline

    def fail_all(self, error: ModelMoraError) -> None:
        """Answers everybody who waits."""
        for job in self.take(self.waiting()):
            job.finish(Failed(error))

    def tell(self, step: Step) -> None:
        """Those who asked how far they are."""
        for job in self.jobs():
            if job.tell is not None:
                job.tell(step)

    def jobs(self) -> list[Job]:
        """Those whose callers are still there."""
        return [job for lane in self._lanes.values() for job in lane if not job.gone]

    def _head(self, lane: deque[Job]) -> Job | None:
        while lane and lane[0].gone:
            lane.popleft()
        return lane[0] if lane else None

    def _pop(self, bulk: bool, count: int, *, beside: bool = False) -> list[Job]:
        """So many rows, or one job when `count` is above 0 and nothing is `beside` it."""
        lane, jobs, left = self._lanes[bulk], list[Job](), count
        while left > 0 and (job := self._head(lane)) is not None:
            if job.rows > left and (jobs or beside):
                break
            lane.popleft()
            self.forget(job)
            jobs.append(job)
            left -= job.rows
        return jobs


def teller(jobs: Sequence[Job]) -> Tell | None:
    """From a compute thread to everybody in the batch who asked; None when nobody did."""
    asking = [job.tell for job in jobs if job.tell is not None]
    if not asking:
        return None
    loop = asyncio.get_running_loop()

    def tell_all(step: Step) -> None:
        for tell in asking:
            tell(step)

    def told(done: int, total: int) -> None:
        loop.call_soon_threadsafe(tell_all, Step("inference", done, total))

    tell_all(Step("inference"))
    return told
