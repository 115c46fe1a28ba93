"""`tune`: what is tried, when it is believed, what is chosen; and the sweep itself over a real pool and batcher."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner

from modelmora.cli.__main__ import program
from modelmora.cli.server import Server
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec, ModelSpec
from modelmora.domain.outcome import Ok, Outcome
from modelmora.domain.tuning import Division, Measured, best, divisions, grows, sizes, steady
from modelmora.errors import DeadlineExceeded, ModelLoadFailed, Overloaded
from runners.batching.jobs import Computed, Job
from runners.devices import Share
from runners.examinations.tuning import Course, tune
from runners.host import HostSettings, RunnerHost
from tests.fakes import until
from tests.families import GIB, Family, Gate
from tests.folders import Folders
from tests.gpus import FakeCuda, pretend

SPEC = ModelSpec(name="own", version="1.0.0", type="embedding", provider="family", source="bundled:own")
OTHER = replace(SPEC, name="other", device="cpu")
SHARE = Share(threads=2, budget_bytes=0)
SHORT = Course(largest=4, window_s=0.0, lone=1)
ROW = Measured(batch=8, lanes=1, threads=2, items_per_s=10, batch_ms=100, lone_ms=20, memory_bytes=100, steady=True)


def test_cores_are_divided_by_powers_of_two_from_one_lane_to_a_lane_each() -> None:
    assert [(one.lanes, one.threads) for one in divisions(8, 8)] == [(1, 8), (2, 4), (4, 2), (8, 1)]
    assert [(one.lanes, one.threads) for one in divisions(6, 6)] == [(1, 6), (2, 3), (4, 1), (6, 1)]
    assert divisions(1, 1) == [Division(lanes=1, threads=1)]


def test_a_device_that_takes_few_batches_at_once_gets_no_more_lanes() -> None:
    assert [(one.lanes, one.threads) for one in divisions(16, 2)] == [(1, 16), (2, 8)]


def test_batches_grow_by_doubling() -> None:
    assert sizes() == [1, 2, 4, 8, 16, 32, 64]
    assert sizes(5) == [1, 2, 4]


@pytest.mark.parametrize(
    ("rates", "believed"),
    [
        ([], False),
        ([10.0, 10.0], False),
        ([10.0, 10.5, 10.9], True),
        ([10.0, 10.5, 11.1], False),
        ([5.0, 10, 10.1, 10.2], True),
    ],
)
def test_three_windows_within_a_tenth_are_a_number(rates: list[float], believed: bool) -> None:
    assert steady(rates) is believed


def test_a_batch_is_not_doubled_where_its_double_would_not_fit_or_take_too_long() -> None:
    assert grows(ROW, room=200, longest_ms=100)
    assert grows(ROW, room=None, longest_ms=100)
    assert not grows(ROW, room=199, longest_ms=100)
    assert not grows(ROW, room=200, longest_ms=99)


def test_the_smallest_batch_near_the_most_is_best() -> None:
    large, small = replace(ROW, batch=64, items_per_s=10.2), replace(ROW, batch=4, items_per_s=9.0)
    assert best([small, ROW, large]) == ROW
    assert best([small, ROW, replace(ROW, lanes=2, threads=1, items_per_s=10.1), large]).lanes == 2


def test_what_was_not_steady_is_chosen_only_where_nothing_was() -> None:
    lucky = replace(ROW, batch=2, items_per_s=99.0, steady=False)
    assert best([lucky, ROW]) == ROW
    assert best([lucky]) == lucky
    with pytest.raises(ValueError, match="nothing"):
        best([])


@pytest.fixture
def family() -> Family:
    return Family()


@pytest.fixture
async def worker(family: Family, tmp_path: Path) -> AsyncIterator[Callable[..., RunnerHost]]:
    """Makes workers with two cores; nobody else talks to them."""
    made: list[RunnerHost] = []

    def make(*, workers: int = 1, share: Share = SHARE) -> RunnerHost:
        settings = HostSettings(group="default", index=1, directory=tmp_path, share=share)
        catalogue = Catalogue((SPEC, OTHER), (GroupSpec(workers=workers),))
        made.append(RunnerHost(settings, catalogue, lambda _: family, Folders()))
        return made[-1]

    yield make
    family.running.open()
    for host in made:
        await host.batcher.close()
        await host.pool.close()


@pytest.fixture
def host(worker: Callable[..., RunnerHost]) -> RunnerHost:
    return worker()


async def tuned(host: RunnerHost, course: Course = SHORT, *, within_s: float = 60.0) -> list[dict[str, Any]]:
    return [step async for step in tune(host, SPEC, deadline=time.monotonic() + within_s, course=course)]


async def test_every_size_is_tried_on_every_division_of_the_cores(host: RunnerHost, family: Family) -> None:
    first, *rows, report = await tuned(host)
    assert first["stage"] == "loading"
    tried = [(row["lanes"], row["threads"], row["batch"]) for row in rows]
    assert tried == [(1, 2, 1), (1, 2, 2), (1, 2, 4), (2, 1, 1), (2, 1, 2), (2, 1, 4)]
    assert [(row["done"], row["total"]) for row in rows] == [(number, 6) for number in range(1, 7)]
    assert {len(batch) for batch in family.batches} == {1, 2, 4}
    assert set(family.threads) == {1, 2}
    assert report["stage"] == "report"


class Meeting(Gate):
    """Two batches of two, of one thread each, go on only together."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self._family = family
        self._barrier = threading.Barrier(2, timeout=10.0)

    def pass_through(self) -> None:
        if len(self._family.batches[-1]) == 2 and self._family.threads[-1] == 1:
            self._barrier.wait()


async def test_lanes_compute_side_by_side(host: RunnerHost, family: Family) -> None:
    family.running = Meeting(family)
    await tuned(host, replace(SHORT, largest=2))
    assert family.most_together == 2


async def test_the_report_says_what_to_write_into_the_registry(host: RunnerHost) -> None:
    report = (await tuned(host))[-1]
    chosen = report["best"]
    assert report["settings"] == {"batching": {"max_batch": chosen["batch"]}, "resources": {"cpu": 2}}
    assert chosen in report["rows"]
    assert (report["model"], report["version"], report["task"], report["group"]) == (
        "own", "1.0.0", "embed_text", "default",
    )  # fmt: skip
    assert report["ended"] == ""


async def test_cores_are_told_over_all_workers_of_the_group(worker: Callable[..., RunnerHost]) -> None:
    report = (await tuned(worker(workers=2)))[-1]
    assert report["best"]["lanes"] * report["best"]["threads"] == 2
    assert report["settings"]["resources"] == {"cpu": 4}


async def test_windows_go_on_until_they_agree_or_there_were_enough(host: RunnerHost, family: Family) -> None:
    await tuned(host, replace(SHORT, largest=1, windows=5))
    before = 2 * 2 + 3  # on either division a lone item and one before it, on each lane a first batch
    assert 3 * 3 + before <= len(family.batches) <= 3 * 5 + before


async def test_a_size_too_large_for_the_memory_ends_the_growth_and_not_the_sweep(
    host: RunnerHost, family: Family
) -> None:
    family.room = 2
    *_, report = await tuned(host)
    assert [row["batch"] for row in report["rows"]] == [1, 2, 1, 2]
    assert report["ended"] == "batches of 4 are too large for the memory"


class Taking(Gate):
    """Each batch takes a byte of a GPU."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def pass_through(self) -> None:
        self._cuda.take(1)
        self._cuda.take(-1)


async def test_batches_grow_into_the_room_of_the_models_own_device(
    worker: Callable[..., RunnerHost], family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    family.weights = {"own": GIB, "other": 100 * GIB}
    family.running = Taking(pretend(monkeypatch, gpus=1))
    host = worker(share=replace(SHARE, gpu=0, budgets={"cuda:0": 2 * GIB}))
    await host.pool.load(OTHER)  # in the memory of the host
    *_, report = await tuned(host)
    assert (report["device"], report["ended"]) == ("cuda:0", "")
    assert len(report["rows"]) == 6


async def test_a_server_that_serves_others_is_not_tuned(host: RunnerHost, family: Family) -> None:
    family.running.close()
    answer = submit(host)
    await until(lambda: family.together == 1)
    with pytest.raises(Overloaded, match=r"busy with other callers, so own@1.0.0 cannot be tuned"):
        await tuned(host)
    family.running.open()
    assert isinstance(await answer, Ok)


async def test_callers_who_come_meanwhile_are_served_and_end_the_tuning(host: RunnerHost, family: Family) -> None:
    running = asyncio.create_task(tuned(host, replace(SHORT, window_s=10.0)))
    await until(lambda: len(family.batches) > 10)
    while not running.done():
        assert isinstance(await submit(host), Ok)
    with pytest.raises(Overloaded, match="busy with other callers"):
        await running


async def test_a_deadline_ends_the_sweep_with_what_was_measured(host: RunnerHost) -> None:
    *_, report = await tuned(host, replace(SHORT, window_s=0.2, windows=3, largest=64), within_s=1.5)
    assert report["ended"].startswith("the deadline came")
    assert 1 <= len(report["rows"]) < 14


async def test_no_time_for_a_single_setting_is_an_error(host: RunnerHost) -> None:
    with pytest.raises(DeadlineExceeded, match="longer deadline"):
        await tuned(host, within_s=-1.0)


async def test_a_caller_who_leaves_ends_it_and_the_model_is_free_again(host: RunnerHost, family: Family) -> None:
    async with aclosing(tune(host, SPEC, deadline=time.monotonic() + 60, course=SHORT)) as steps:
        async for step in steps:
            if step["stage"] == "measured":
                break
    assert not host.batcher.busy()
    assert [one.in_flight for one in host.pool.holdings()] == [0]
    before = len(family.batches)
    await host.pool.unload(SPEC)
    assert len(family.batches) == before


async def test_a_caller_who_leaves_during_a_batch_holds_the_model_until_it_ends(
    host: RunnerHost, family: Family
) -> None:
    running = asyncio.create_task(tuned(host, replace(SHORT, window_s=10.0)))
    await until(lambda: len(family.batches) > 10)
    family.running.close()
    await until(lambda: family.together > 0)
    running.cancel()
    unloading = asyncio.create_task(host.pool.unload(SPEC))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not family.closed
    family.running.open()
    with pytest.raises(asyncio.CancelledError):
        await running
    await unloading
    assert family.closed == ["own"]


async def test_a_model_that_does_not_load_is_not_tuned(host: RunnerHost, family: Family) -> None:
    family.load_errors.append(ModelLoadFailed("no weights"))
    with pytest.raises(ModelLoadFailed, match="no weights"):
        await tuned(host)


def submit(host: RunnerHost) -> asyncio.Future[Outcome[Computed]]:
    """Another caller's item."""
    answer: asyncio.Future[Outcome[Computed]] = asyncio.get_running_loop().create_future()
    array = np.frombuffer(b"other", np.uint8)
    job = Job(spec=SPEC, task="embed_text", payload=array, deadline=time.monotonic() + 30, done=answer.set_result)
    host.batcher.submit(job)
    return answer


class FakeClient:
    """A server that was tuned."""

    steps: ClassVar[list[dict[str, Any]]] = []

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def tune(self, ref: str, **options: float) -> AsyncIterator[dict[str, Any]]:
        for step in self.steps:
            yield step


def a_report() -> dict[str, Any]:
    row = {
        "batch": 16, "lanes": 2, "threads": 1, "items_per_s": 17.44, "batch_ms": 1830.0, "lone_ms": 101.2,
        "memory_bytes": 50 * 2**20, "steady": True,
    }  # fmt: skip
    return {
        "stage": "report", "model": "vit", "version": "1.0.0", "task": "embed_image", "device": "cpu",
        "engine": "torch", "precision": "fp32", "group": "default", "ended": "", "best": row,
        "rows": [{**row, "batch": 1}, row],
        "settings": {"batching": {"max_batch": 16}, "resources": {"cpu": 2}},
    }  # fmt: skip


def invoked(monkeypatch: pytest.MonkeyPatch, steps: list[dict[str, Any]], *arguments: str) -> Any:
    monkeypatch.setattr(FakeClient, "steps", steps)
    monkeypatch.setattr(Server, "client", lambda self: FakeClient())
    return CliRunner().invoke(program, ["tune", "vit", *arguments])


def test_the_command_prints_the_table_and_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoked(monkeypatch, [a_report()])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "vit@1.0.0, embed_image on cpu by torch in fp32"
    chosen = next(line.split() for line in lines if "best" in line)
    assert chosen == ["16", "2", "x", "1", "17.4", "1830.0", "101.2", "50", "MiB", "best"]
    assert "max_batch: 16" in result.stdout
    assert "cpu: 2}}}  # over all of the group's workers" in result.stdout


def test_a_sweep_that_is_not_whole_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoked(monkeypatch, [{**a_report(), "ended": "the deadline came"}])
    assert "not every setting was tried: the deadline came" in result.stdout


def test_json_prints_each_step_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoked(monkeypatch, [{"stage": "loading"}, a_report()], "--json")
    assert [line[:11] for line in result.stdout.splitlines()] == ['{"stage": "', '{"stage": "']


def test_a_server_that_stops_sending_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoked(monkeypatch, [{"stage": "loading", "done": 0, "total": 0}])
    assert result.exit_code == 1
    assert "before vit was tuned" in result.stderr
