"""An examination across the hop: steps as they come, errors whole, gone with the caller or the worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from modelmora.domain.models import ModelSpec
from modelmora.errors import CapabilityMissing, DeadlineExceeded, DependencyUnavailable, ModelLoadFailed
from runners.examinations.examine import examine
from runners.precision import Concrete
from tests.doors.hop import Hop, own
from tests.fakes import until
from tests.families import GIB, Family

OWN = own(max_batch=8)


class Formats(Family):
    """Has two formats, which give the same vectors."""

    def precisions(self, device: str) -> tuple[Concrete, ...]:
        return ("fp32", "bf16")

    def files(self, spec: ModelSpec, folder: Path | None) -> tuple[Path, ...]:
        return ()


async def examined(hop: Hop, *, within_s: float = 30.0) -> list[dict[str, Any]]:
    steps = hop.handle.examine(OWN, "verify", deadline=time.monotonic() + within_s)
    return [dict(step) async for step in steps]


@pytest.fixture
async def hop(tmp_path: Path) -> AsyncIterator[Hop]:
    async with Hop(tmp_path, OWN) as hop:
        hop.family = Formats()
        await hop.host()
        await until(lambda: len(hop.fleet.workers()) == 1)
        yield hop


async def test_steps_and_report_arrive(hop: Hop) -> None:
    steps = await examined(hop)

    assert [step["stage"] for step in steps[:2]] == ["loading", "measuring"]
    assert (steps[-1]["stage"], steps[-1]["precision"], steps[-1]["passes"]) == ("report", "fp32", True)


async def test_a_worker_that_holds_the_model_is_asked_first(hop: Hop) -> None:
    second = await hop.host(2)
    await second.pool.load(OWN)
    await until(lambda: any(OWN.key in view.holdings for view in hop.handle.workers()))

    await examined(hop)

    assert hop.hosts[0].pool.peek(OWN) is None


async def test_what_the_runner_refuses_arrives_whole(hop: Hop) -> None:
    hop.family.load_errors = [ModelLoadFailed("no weights", field="source")]
    with pytest.raises(ModelLoadFailed, match="no weights") as refused:
        await examined(hop)
    assert refused.value.field == "source"

    hop.family = Family()
    with pytest.raises(CapabilityMissing, match="one precision only"):
        await examined(hop)


async def test_a_caller_who_leaves_ends_it_in_the_runner(hop: Hop) -> None:
    host = hop.hosts[0]
    async with aclosing(hop.handle.examine(OWN, "verify", deadline=time.monotonic() + 30)) as steps:
        async for step in steps:
            if step["stage"] == "measuring":
                hop.family.running.close()
                break
        assert host.examining.locked()
    hop.family.running.open()

    await until(lambda: not host.examining.locked())
    await until(lambda: all(one.in_flight == 0 for one in host.pool.holdings()))


async def test_a_copy_is_in_the_accounts_before_it_is_loaded(hop: Hop) -> None:
    pool, family = hop.hosts[0].pool, hop.family
    family.weights["own"] = GIB
    await pool.load(OWN)
    family.loading.close()
    asked = asyncio.create_task(examined(hop))
    await until(family.loading.reached.is_set)
    assert pool.held_bytes() == 1.5 * GIB  # in half the bytes

    family.loading.open()
    await asked


async def test_a_copy_that_computes_is_not_freed_when_its_caller_leaves(hop: Hop) -> None:
    running, begun = hop.family.running, asyncio.Event()

    async def watch() -> None:
        async with aclosing(examine(hop.hosts[0], OWN, "verify", deadline=time.monotonic() + 30)) as steps:
            async for step in steps:
                if (step["stage"], step["precision"]) == ("loading", "bf16"):
                    running.close()
                    begun.set()

    watching = asyncio.create_task(watch())
    await begun.wait()
    await until(running.reached.is_set)
    watching.cancel()
    left, _ = await asyncio.wait({watching}, timeout=0.1)  # it must not have let go by then
    assert (left, hop.family.closed) == (set(), [])

    running.open()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert hop.family.closed == ["own"]


async def test_a_deadline_that_passes_is_told_and_ends_it(hop: Hop) -> None:
    hop.family.running.close()
    with pytest.raises(DeadlineExceeded, match=r"before verify of own@1.0.0 was done"):
        await examined(hop, within_s=0.5)
    hop.family.running.open()
    await until(lambda: not hop.hosts[0].examining.locked())


async def test_a_worker_that_goes_away_is_told(hop: Hop) -> None:
    hop.family.running.close()
    asked = asyncio.create_task(examined(hop))
    await until(hop.hosts[0].examining.locked)

    server = hop.hosts[0]._server
    assert server is not None
    await server.stop(0)

    with pytest.raises(DependencyUnavailable, match="went away meanwhile"):
        await asked
