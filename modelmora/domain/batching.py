"""When a queue becomes a batch: a pure decision of what is waiting and what the last batch taught.

The demand-aware linger: after a batch, `demand` is what just ran plus what was still queued, the
number of callers who are probably coming back. The next batch waits for that many, but at most a
small share of a batch's time, so that a lone caller never waits and a crowd is served together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

LINGER_SHARE = 0.15
"""Of the predicted batch time: the longest wait for the rest of the demand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """One queue as the decision sees it. Times are seconds on one monotonic clock.

    `free_since` is when the lane finished its last batch, `batch_s` the predicted time of the next,
    `first_deadline` the earliest deadline waiting.
    """

    queued: int
    demand: int
    max_batch: int
    free_since: float
    batch_s: float
    max_wait_s: float
    first_deadline: float = float("inf")


@dataclass(frozen=True, slots=True)
class Run:
    """Start a batch of the first `count` items now."""

    count: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again at `until`, or when another item arrives."""

    until: float


Decision: TypeAlias = Run | Wait


def decide(queue: Queue, now: float) -> Decision:
    """What to do at `now`; an empty queue waits for ever (an arrival asks again)."""
    if queue.queued == 0:
        return Wait(float("inf"))
    target = min(queue.demand, queue.max_batch)
    until = min(
        queue.free_since + min(LINGER_SHARE * queue.batch_s, queue.max_wait_s),
        queue.first_deadline - queue.batch_s,
    )
    if queue.queued >= target or now >= until:
        return Run(min(queue.queued, queue.max_batch))
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
