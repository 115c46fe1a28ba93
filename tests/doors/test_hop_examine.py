"""An examination across the hop: steps as they come, errors whole, gone with the caller or the worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import Batching, GroupSpec, ModelSpec
from modelmora.errors import CapabilityMissing, DeadlineExceeded, DependencyUnavailable, ModelLoadFailed
from runners.devices import Share
from runners.fleet import Fleet
from runners.handle import HandleSettings, RunnerHandle
from runners.host import HostSettings, RunnerHost
from runners.precision import Concrete
from tests.fakes import until
from tests.families import Family

OWN = ModelSpec(
    name="own",
    version="1.0.0",
    type="embedding",
    provider="family",
    source="bundled:own",
    batching=Batching(max_batch=8),
)


class Formats(Family):
    """Has two formats, which give the same vectors."""

    def precisions(self, device: str) -> tuple[Concrete, ...]:
        return ("fp32", "bf16")

    def files(self, spec: ModelSpec, folder: Path | None) -> tuple[Path, ...]:
        return ()


class Hop:
    """Two hosts in this process and a handle that finds them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.family: Family = Formats()
        self.fleet = Fleet({"default": directory})
        self.hosts: list[RunnerHost] = []
        settings = HandleSettings(decode_threads=1, max_in_flight=64, max_pixels=10_000, max_text_chars=2_000)
        self.handle = RunnerHandle(self.fleet, {"default": 2}, settings)

    async def host(self, index: int) -> RunnerHost:
        share = Share(threads=1, budget_bytes=0)
        settings = HostSettings(group="default", index=index, directory=self.directory, share=share, drain_timeout_s=1)
        host = RunnerHost(settings, Catalogue((OWN,), (GroupSpec(),)), lambda _: self.family, lambda _: None)
        self.hosts.append(host)
        await host.start()
        return host

    async def close(self) -> None:
        self.family.running.open()
        await self.handle.close()
        for host in self.hosts:
            await host.stop()

    async def examined(self, *, within_s: float = 30.0) -> list[dict[str, Any]]:
        steps = self.handle.examine(OWN, "verify", deadline=time.monotonic() + within_s)
        return [dict(step) async for step in steps]


@pytest.fixture
async def hop(tmp_path: Path) -> AsyncIterator[Hop]:
    hop = Hop(tmp_path)
    await hop.host(1)
    await hop.fleet.start()
    await until(lambda: len(hop.fleet.workers()) == 1)
    yield hop
    await hop.close()


async def test_steps_and_report_arrive(hop: Hop) -> None:
    steps = await hop.examined()

    assert [step["stage"] for step in steps[:2]] == ["loading", "measuring"]
    assert (steps[-1]["stage"], steps[-1]["precision"], steps[-1]["passes"]) == ("report", "fp32", True)


async def test_a_worker_that_holds_the_model_is_asked_first(hop: Hop) -> None:
    second = await hop.host(2)
    await second.pool.load(OWN)
    await until(lambda: any(OWN.key in view.holdings for view in hop.handle.workers()))

    await hop.examined()

    assert hop.hosts[0].pool.peek(OWN) is None


async def test_what_the_runner_refuses_arrives_whole(hop: Hop) -> None:
    hop.family.load_errors = [ModelLoadFailed("no weights", field="source")]
    with pytest.raises(ModelLoadFailed, match="no weights") as refused:
        await hop.examined()
    assert refused.value.field == "source"

    hop.family = Family()
    with pytest.raises(CapabilityMissing, match="one precision only"):
        await hop.examined()


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


async def test_a_deadline_that_passes_is_told_and_ends_it(hop: Hop) -> None:
    hop.family.running.close()
    with pytest.raises(DeadlineExceeded, match=r"before verify of own@1.0.0 was done"):
        await hop.examined(within_s=0.5)
    hop.family.running.open()
    await until(lambda: not hop.hosts[0].examining.locked())


async def test_a_worker_that_goes_away_is_told(hop: Hop) -> None:
    hop.family.running.close()
    asked = asyncio.create_task(hop.examined())
    await until(hop.hosts[0].examining.locked)

    server = hop.hosts[0]._server
    assert server is not None
    await server.stop(0)

    with pytest.raises(DependencyUnavailable, match="went away meanwhile"):
        await asked
