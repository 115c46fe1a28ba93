"""A model that many ask for comes to more than one worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from modelmora.domain.outcome import Ok
from runners.hop import fleet
from tests.doors.hop import Hop, own
from tests.fakes import until
from tests.families import GIB

OWN = own(max_batch=4)
OTHER = replace(OWN, name="other", source="bundled:other")
CROWD = [f"text {number}" for number in range(40)]


@pytest.fixture
async def hop(tmp_path: Path) -> AsyncIterator[Hop]:
    async with Hop(tmp_path, OWN, OTHER, budget_bytes=3 * GIB) as hop:
        hop.family.weights = {"own": 2 * GIB, "other": 2 * GIB}
        for index in (1, 2):
            await hop.host(index)
        await until(lambda: len(hop.fleet.workers()) == 2)
        yield hop


def holders(hop: Hop) -> int:
    return sum(host.pool.peek(OWN) is not None for host in hop.hosts)


async def test_a_model_that_a_crowd_asks_for_is_loaded_by_another_worker_too(hop: Hop) -> None:
    await hop.texts(OWN, "first")
    assert holders(hop) == 1
    asking = asyncio.create_task(hop.texts(OWN, *CROWD))
    await until(lambda: holders(hop) == 2)
    await asking

    hop.family.running.close()
    later = asyncio.create_task(hop.texts(OWN, *CROWD[:20]))
    await until(lambda: all(host.batcher.busy() for host in hop.hosts))
    hop.family.running.open()
    assert all(isinstance(outcome, Ok) for outcome in await later)


async def test_a_few_callers_do_not_bring_it_to_another_worker(hop: Hop) -> None:
    await hop.texts(OWN, "first")
    for _ in range(5):
        await hop.texts(OWN, *CROWD[: fleet.SPREAD_ITEMS - 1])
    await asyncio.sleep(0.2)
    assert holders(hop) == 1


async def test_no_other_model_goes_for_it(hop: Hop) -> None:
    await hop.texts(OWN, "first")
    other = next(host for host in hop.hosts if host.pool.peek(OWN) is None)
    await other.pool.load(OTHER)
    await until(
        lambda: any(view.held_bytes >= 2 * GIB and "other@1.0.0" in view.holdings for view in hop.fleet.workers())
    )
    await hop.texts(OWN, *CROWD)
    await asyncio.sleep(0.2)
    assert holders(hop) == 1
    assert other.pool.peek(OTHER) is not None
