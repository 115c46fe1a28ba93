"""Counters and histograms that are written together: the same numbers as the library's own, a little later."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from modelmora import tallies
from modelmora.tallies import Counter, Histogram

BOUNDS = (0.1, 1.0, 10.0)


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    yield CollectorRegistry()
    tallies.write_all()


def told(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#") and "_created" not in line]


async def test_a_histogram_says_what_the_librarys_own_says(registry: CollectorRegistry) -> None:
    ours = Histogram("x", "x", ["a"], buckets=BOUNDS, registry=registry).labels("1")
    other = CollectorRegistry()
    theirs = prometheus_client.Histogram("x", "x", ["a"], buckets=BOUNDS, registry=other).labels("1")
    for amount in [*BOUNDS, 0.0, 11.0, *(random.Random(1).uniform(0, 20) for _ in range(500))]:
        ours.observe(amount)
        theirs.observe(amount)
    await asyncio.sleep(0)
    mine, librarys = (dict(line.rsplit(" ", 1) for line in told(each)) for each in (registry, other))
    assert mine.keys() == librarys.keys()
    assert all(float(mine[name]) == pytest.approx(float(librarys[name])) for name in mine)


async def test_what_is_counted_is_written_by_itself_soon(registry: CollectorRegistry) -> None:
    counter = Counter("x", "x", ["a"], registry=registry).labels("1")
    for _ in range(100):
        counter.inc()
    counter.inc(0.5)
    assert counter._value.get() == 0.0, "not each by itself"
    written = asyncio.Event()
    asyncio.get_running_loop().call_later(2 * tallies.WRITE_S, written.set)
    await written.wait()
    assert counter._value.get() == 100.5


async def test_who_asks_this_process_is_told_all_of_it_at_once(registry: CollectorRegistry) -> None:
    counter = Counter("x", "x", ["a"], registry=registry)
    counter.labels("1").inc(3)
    assert told(registry) == ['x_total{a="1"} 3.0']


def test_outside_of_a_loop_it_is_written_at_once(registry: CollectorRegistry) -> None:
    counter = Counter("x", "x", ["a"], registry=registry).labels("1")
    counter.inc()
    assert counter._value.get() == 1.0


def test_a_counter_never_goes_down(registry: CollectorRegistry) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        Counter("x", "x", registry=registry).inc(-1)


def test_a_loop_that_ends_before_it_writes_is_followed_by_the_next(registry: CollectorRegistry) -> None:
    left, counted = (Counter(name, name, registry=registry) for name in "xy")

    async def count(counter: Counter, seconds: float) -> None:
        counter.inc()
        await asyncio.sleep(seconds)

    asyncio.run(count(left, 0.0))
    assert left._value.get() == 0.0
    asyncio.run(count(counted, 2 * tallies.WRITE_S))
    assert (left._value.get(), counted._value.get()) == (1.0, 1.0)
