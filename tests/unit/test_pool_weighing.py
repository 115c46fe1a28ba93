"""A model whose batches nobody has measured: a full one runs beside nothing else before the model is used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from modelmora.domain.batching import Lanes
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Ok, Outcome
from modelmora.errors import ModelLoadFailed
from modelmora.ports import Footprint
from runners.batcher import Batcher
from runners.batching import lanes
from runners.batching.jobs import Computed, Job
from runners.batching.lanes import Patience
from tests.fakes import until
from tests.families import GIB
from tests.pools import A, B, C, PoolFixture, Taking


class Fixture(PoolFixture):
    """Room for ten GiB; each model takes one, and one for each of the four items of its full batch."""

    def __init__(self) -> None:
        super().__init__()
        self.hung = 0
        self.family.running = Taking(self)
        self.begin(10)

    def begin(self, gib: float, **options: float) -> None:
        self.room(gib, metered=True)
        patience = Patience(**options)
        self.batcher = Batcher(
            self.pool, lanes=Lanes(cores=2, limit=2, worth=1), patience=patience, on_hang=self._note_hang
        )

    def _note_hang(self) -> None:
        self.hung += 1

    def ask(self, content: bytes, model: ModelSpec) -> asyncio.Future[Outcome[Computed]]:
        answer: asyncio.Future[Outcome[Computed]] = asyncio.get_running_loop().create_future()
        array, deadline = np.frombuffer(content, np.uint8), time.monotonic() + 60
        self.batcher.submit(
            Job(spec=model, task="embed_text", payload=array, deadline=deadline, done=answer.set_result)
        )
        return answer


@pytest.fixture
async def its() -> AsyncIterator[Fixture]:
    fixture = Fixture()
    yield fixture
    fixture.family.running.open()
    await fixture.batcher.close()
    await fixture.close()


async def test_under_load_a_footprint_has_the_peak_of_a_full_batch(its: Fixture) -> None:
    await its.load(A)
    its.family.running.close()
    busy = its.ask(b"busy", A)
    await until(its.family.running.reached.is_set)
    loading = asyncio.create_task(its.pool.load(B))
    await until(lambda: "b" in its.family.in_memory)
    its.ask(b"late", A)
    await asyncio.sleep(0.05)
    assert its.family.batches[1:] == [[b"busy"]], "neither the full batch nor a new one begins beside the running one"

    its.family.running.open()
    await loading
    assert isinstance(await busy, Ok)
    assert its.family.batches[2] == [b"sample"] * 4
    assert its.size("b") == 5 * GIB


async def test_what_does_not_fit_with_its_batches_makes_others_go_before_it_is_used(its: Fixture) -> None:
    await its.load(A, B)
    assert its.pool.held_bytes() == 10 * GIB

    await its.load(C)

    assert its.loaded() == {"b", "c"}
    assert its.pool.held_bytes() == 10 * GIB


async def test_what_earlier_workers_measured_is_not_measured_again(its: Fixture) -> None:
    its.pool.inform([Footprint(model=A.key, device="cpu", precision="fp32", bytes=3 * GIB)])
    await its.load(A)
    assert (its.family.batches, its.size("a")) == ([], 3 * GIB)


async def test_it_is_measured_once(its: Fixture) -> None:
    await its.load(A)
    await its.pool.unload(A)
    await its.load(A)
    assert its.family.batches == [[b"sample"] * 4]
    assert its.size("a") == 5 * GIB


async def test_without_a_budget_nothing_is_run(its: Fixture) -> None:
    its.begin(0)
    await its.load(A)
    assert its.family.batches == []


async def test_a_full_batch_that_raises_leaves_the_model_loaded(its: Fixture) -> None:
    its.family.bad[b"sample"] = RuntimeError("no")
    await its.load(A)
    assert (its.loaded(), its.size("a")) == ({"a"}, GIB)


async def test_a_full_batch_that_hangs_fails_the_load_and_costs_no_lane(its: Fixture) -> None:
    """The worker is not replaced: a default would hang in the next one as well, and in the one after it."""
    its.begin(10, hang_s=0.05)
    hanging, its.family.running = its.family.running, Taking(its)
    its.family.running.close()
    with pytest.raises(ModelLoadFailed):
        await its.load(A)
    stuck, its.family.running = its.family.running, hanging
    await its.load(B)
    assert isinstance(await its.ask(b"b", B), Ok)
    assert its.hung == 0
    stuck.open()


async def test_others_wait_for_a_full_batch_only_for_a_while(its: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "QUIET_S", 0.2)
    await its.load(A)
    hanging, its.family.running = its.family.running, Taking(its)
    stuck = its.family.running
    stuck.close()
    loading = asyncio.create_task(its.pool.load(B))
    await until(stuck.reached.is_set)
    its.family.running = hanging

    async with asyncio.timeout(5):
        assert isinstance(await its.ask(b"a", A), Ok)
    assert not loading.done()
    stuck.open()
    await loading


async def test_what_runs_is_waited_for_only_for_a_while(its: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "QUIET_S", 0.2)
    await its.load(A)
    hanging = its.family.running
    hanging.close()
    busy = its.ask(b"busy", A)
    await until(hanging.reached.is_set)
    its.family.running = Taking(its)

    async with asyncio.timeout(5):
        await its.load(B)
    hanging.open()
    assert isinstance(await busy, Ok)
