"""The batching decision, on facts and over simulated arrivals."""

import heapq
from dataclasses import replace

import pytest

from modelmora.domain.batching import BatchClock, Decision, Queue, Run, Wait, decide

QUEUE = Queue(queued=4, demand=8, max_batch=16, free_since=10.0, batch_s=0.2, max_wait_s=0.2)


def waits_until(decision: Decision) -> float:
    assert isinstance(decision, Wait)
    return decision.until


def test_an_empty_queue_waits_for_an_arrival() -> None:
    assert decide(replace(QUEUE, queued=0), 10.0) == Wait(float("inf"))


def test_a_lone_caller_never_waits() -> None:
    assert decide(replace(QUEUE, queued=1, demand=1), 10.0) == Run(1)
    assert decide(replace(QUEUE, queued=1, demand=0), 10.0) == Run(1)


def test_a_partial_batch_waits_for_the_demand_a_share_of_the_batch_time() -> None:
    assert waits_until(decide(QUEUE, 10.01)) == pytest.approx(10.03)


def test_the_batch_starts_as_soon_as_the_demand_is_there() -> None:
    assert decide(replace(QUEUE, queued=8), 10.0) == Run(8)


def test_the_batch_starts_when_the_linger_is_over() -> None:
    assert decide(QUEUE, 10.031) == Run(4)


def test_max_wait_bounds_the_linger_of_slow_models() -> None:
    assert waits_until(decide(replace(QUEUE, batch_s=60.0), 10.1)) == pytest.approx(10.2)


def test_a_batch_is_never_larger_than_max_batch() -> None:
    assert decide(replace(QUEUE, queued=50, demand=64), 10.0) == Run(16)


def test_a_near_deadline_ends_the_linger() -> None:
    assert waits_until(decide(replace(QUEUE, first_deadline=10.21), 10.0)) == pytest.approx(10.01)
    assert decide(replace(QUEUE, first_deadline=10.1), 10.0) == Run(4)


def test_the_clock_learns_a_fixed_part_and_a_part_per_item() -> None:
    clock = BatchClock()
    assert clock.predict(8) == 0.0
    for n in [1, 8, 4, 16, 2, 8] * 8:
        clock = clock.learn(n, 0.02 + 0.001 * n)
    assert clock.predict(1) == pytest.approx(0.021, rel=1e-3)
    assert clock.predict(32) == pytest.approx(0.052, rel=1e-3)


def simulate(callers: int, linger: bool, *, seconds: float = 20.0) -> float:
    """Requests per second of a closed loop against a device of 20 ms + 1 ms an item."""
    arrivals = [(0.0005 * c, c) for c in range(callers)]
    heapq.heapify(arrivals)
    now, free_since, demand, done, queued = 0.0, 0.0, 0, 0, 0
    clock = BatchClock()
    while now < seconds:
        while arrivals and arrivals[0][0] <= now:
            heapq.heappop(arrivals)
            queued += 1
        facts = Queue(
            queued=queued,
            demand=demand if linger else 0,
            max_batch=32,
            free_since=free_since,
            batch_s=clock.predict(max(demand, 1)),
            max_wait_s=0.2,
        )
        match decide(facts, now):
            case Wait(until):
                now = min([until] + [t for t, _ in arrivals[:1]])
            case Run(count):
                took = 0.02 + 0.001 * count
                queued -= count
                end = now + took
                late = sum(1 for t, _ in arrivals if t <= end)
                for c in range(count):
                    heapq.heappush(arrivals, (end + 0.0004 * (c + 1), c))
                clock, now, free_since, done = clock.learn(count, took), end, end, done + count
                demand = count + queued + late
    return done / seconds


def test_lingering_beats_greedy_at_eight_callers_and_costs_nothing_at_one() -> None:
    assert simulate(8, True) > 1.3 * simulate(8, False)
    assert simulate(1, True) == pytest.approx(simulate(1, False), rel=0.02)
