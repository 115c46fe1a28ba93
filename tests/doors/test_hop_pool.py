"""What crosses the hop of the pool: known footprints before any work, warm-up's timings back, one report of many."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from api import render
from modelmora.domain.outcome import Failed
from modelmora.errors import DependencyUnavailable
from modelmora.ports import Footprint
from tests.doors.hop import Hop, own
from tests.fakes import until
from tests.families import GIB

OWN = own(max_batch=4, max_wait_ms=5.0)
BUDGET = 2 * GIB


class Knowing(Hop):
    """Hosts with room for 2 GiB, and an API that knows `footprints`; while `away` it waits to know them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, OWN, budget_bytes=BUDGET, known=self._known)
        self.family.weights["own"] = GIB
        self.footprints: list[Footprint] = []
        self.asked: list[str] = []
        self.away = asyncio.Event()
        self.away.set()

    async def _known(self, group: str) -> Sequence[Footprint]:
        self.asked.append(group)
        await self.away.wait()
        return self.footprints


@pytest.fixture
async def hop(tmp_path: Path) -> AsyncIterator[Knowing]:
    async with Knowing(tmp_path) as hop:
        yield hop


def soon() -> float:
    return time.monotonic() + 30


async def test_a_worker_knows_what_earlier_ones_measured_before_its_first_work(hop: Knowing) -> None:
    hop.footprints = [Footprint(model=OWN.key, device="cpu", precision="fp32", bytes=3 * GIB)]
    await hop.host()

    (outcome,) = await hop.texts(OWN, "a")

    assert isinstance(outcome, Failed)
    assert "own@1.0.0 needs 3072 MiB" in outcome.error.detail
    assert hop.family.loads == []  # refused before it was tried
    assert hop.asked == ["default"]


async def test_a_worker_that_nobody_can_tell_anything_is_used_all_the_same(
    hop: Knowing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.hop.link.INFORM_S", 0.05)
    hop.away.clear()
    await hop.host()

    report = await hop.handle.load(OWN, deadline=soon())

    assert report.state == "loaded"


async def test_what_a_worker_holds_is_under_its_own_devices_budget(hop: Knowing) -> None:
    await hop.host()
    await hop.handle.load(OWN, deadline=soon())
    await until(lambda: any(view.held_bytes for view in hop.handle.workers()))

    (view,) = hop.handle.workers()
    assert (view.device, view.budget_bytes) == ("cpu", BUDGET)
    assert GIB <= view.held_bytes < 1.1 * GIB


async def test_a_warm_up_tells_every_batch_and_its_time(hop: Knowing) -> None:
    await hop.host(1)
    await hop.host(2)
    await until(lambda: len(hop.handle.workers()) == 2)

    report = await hop.handle.warmup(OWN, deadline=soon())

    assert [(w.task, w.items) for w in report.warmed] == [("embed_text", 1), ("embed_text", 2), ("embed_text", 4)]
    assert all(w.ms > 0 for w in report.warmed)
    assert [(row["task"], row["batch"]) for row in render.report(report)["warmup"]] == [
        ("embed_text", 1),
        ("embed_text", 2),
        ("embed_text", 4),
    ]


async def test_a_load_tells_no_batches(hop: Knowing) -> None:
    await hop.host()
    assert "warmup" not in render.report(await hop.handle.load(OWN, deadline=soon()))


async def test_a_worker_that_goes_meanwhile_is_not_in_the_report(hop: Knowing) -> None:
    staying, going = await hop.host(1), await hop.host(2)
    await until(lambda: len(hop.handle.workers()) == 2)
    hop.family.running.close()
    warming = asyncio.create_task(hop.handle.warmup(OWN, deadline=soon()))
    await until(lambda: hop.family.together == 2)

    link = next(link for link in hop.fleet.links("default") if link.socket == going.socket)
    await link._channel.close()  # as when its process ends
    hop.family.running.open()

    assert (await warming).workers == (staying.socket.stem,)


async def test_when_all_go_there_is_no_report(hop: Knowing) -> None:
    await hop.host()
    await until(lambda: len(hop.handle.workers()) == 1)
    hop.family.running.close()
    warming = asyncio.create_task(hop.handle.warmup(OWN, deadline=soon()))
    await until(hop.family.running.reached.is_set)

    await hop.fleet.links("default")[0]._channel.close()

    with pytest.raises(DependencyUnavailable, match="went away meanwhile"):
        await warming


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


async def test_the_gauges_of_a_dead_worker_are_dropped_and_a_live_ones_are_left(
    hop: Knowing, dead_pid: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    files = {pid: tmp_path / f"gauge_livesum_{pid}.db" for pid in (dead_pid, os.getpid())}
    for pid, file in files.items():
        file.touch()
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(str(hop.directory / f"default-1-{pid}.sock"))  # bound, never listening: as a killed one leaves it

    await until(lambda: not files[dead_pid].exists(), within_s=20)

    assert files[os.getpid()].exists()
