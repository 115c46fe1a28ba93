"""What the pool knows of its models' memory, measured and told, and how each device is accounted for itself."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelmora.domain.models import ModelSpec
from modelmora.errors import OutOfMemory
from modelmora.ports import Footprint
from runners.provider import Tell
from tests.fakes import until
from tests.families import GIB, Family, Model
from tests.gpus import pretend
from tests.pools import A, B, C, PoolFixture, spec


@pytest.fixture
async def its() -> AsyncIterator[PoolFixture]:
    fixture = PoolFixture()
    yield fixture
    await fixture.close()


async def test_the_peak_of_a_batch_is_part_of_the_footprint(its: PoolFixture) -> None:
    its.room(0, metered=True)
    await its.load(A)

    its.batch(A, 1, GIB // 8)
    its.batch(A, 4, GIB // 2)

    await until(lambda: its.size("a") == 1.5 * GIB)
    await its.pool.unload(A)
    assert (its.size("a"), its.pool.held_bytes()) == (0, 0)
    await its.load(A)
    assert its.size("a") == 1.5 * GIB  # known from now on


async def test_only_a_batch_larger_than_any_before_is_measured(its: PoolFixture) -> None:
    its.room(0, metered=True)
    await its.load(A)

    for items in (2, 2, 1, 4, 3, 4):
        its.batch(A, items, GIB)
        await asyncio.sleep(0)

    assert its.memory.measured == 2


async def test_a_batch_that_was_not_alone_teaches_nothing(its: PoolFixture) -> None:
    its.room(0, metered=True)
    await its.load(A, B)

    with its.pool.measuring(A, "embed_text", 1):
        other = threading.Thread(target=lambda: its.batch(B, 1, GIB))
        other.start()
        other.join()
    await asyncio.sleep(0)

    assert (its.size("a"), its.size("b")) == (GIB, GIB)


async def test_a_batch_beside_a_load_teaches_nothing(its: PoolFixture) -> None:
    its.room(0, metered=True)
    await its.load(A)
    its.family.loading.close()
    loading = asyncio.create_task(its.pool.load(B))
    await until(its.family.loading.reached.is_set)

    its.batch(A, 1, GIB)

    its.family.loading.open()
    await loading
    assert its.size("a") == GIB


async def test_a_batch_that_raises_teaches_nothing(its: PoolFixture) -> None:
    its.room(0, metered=True)
    await its.load(A)

    with contextlib.suppress(RuntimeError), its.pool.measuring(A, "embed_text", 1):
        its.memory.take(GIB)
        raise RuntimeError("no")
    await asyncio.sleep(0)

    assert its.size("a") == GIB


async def test_where_no_peak_can_be_had_a_batch_is_looked_at_once(its: PoolFixture) -> None:
    its.room(0, metered=True)
    its.memory.blind = True
    await its.load(A)

    for _ in range(3):
        its.batch(A, 1, GIB)
        await asyncio.sleep(0)

    assert (its.memory.measured, its.size("a")) == (1, GIB)


async def test_a_footprint_that_grows_past_the_budget_evicts_the_oldest_other(its: PoolFixture) -> None:
    its.room(3.2, metered=True)
    await its.load(A, B, C)

    async with its.pool.lease(C):
        its.batch(C, 4, GIB // 2)
        await until(lambda: its.family.closed == ["a"])  # closed in a thread, after it is out of the pool

    assert its.loaded() == {"b", "c"}


async def test_a_growing_footprint_waits_for_what_is_in_use(its: PoolFixture) -> None:
    its.room(2.2, metered=True)
    await its.load(A, B)

    async with its.pool.lease(A):
        async with its.pool.lease(B):
            its.batch(B, 4, GIB // 2)
            await until(lambda: its.pool.held_bytes() > 2.2 * GIB)
            assert its.loaded() == {"a", "b"}
        await until(lambda: its.loaded() == {"a"})  # a is still in use


async def test_a_model_that_has_outgrown_the_budget_goes_and_says_why(its: PoolFixture) -> None:
    its.room(1.2, metered=True)
    async with its.pool.lease(A):
        its.batch(A, 4, GIB // 2)
    await until(lambda: its.states()["a"] == "unloaded")

    assert "a@1.0.0 needs 1536 MiB and 1229 MiB of the budget" in (its.pool.holdings()[0].error or "")
    with pytest.raises(OutOfMemory, match=r"a@1\.0\.0 needs 1536 MiB"):
        await its.load(A)
    assert its.family.loads == ["a"]  # known before it is tried


async def test_pinned_models_that_outgrow_the_budget_stay(its: PoolFixture) -> None:
    its.room(1.2, metered=True)
    pinned = spec("a", pin=True)
    await its.load(pinned)

    its.batch(pinned, 4, GIB // 2)

    await until(lambda: its.size("a") == 1.5 * GIB)
    assert its.loaded() == {"a"}


async def test_room_is_made_before_a_model_is_loaded_that_earlier_workers_measured(its: PoolFixture) -> None:
    its.room(2.5)
    its.pool.inform([Footprint(model=C.key, device="cpu", precision="fp32", bytes=2 * GIB)])
    await its.load(A, B)
    its.family.loading.close()

    loading = asyncio.create_task(its.pool.load(C))
    await until(its.family.loading.reached.is_set)

    assert its.family.in_memory == set()  # both had to go for what c is known to take
    assert its.pool.held_bytes() == 2 * GIB
    its.family.loading.open()
    await loading
    assert its.family.closed == ["a", "b"]


@pytest.fixture
def heavy(tmp_path: Path) -> Path:
    """A folder with a weights file of 2 GiB, in numbers."""
    for name, size in {"weights.safetensors": 2 * GIB, "config.json": 100}.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    return tmp_path


async def test_room_is_made_for_a_model_that_was_never_seen_by_the_size_of_its_files(
    its: PoolFixture, heavy: Path
) -> None:
    its.room(2.5)
    its.folders["c"] = heavy
    await its.load(A, B)
    its.family.loading.close()

    loading = asyncio.create_task(its.pool.load(C))
    await until(its.family.loading.reached.is_set)

    assert (its.family.in_memory, its.pool.held_bytes()) == (set(), 2 * GIB)
    its.family.loading.open()
    await loading
    assert its.pool.held_bytes() == its.size("c") < 2 * GIB  # measured now


async def test_what_files_suggest_refuses_nobody(its: PoolFixture, heavy: Path) -> None:
    its.room(1.5)
    its.folders["c"] = heavy

    await its.load(A, C)

    assert (its.loaded(), its.family.closed) == ({"c"}, ["a"])


async def test_own_measurements_win_over_what_was_told(its: PoolFixture) -> None:
    its.room(0, metered=True)
    its.pool.inform([Footprint(model=A.key, device="cpu", precision="fp32", bytes=9 * GIB)])
    await its.load(A)
    assert its.size("a") == 9 * GIB

    its.batch(A, 4, GIB)

    await until(lambda: its.size("a") == 2 * GIB)


async def test_a_model_too_large_by_what_was_told_is_not_even_tried(its: PoolFixture) -> None:
    its.room(2)
    its.pool.inform([Footprint(model=A.key, device="cpu", precision="fp32", bytes=3 * GIB)])

    with pytest.raises(OutOfMemory, match=r"a@1\.0\.0 needs 3072 MiB"):
        await its.load(A)

    assert (its.family.loads, its.pool.held_bytes()) == ([], 0)


async def test_each_device_has_its_own_budget(its: PoolFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=1)
    its.room(1.5, gpu=0, gpu_gib=1.5)
    here = spec("a", device="cpu")

    await its.load(here, B)
    assert its.loaded() == {"a", "b"}
    assert (its.pool.held_bytes("cpu"), its.pool.held_bytes("cuda:0")) == (GIB, GIB)

    await its.load(C)  # on the GPU: the host's models are not in its way, and of no use to it
    assert (its.loaded(), its.family.closed) == ({"a", "c"}, ["b"])


async def test_what_a_gpus_allocator_took_is_the_footprint(its: PoolFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = pretend(monkeypatch, gpus=1)

    class OnGpu(Family):
        def load(
            self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
        ) -> Model:
            cuda.take(3 * GIB)
            return Family.load(self, spec, folder, device=device, threads=threads)

    its.family = OnGpu()
    its.room(0, gpu=0)
    await its.load(A)
    with its.pool.measuring(A, "embed_text", 1):
        cuda.take(GIB)
        cuda.take(-GIB)

    await until(lambda: its.pool.held_bytes("cuda:0") == 4 * GIB)


async def test_a_gpu_that_is_not_there_is_fallen_back_from_with_one_reason(
    its: PoolFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch)
    its.room(1.5, gpu=0, gpu_gib=9)
    assert its.pool.device == "cuda:0"  # as far as is known

    await its.load(A, B)

    assert (its.loaded(), its.pool.device) == ({"b"}, "cpu")  # under the budget of the host
    said = [line for line in capsys.readouterr().out.splitlines() if "device_fallback" in line]
    assert len(said) == 1
    assert "there is no cuda:0, only cpu" in said[0]
