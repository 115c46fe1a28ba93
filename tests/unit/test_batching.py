"""The batching decision, on facts and over simulated arrivals."""

import heapq
import itertools
from dataclasses import replace

import pytest

from modelmora.domain.batching import BatchClock, Decision, Lanes, Queue, Run, Wait, decide, linger_s

QUEUE = Queue(queued=4, expected=4, max_batch=16, free_since=10.0, batch_s=0.2, max_wait_s=0.2)
ONE = Lanes(cores=2, limit=1, worth=4)
TWO = Lanes(cores=2, limit=2, worth=4)


def waits_until(decision: Decision) -> float:
    assert isinstance(decision, Wait)
    return decision.until


def test_an_empty_queue_waits_for_an_arrival() -> None:
    assert decide(replace(QUEUE, queued=0), ONE, 10.0) == Wait(float("inf"))


def test_a_lone_caller_never_waits_and_has_all_threads() -> None:
    alone = replace(QUEUE, queued=1, expected=0)
    assert decide(alone, replace(TWO, waiting=1), 10.0) == Run(1, threads=2)


def test_a_partial_batch_waits_for_those_who_are_expected_a_share_of_the_batch_time() -> None:
    assert waits_until(decide(QUEUE, replace(ONE, waiting=4), 10.01)) == pytest.approx(10.03)


def test_the_batch_starts_as_soon_as_everybody_is_there() -> None:
    assert decide(replace(QUEUE, queued=8, expected=0), replace(ONE, waiting=8), 10.0) == Run(8, threads=2)


def test_the_batch_starts_when_the_linger_is_over() -> None:
    assert decide(QUEUE, replace(ONE, waiting=4), 10.031) == Run(4, threads=2)


def test_max_wait_bounds_the_linger_of_slow_models() -> None:
    assert waits_until(decide(replace(QUEUE, batch_s=60.0), replace(ONE, waiting=4), 10.1)) == pytest.approx(10.2)
    assert linger_s(60.0, 0.2) == 0.2


def test_a_batch_is_never_larger_than_max_batch() -> None:
    assert decide(replace(QUEUE, queued=50, expected=14), replace(ONE, waiting=50), 10.0) == Run(16, threads=2)


def test_a_near_deadline_ends_the_linger() -> None:
    lanes = replace(ONE, waiting=4)
    assert waits_until(decide(replace(QUEUE, first_deadline=10.21), lanes, 10.0)) == pytest.approx(10.01)
    assert decide(replace(QUEUE, first_deadline=10.1), lanes, 10.0) == Run(4, threads=2)


def test_a_crowd_is_shared_among_lanes_of_one_thread_each() -> None:
    crowd = replace(QUEUE, queued=8, expected=0)
    assert decide(crowd, replace(TWO, waiting=8), 10.0) == Run(4, threads=1)
    rest = replace(QUEUE, queued=4, expected=0)
    assert decide(rest, replace(TWO, busy=1, computing=4, waiting=4), 10.0) == Run(4, threads=1)


def test_no_lane_is_opened_for_a_few() -> None:
    few = replace(QUEUE, queued=2, expected=0)
    assert decide(few, replace(TWO, busy=1, computing=3, waiting=2), 10.0) == Wait(float("inf"))


def test_a_lane_waits_for_its_own_share_of_those_who_are_expected() -> None:
    """Lane A just answered four callers; lane B computes four: A waits for four, not for eight."""
    lanes = replace(TWO, busy=1, computing=4, waiting=1)
    assert isinstance(decide(replace(QUEUE, queued=1, expected=3), lanes, 10.0), Wait)
    assert decide(replace(QUEUE, queued=4, expected=0), replace(lanes, waiting=4), 10.0) == Run(4, threads=1)


def test_nothing_starts_without_a_lane() -> None:
    assert decide(QUEUE, replace(ONE, busy=1, computing=16, waiting=4), 20.0) == Wait(float("inf"))


def test_the_clock_learns_a_fixed_part_and_a_part_per_item() -> None:
    clock = BatchClock()
    assert clock.predict(8) == 0.0
    for n in [1, 8, 4, 16, 2, 8] * 8:
        clock = clock.learn(n, 0.02 + 0.001 * n)
    assert clock.predict(1) == pytest.approx(0.021, rel=1e-3)
    assert clock.predict(32) == pytest.approx(0.052, rel=1e-3)


class Simulation:
    """A closed loop against a device; a batch of n items on t threads takes 20 ms + 1 ms an item, over t ** 0.8."""

    def __init__(self, callers: int, device: Lanes, *, linger: bool = True) -> None:
        self.device, self.linger = device, linger
        self.numbers = itertools.count()
        self.events = [(0.0005 * c, next(self.numbers), 1, 0) for c in range(callers)]  # time, order, arrivals, done
        self.queued = self.expected = self.busy = self.computing = self.answered = 0
        self.free_since = 0.0
        self.clock = BatchClock()
        self.sizes: list[int] = []

    def run(self, seconds: float = 20.0) -> float:
        """Requests per second."""
        now = 0.0
        while now < seconds:
            now, _, arrivals, done = heapq.heappop(self.events)
            self._happens(now, arrivals, done)
            wake = self._pump(now)
            if wake < float("inf"):
                heapq.heappush(self.events, (max(wake, now + 1e-9), next(self.numbers), 0, 0))
        return self.answered / seconds

    def _happens(self, now: float, arrivals: int, done: int) -> None:
        self.queued += arrivals
        self.expected = max(0, self.expected - arrivals)
        if done:
            self.busy -= 1
            self.computing -= done
            self.answered += done
            self.expected += done
            self.free_since = now
            for c in range(done):
                heapq.heappush(self.events, (now + 0.0004 * (c + 1), next(self.numbers), 1, 0))

    def _pump(self, now: float) -> float:
        while True:
            match decide(self._facts(now), self._lanes(), now):
                case Wait(until):
                    return until
                case Run(count, threads):
                    took = (0.02 + 0.001 * count) / threads**0.8
                    self.clock = self.clock.learn(count, took)
                    self.queued -= count
                    self.busy += 1
                    self.computing += count
                    self.sizes.append(count)
                    heapq.heappush(self.events, (now + took, next(self.numbers), 0, count))

    def _facts(self, now: float) -> Queue:
        batch_s = self.clock.predict(max(self.queued + self.expected, 1))
        if not self.linger or now >= self.free_since + linger_s(batch_s, 0.2):
            self.expected = 0
        return Queue(
            queued=self.queued,
            expected=self.expected,
            max_batch=32,
            free_since=self.free_since,
            batch_s=batch_s,
            max_wait_s=0.2,
        )

    def _lanes(self) -> Lanes:
        return replace(self.device, busy=self.busy, computing=self.computing, waiting=self.queued)


def test_lingering_beats_greedy_at_eight_callers_and_costs_nothing_at_one() -> None:
    def speed(callers: int, *, linger: bool) -> float:
        return Simulation(callers, replace(ONE, cores=1), linger=linger).run()

    assert speed(8, linger=True) > 1.3 * speed(8, linger=False)
    assert speed(1, linger=True) == pytest.approx(speed(1, linger=False), rel=0.02)


@pytest.mark.parametrize("callers", [8, 16, 33, 64])
def test_two_lanes_keep_a_crowd_in_batches_of_its_share(callers: int) -> None:
    simulation = Simulation(callers, TWO)
    simulation.run()

    settled = simulation.sizes[len(simulation.sizes) // 2 :]
    share = min(32, callers / 2)
    assert share * 0.7 <= sum(settled) / len(settled) <= share * 1.3


@pytest.mark.parametrize("callers", [1, 2, 3])
def test_a_few_callers_are_served_by_all_threads_together(callers: int) -> None:
    simulation = Simulation(callers, TWO)

    assert simulation.run() == pytest.approx(Simulation(callers, ONE).run(), rel=0.05)
