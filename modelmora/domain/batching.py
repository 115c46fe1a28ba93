"""When a queue becomes a batch, and on how many lanes: pure decisions of what is there and what batches taught.

The demand-aware linger: callers who were just answered are probably coming back, so the next batch waits for
them, but at most a small share of a batch's time: a lone caller never waits, and a crowd is served together.

Lanes: batches that run side by side on one device. A crowd is better served by several lanes of one thread each
(threads of one batch wait for each other, and for whatever else runs on their cores), a lone caller by one lane
with all threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

LINGER_SHARE = 0.15
"""Of the predicted batch time: the longest wait for the rest of the demand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """One queue as the decision sees it. Times are seconds on one monotonic clock.

    `expected` are callers who were answered lately and are not back (see `linger_s`), `free_since` is when the
    queue's last batch ended, `batch_s` the predicted time of the next, `first_deadline` the earliest waiting.
    """

    queued: int
    expected: int
    max_batch: int
    free_since: float
    batch_s: float
    max_wait_s: float
    first_deadline: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """A device as the decision sees it, over all its queues.

    At most `limit` batches side by side on `cores` threads; `worth` items justify one more lane. `busy` lanes are
    computing `computing` items, and `waiting` items wait.
    """

    cores: int
    limit: int
    worth: int
    busy: int = 0
    computing: int = 0
    waiting: int = 0

    def wanted(self, expected: int) -> int:
        """How many lanes what is there and expected justifies."""
        population = self.computing + self.waiting + expected
        return max(1, min(self.limit, population // self.worth))


@dataclass(frozen=True, slots=True)
class Run:
    """Start a batch of `count` items on `threads` threads now."""

    count: int
    threads: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again at `until`, or when another item arrives or a batch ends."""

    until: float


Decision: TypeAlias = Run | Wait


def linger_s(batch_s: float, max_wait_s: float) -> float:
    """How long after a batch its callers are expected back."""
    return min(LINGER_SHARE * batch_s, max_wait_s)


def decide(queue: Queue, lanes: Lanes, now: float) -> Decision:
    """What to do at `now`; an empty queue, or one without a lane, waits until something happens."""
    wanted = lanes.wanted(queue.expected)
    free = wanted - lanes.busy
    if queue.queued == 0 or free <= 0:
        return Wait(float("inf"))
    target = min(queue.max_batch, ceil((queue.queued + queue.expected) / free))
    until = min(
        queue.free_since + linger_s(queue.batch_s, queue.max_wait_s),
        queue.first_deadline - queue.batch_s,
    )
    if queue.queued >= target or now >= until:
        return Run(min(queue.queued, target), max(1, lanes.cores // wanted))
    return Wait(until)


@dataclass(frozen=True, slots=True)
class BatchClock:
    """Predicts how long a batch of n items takes, as a fixed part plus a part per item.

    Learnt from the last batches: an exponentially weighted line through (items, seconds).
    """

    weight: float = 0.0
    mean_n: float = 0.0
    mean_s: float = 0.0
    var_n: float = 0.0
    cov: float = 0.0

    def predict(self, items: int) -> float:
        """Seconds; 0 before the first batch."""
        slope = self.cov / self.var_n if self.var_n > 1e-9 else 0.0
        return max(0.0, self.mean_s + slope * (items - self.mean_n))

    def learn(self, items: int, seconds: float, *, share: float = 0.2) -> BatchClock:
        """The clock after one more batch; `share` is the weight of the newest."""
        a = 1.0 if self.weight == 0.0 else share
        dn, ds = items - self.mean_n, seconds - self.mean_s
        return BatchClock(
            weight=1.0,
            mean_n=self.mean_n + a * dn,
            mean_s=self.mean_s + a * ds,
            var_n=(1 - a) * (self.var_n + a * dn * dn),
            cov=(1 - a) * (self.cov + a * dn * ds),
        )
