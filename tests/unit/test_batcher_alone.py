"""Batches outside the queues, as warm-up, `verify` and `tune` run them: whom they hold, and what is learnt of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from modelmora.domain.batching import Lanes
from modelmora.domain.models import ModelSpec
from modelmora.errors import Overloaded
from runners.batcher import Batcher
from runners.capabilities import rows
from tests.fakes import until
from tests.families import GIB, row_of
from tests.pools import A, B, PoolFixture, Taking


@pytest.fixture
async def its() -> AsyncIterator[PoolFixture]:
    fixture = PoolFixture()
    fixture.room(0, metered=True)
    fixture.family.running = Taking(fixture)
    yield fixture
    await fixture.close()


@pytest.fixture
async def batcher(its: PoolFixture) -> AsyncIterator[Batcher]:
    batcher = Batcher(its.pool, lanes=Lanes(cores=2, limit=2, worth=1))
    yield batcher
    its.family.running.open()
    await batcher.close()


async def test_its_rows_come_back_with_the_seconds_that_a_clock_counted(its: PoolFixture, batcher: Batcher) -> None:
    ticks = iter([10.0, 12.5])
    async with its.pool.lease(A) as loaded:
        batch = [loaded.sample("embed_text")]
        given, seconds = await batcher.run_alone(loaded, "embed_text", batch, clock=lambda: next(ticks))

    assert (rows(given).tolist(), seconds) == ([row_of(b"sample")], 2.5)


async def run(its: PoolFixture, batcher: Batcher, *, items: int = 1, spec: ModelSpec | None = None) -> None:
    async with its.pool.lease(A) as loaded:
        await batcher.run_alone(loaded, "embed_text", [loaded.sample("embed_text")] * items, spec=spec)


async def test_who_leaves_meanwhile_holds_the_lane_and_the_model_until_its_end(
    its: PoolFixture, batcher: Batcher
) -> None:
    its.family.running.close()
    asked = asyncio.create_task(run(its, batcher))
    await until(its.family.running.reached.is_set)
    asked.cancel()
    unloading = asyncio.create_task(its.pool.unload(A))
    left, _ = await asyncio.wait({asked, unloading}, timeout=0.1)  # neither must have let go by then
    assert (left, batcher.busy(), its.family.closed) == (set(), True, [])

    its.family.running.open()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await unloading
    assert (batcher.busy(), its.family.closed) == (False, ["a"])


async def test_its_memory_counts_into_the_footprint_in_sizes_that_are_served(
    its: PoolFixture, batcher: Batcher
) -> None:
    await run(its, batcher, items=8, spec=A)  # as `tune` tries them; a full batch has four
    await run(its, batcher, items=2, spec=A)
    await run(its, batcher, items=4)  # nobody's

    await until(lambda: its.size("a") == (1 + 2) * GIB)
    assert its.memory.measured == 1


@pytest.mark.parametrize("spec", [A, None])
async def test_a_load_beside_it_does_not_learn_its_memory(
    spec: ModelSpec | None, its: PoolFixture, batcher: Batcher
) -> None:
    await its.load(A)
    its.family.loading.close()
    loading = asyncio.create_task(its.load(B))
    await until(its.family.loading.reached.is_set)
    its.family.running.close()
    running = asyncio.create_task(run(its, batcher, items=3, spec=spec))
    await until(its.family.running.reached.is_set)

    its.family.loading.open()
    await loading
    its.family.running.open()
    await running

    assert (its.size("a"), its.size("b")) == (GIB, GIB)


async def test_a_batcher_that_is_closed_runs_none(its: PoolFixture, batcher: Batcher) -> None:
    await batcher.close()

    with pytest.raises(Overloaded, match="shutting down"):
        await run(its, batcher)
    assert its.family.batches == []
