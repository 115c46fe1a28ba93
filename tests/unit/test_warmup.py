"""Warm-up: every batch size that callers will make, smallest first, timed and measured."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from modelmora.errors import ModelLoadFailed
from runners.batcher import Batcher
from runners.batching.warmup import buckets, warm
from tests.fakes import until
from tests.families import GIB
from tests.pools import A, PoolFixture


@pytest.fixture
async def its() -> AsyncIterator[PoolFixture]:
    fixture = PoolFixture()
    yield fixture
    await fixture.close()


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (16, [1, 2, 4, 8, 16]), (24, [1, 2, 4, 8, 16, 24])],
)
def test_the_buckets_are_powers_of_two_and_the_largest_batch(largest: int, sizes: list[int]) -> None:
    assert buckets(largest) == sizes


async def test_each_bucket_of_each_task_is_run_once_and_timed(its: PoolFixture) -> None:
    batcher = Batcher(its.pool)

    warmed = await warm(its.pool, batcher, A, its.family.tasks())
    await batcher.close()

    assert [(w.task, w.items) for w in warmed] == [("embed_text", 1), ("embed_text", 2), ("embed_text", 4)]
    assert [len(batch) for batch in its.family.batches] == [1, 2, 4]
    assert all(w.ms > 0 for w in warmed)
    assert its.loaded() == {"a"}


async def test_it_is_said_once(its: PoolFixture, capsys: pytest.CaptureFixture[str]) -> None:
    batcher = Batcher(its.pool)
    await warm(its.pool, batcher, A, its.family.tasks())
    await batcher.close()

    said = [line for line in capsys.readouterr().out.splitlines() if "event=model_warm" in line]
    assert len(said) == 1
    assert "embed_text 4: " in said[0]


async def test_its_batches_are_measured(its: PoolFixture) -> None:
    its.room(0, metered=True)
    batcher = Batcher(its.pool)

    await warm(its.pool, batcher, A, its.family.tasks())
    await batcher.close()

    assert its.memory.measured == 3
    await until(lambda: its.size("a") == GIB)


async def test_what_loading_raises_is_raised(its: PoolFixture) -> None:
    its.family.load_errors = [ModelLoadFailed("no such file")]
    batcher = Batcher(its.pool)

    with pytest.raises(ModelLoadFailed, match="no such file"):
        await warm(its.pool, batcher, A, its.family.tasks())
    await batcher.close()
