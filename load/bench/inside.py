"""Measures one window whose callers are this process itself: what they take is taken out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import psutil

from load.bench import cpu
from load.bench.plan import Point
from load.bench.results import Window
from load.bench.stats import percentile
from modelmora.client import Client, Failed

STREAM_ITEMS = 10_000
"""What a server takes in one stream unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What a window did; `times_ms` of its requests, where they are told."""

    items: int
    failed: int = 0
    times_ms: Sequence[float] = ()


async def streamed(client: Client, items: Iterable[bytes], *, model: str) -> Counted:
    """All of them through one GenerateBatch."""
    good = bad = 0
    async for _, outcome in client.generate_batch(items, model=model):
        if isinstance(outcome, Failed):
            bad += 1
        else:
            good += 1
    return Counted(items=good, failed=bad)


async def streaming(url: str, pictures: Iterator[bytes], *, model: str, seconds: float) -> Counted:
    """One caller of GenerateBatch for so long, stream after stream."""
    until = time.perf_counter() + seconds
    more = itertools.takewhile(lambda _: time.perf_counter() < until, pictures)
    parts = []
    async with Client(url, timeout=60.0) as client:
        while time.perf_counter() < until:
            parts.append(await streamed(client, itertools.islice(more, STREAM_ITEMS), model=model))
    return Counted(items=sum(part.items for part in parts), failed=sum(part.failed for part in parts))


async def measured(trees: Sequence[psutil.Process], point: Point, work: Callable[[], Awaitable[Counted]]) -> Window:
    """CPU of the process trees while the work runs; raises ProcessEnded when one of theirs ends meanwhile."""
    own, before = time.process_time(), [cpu.sample(tree) for tree in trees]
    started = time.perf_counter()
    done = await work()
    wall_s = time.perf_counter() - started
    after = [cpu.sample(tree) for tree in trees]
    spent = [cpu.spent(*both) for both in zip(before, after, strict=True)]
    known = sum(sum(one.values()) for one in spent) + time.process_time() - own
    by_role: dict[str, float] = {}
    for one in spent:
        for role, seconds in one.items():
            by_role[role] = by_role.get(role, 0.0) + seconds
    return Window(
        party="ours",
        point=point,
        pair=None,
        items=done.items,
        wall_s=wall_s,
        cpu_s=by_role,
        failed=done.failed,
        p50_ms=percentile(done.times_ms, 0.5) if done.times_ms else None,
        p95_ms=percentile(done.times_ms, 0.95) if done.times_ms else None,
        p99_ms=percentile(done.times_ms, 0.99) if done.times_ms else None,
        foreign_cores=max(0.0, after[0].machine_s - before[0].machine_s - known) / wall_s,
    )
