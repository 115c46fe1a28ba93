"""How a trial tells a format that the device cannot run from other trouble."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from modelmora.errors import ModelLoadFailed, OutOfMemory
from runners.batcher import Batcher
from runners.batching.lanes import Hung, Patience
from runners.examinations.trial import AS_ASKED, Taken, take
from tests.pools import A, PoolFixture


@pytest.fixture
async def its() -> AsyncIterator[PoolFixture]:
    fixture = PoolFixture()
    yield fixture
    await fixture.close()


@pytest.fixture
async def batcher(its: PoolFixture) -> AsyncIterator[Batcher]:
    batcher = Batcher(its.pool, patience=Patience(hang_s=0.05))
    yield batcher
    await batcher.close()


async def taken(its: PoolFixture, batcher: Batcher) -> Taken:
    found = Taken()
    async with its.pool.lease(A) as loaded:
        given = {"embed_text": [loaded.sample("embed_text")] * 3}
        async for _ in take(batcher, loaded, given, into=found, pace=AS_ASKED):  # type: ignore[arg-type] # a task
            pass
    return found


async def test_the_rows_of_all_batches_are_kept(its: PoolFixture, batcher: Batcher) -> None:
    assert (await taken(its, batcher)).vectors["embed_text"].shape == (3, 2)


async def test_what_the_network_raises_is_told_as_its_format(its: PoolFixture, batcher: Batcher) -> None:
    its.family.bad = {b"sample": RuntimeError("not implemented for 'BFloat16'")}
    with pytest.raises(ModelLoadFailed, match="cpu does not run it in fp32: not implemented for 'BFloat16'"):
        await taken(its, batcher)


async def test_what_ends_the_trial_is_told_as_it_is(its: PoolFixture, batcher: Batcher) -> None:
    its.family.room = 1
    with pytest.raises(OutOfMemory):
        await taken(its, batcher)

    its.family.running.close()
    with pytest.raises(Hung):
        await taken(its, batcher)
