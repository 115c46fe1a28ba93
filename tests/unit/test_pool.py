"""The pool of models: loaded once however many ask, leased while in use, evicted by age under a budget."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from modelmora.domain.models import ModelSpec
from modelmora.errors import ArtifactCorrupt, ModelLoadFailed, ModelMoraError, OutOfMemory
from modelmora.ports import Footprint
from runners import devices
from runners.provider import Tell
from tests.fakes import until
from tests.families import GIB, Family, Model
from tests.pools import A, B, C, D, PoolFixture, spec


@pytest.fixture
async def its() -> AsyncIterator[PoolFixture]:
    fixture = PoolFixture()
    yield fixture
    await fixture.close()


async def test_a_model_is_loaded_once_however_many_ask(its: PoolFixture) -> None:
    its.family.loading.close()

    async def use() -> object:
        async with its.pool.lease(A) as loaded:
            return loaded

    users = [asyncio.create_task(use()) for _ in range(20)]
    await until(its.family.loading.reached.is_set)
    its.family.loading.open()

    assert len(set(await asyncio.gather(*users))) == 1
    assert its.family.loads == ["a"]


async def test_every_state_is_shown_on_the_way(its: PoolFixture) -> None:
    await its.pool.load(A)
    await its.pool.unload(A)

    seen = [change["a"] for change in its.changes]
    assert list(dict.fromkeys(seen)) == ["loading", "loaded", "unloading", "unloaded"]


async def test_a_caller_who_leaves_does_not_stop_the_load_of_the_others(its: PoolFixture) -> None:
    its.family.loading.close()
    leaving, staying = asyncio.create_task(its.pool.load(A)), asyncio.create_task(its.pool.load(A))
    await until(its.family.loading.reached.is_set)

    leaving.cancel()
    its.family.loading.open()

    assert (await staying).state == "loaded"
    assert its.family.loads == ["a"]


@pytest.mark.parametrize(
    ("cause", "error", "said"),
    [
        (ArtifactCorrupt("the sha256 differs"), ArtifactCorrupt, "the sha256 differs"),
        (MemoryError(), ModelLoadFailed, "the machine ran out of memory"),
        (RuntimeError("secret"), ModelLoadFailed, "could not be loaded: RuntimeError; see the runner's log"),
    ],
)
async def test_a_load_that_fails_is_told_to_all_and_can_be_retried(
    cause: Exception, error: type[ModelMoraError], said: str, its: PoolFixture
) -> None:
    its.family.load_errors = [cause]

    first = await asyncio.gather(its.pool.load(A), its.pool.load(A), return_exceptions=True)

    assert [type(result) for result in first] == [error, error]
    assert said in str(first[0])
    assert its.states() == {"a": "failed"}
    assert said in (its.pool.holdings()[0].error or "")

    await its.pool.load(A)
    assert (its.states(), its.pool.holdings()[0].error) == ({"a": "loaded"}, None)
    assert its.family.loads == ["a", "a"]


async def test_missing_files_fail_the_load_without_touching_the_provider(its: PoolFixture) -> None:
    its.missing["a"] = ModelLoadFailed("no such folder")

    with pytest.raises(ModelLoadFailed, match="no such folder"):
        await its.pool.load(A)
    assert its.family.loads == []


async def test_without_a_budget_everything_stays(its: PoolFixture) -> None:
    await its.load(A, B, C, D)

    assert its.loaded() == set("abcd")
    assert its.pool.held_bytes() >= 4 * GIB


async def test_the_least_recently_used_goes_first(its: PoolFixture) -> None:
    its.room(3.5)
    await its.load(A, B, C)
    await its.load(A)  # used again: now b is the oldest

    await its.load(D)
    assert its.loaded() == {"a", "c", "d"}

    await its.load(B)
    assert (its.loaded(), its.family.closed) == ({"a", "d", "b"}, ["b", "c"])


async def test_eviction_stops_as_soon_as_the_new_one_fits(its: PoolFixture) -> None:
    its.room(3.5)
    its.family.weights["d"] = 2 * GIB
    await its.load(A, B, C, D)

    assert (its.loaded(), its.family.closed) == ({"c", "d"}, ["a", "b"])


async def test_the_budget_holds_even_for_a_model_whose_size_was_not_known(its: PoolFixture) -> None:
    its.room(1.5)

    await its.load(A, B)

    assert its.loaded() == {"b"}
    assert its.pool.held_bytes() <= 1.5 * GIB


async def test_what_can_never_fit_says_so_and_evicts_nobody(its: PoolFixture) -> None:
    its.room(2.5)
    its.family.weights["d"] = 3 * GIB
    await its.load(A)

    with pytest.raises(OutOfMemory, match=r"d@1\.0\.0 needs 3\d{3} MiB and 2560 MiB of the budget of 2560 MiB"):
        await its.load(D)

    assert (its.loaded(), its.family.in_memory, its.states()["d"]) == ({"a"}, {"a"}, "failed")


async def test_pinned_models_stay_and_are_named_when_nothing_fits(its: PoolFixture) -> None:
    its.room(1.5)
    await its.load(spec("a", pin=True))

    with pytest.raises(OutOfMemory, match=r"held by a@1\.0\.0 1\d{3} MiB \(pinned\)"):
        await its.load(B)
    assert its.loaded() == {"a"}


async def test_an_evicted_model_is_loaded_again_when_asked_for(its: PoolFixture) -> None:
    its.room(1.5)
    await its.load(A, B)

    async with its.pool.lease(A) as loaded:
        assert loaded.description.model == "a@1.0.0"
    assert (its.loaded(), its.family.loads.count("a")) == ({"a"}, 2)


async def test_a_load_waits_while_all_room_is_in_use_and_never_evicts_what_is(its: PoolFixture) -> None:
    its.room(1.5)
    async with its.pool.lease(A):
        waiting = asyncio.create_task(its.pool.load(B))
        await until(lambda: its.states().get("b") == "loading" and "b" in its.family.closed)  # its size is known now
        assert not waiting.done()
        assert "a" in its.family.in_memory

    await waiting
    assert (its.loaded(), its.family.closed) == ({"b"}, ["b", "a"])


async def test_two_that_fit_only_alone_take_turns(its: PoolFixture) -> None:
    its.room(1.5)

    async def use(one: ModelSpec) -> None:
        for _ in range(5):
            async with its.pool.lease(one):
                assert one.name in its.family.in_memory
                await asyncio.sleep(0)

    async with asyncio.timeout(30):
        await asyncio.gather(use(A), use(B), use(C))
    assert its.pool.held_bytes() <= 1.5 * GIB


async def test_footprints_of_models_loaded_at_once_are_not_mixed_up(its: PoolFixture) -> None:
    its.family.weights = {}
    kept: list[object] = []

    class Large(Family):
        def load(
            self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
        ) -> Model:
            kept.append(np.ones(64 * 2**20 if spec.name == "a" else 2**20, np.uint8))
            return Family.load(self, spec, folder, device=device, threads=threads)

    its.family = Large()
    await asyncio.gather(its.pool.load(A), its.pool.load(B))

    sizes = {h.model[0]: h.bytes / 2**20 for h in its.pool.holdings()}
    assert sizes["a"] == pytest.approx(64, abs=16)
    assert sizes["b"] < 32


async def test_memory_really_returns_after_an_unload(its: PoolFixture) -> None:
    chunks = [np.ones(2**10, np.uint8) for _ in range(64 * 2**10)]  # small pieces, which the C heap likes to keep
    its.family.weights = {}
    await its.pool.load(A)
    full = devices.resident()

    chunks.clear()
    await its.pool.unload(A)

    assert devices.resident() < full - 32 * 2**20


async def test_a_model_leased_while_another_is_evicted_is_left_alone(its: PoolFixture) -> None:
    its.room(2.5)
    its.family.weights["c"] = 2 * GIB
    await its.load(A, B)
    its.family.closing.close()
    loading = asyncio.create_task(its.pool.load(C))
    await until(its.family.closing.reached.is_set)  # a is going, b is the next

    async with its.pool.lease(B) as b:
        its.family.closing.open()
        await until(lambda: "c" in its.family.closed)  # opened, too large while b is in use, let go again
        assert its.pool.peek(B) is b
        assert "b" in its.family.in_memory

    await loading
    assert its.loaded() == {"c"}


async def test_an_unload_waits_for_running_work(its: PoolFixture) -> None:
    async with its.pool.lease(A):
        unloading = asyncio.create_task(its.pool.unload(A))
        await until(lambda: its.states()["a"] == "unloading")
        assert "a" in its.family.in_memory

    assert (await unloading).state == "unloaded"
    assert its.family.in_memory == set()


async def test_an_unload_ends_though_new_work_keeps_coming(its: PoolFixture) -> None:
    stop = asyncio.Event()

    async def work() -> None:
        while not stop.is_set():
            async with its.pool.lease(A):
                await asyncio.sleep(0)

    workers = [asyncio.create_task(work()) for _ in range(3)]
    await until(lambda: its.loaded() == {"a"})

    async with asyncio.timeout(10):
        await its.pool.unload(A)
    await until(lambda: len(its.family.loads) == 2)  # the next request loads it again
    stop.set()
    await asyncio.gather(*workers)
    assert its.family.closed == ["a"]


async def test_an_unload_that_is_given_up_leaves_the_model(its: PoolFixture) -> None:
    async with its.pool.lease(A):
        unloading = asyncio.create_task(its.pool.unload(A))
        await until(lambda: its.states()["a"] == "unloading")
        late = asyncio.create_task(its.pool.load(A))

        unloading.cancel()

        await late
    assert (its.states(), its.family.loads) == ({"a": "loaded"}, ["a"])


async def test_an_unload_during_a_load_waits_for_it(its: PoolFixture) -> None:
    its.family.loading.close()
    loading = asyncio.create_task(its.pool.load(A))
    await until(its.family.loading.reached.is_set)
    unloading = asyncio.create_task(its.pool.unload(A))
    its.family.loading.open()

    await asyncio.gather(loading, unloading)
    assert (its.states(), its.family.in_memory) == ({"a": "unloaded"}, set())


async def test_an_unload_may_be_repeated(its: PoolFixture) -> None:
    await its.pool.unload(A)
    await its.pool.load(A)
    await asyncio.gather(its.pool.unload(A), its.pool.unload(A))
    await its.pool.unload(A)

    assert (its.states(), its.family.closed) == ({"a": "unloaded"}, ["a"])


async def test_an_unload_clears_a_failure(its: PoolFixture) -> None:
    its.family.load_errors = [RuntimeError("no")]
    with pytest.raises(ModelLoadFailed):
        await its.pool.load(A)

    await its.pool.unload(A)

    assert (its.states(), its.pool.holdings()[0].error) == ({"a": "unloaded"}, None)


async def test_leases_are_counted(its: PoolFixture) -> None:
    async with its.pool.lease(A), its.pool.lease(A):
        assert its.pool.holdings()[0].in_flight == 2
    assert its.pool.holdings()[0].in_flight == 0


async def test_closing_frees_everything(its: PoolFixture) -> None:
    await its.load(A, B)

    await its.pool.close()

    assert its.family.in_memory == set()


async def test_everybody_who_waits_and_asked_is_told_how_far_it_is(its: PoolFixture) -> None:
    told: dict[str, list[tuple[int, int]]] = {"one": [], "two": []}
    thread = threading.get_ident()

    def teller(name: str) -> Tell:
        def tell(done: int, total: int) -> None:
            assert threading.get_ident() == thread
            told[name].append((done, total))

        return tell

    await asyncio.gather(its.pool.load(A, teller("one")), its.pool.load(A), its.pool.load(A, teller("two")))
    await until(lambda: bool(told["one"]))

    assert told == {"one": [(1, 2)], "two": [(1, 2)]}
    await its.pool.load(A, teller("one"))  # nothing to wait for
    assert told["one"] == [(1, 2)]


@pytest.mark.parametrize("cause", [ArtifactCorrupt("torn"), ModelLoadFailed("missing"), RuntimeError("strange")])
async def test_a_load_that_fails_gives_its_room_back(its: PoolFixture, cause: Exception) -> None:
    its.room(2.5)
    its.pool.inform([Footprint(model=C.key, device="cpu", precision="fp32", bytes=2 * GIB)])
    await its.load(A, B)
    its.family.load_errors = [cause]

    with pytest.raises(ModelMoraError):
        await its.load(C)

    assert (its.states()["c"], its.pool.held_bytes(), its.family.in_memory) == ("failed", 0, set())
    await its.load(A, B)
    assert its.loaded() == {"a", "b"}


async def test_a_model_that_does_not_close_is_gone_all_the_same(its: PoolFixture) -> None:
    class Stubborn(Family):
        def load(
            self, spec: ModelSpec, folder: Path | None, *, device: str, threads: int, tell: Tell | None = None
        ) -> Model:
            model = Family.load(self, spec, folder, device=device, threads=threads)

            def close() -> None:
                raise RuntimeError("not now")

            model.close = close  # type: ignore[method-assign] # a model with a defect
            return model

    its.family = Stubborn(weights=dict.fromkeys("ab", GIB))
    its.room(1.5)
    await its.load(A, B)

    assert (its.loaded(), its.pool.held_bytes()) == ({"b"}, GIB)


async def test_a_load_that_failed_and_said_when_is_not_tried_before(its: PoolFixture) -> None:
    its.family.load_errors = [ModelLoadFailed("it hangs", retry_after_s=600.0)]
    with pytest.raises(ModelLoadFailed):
        await its.pool.load(A)

    its.clock.now += 599.0
    with pytest.raises(ModelLoadFailed, match="it hangs") as told:
        await its.pool.load(A)
    assert told.value.retry_after_s == pytest.approx(1.0)
    assert its.family.loads == ["a"]

    its.clock.now += 1.0
    assert (await its.pool.load(A)).state == "loaded"


async def test_who_unloads_such_a_model_may_try_it_at_once(its: PoolFixture) -> None:
    its.family.load_errors = [ModelLoadFailed("it hangs", retry_after_s=600.0)]
    with pytest.raises(ModelLoadFailed):
        await its.pool.load(A)

    await its.pool.unload(A)

    assert (await its.pool.load(A)).state == "loaded"


# --- what is made before a model is loaded -----------------------------------------------------------------------


class Export:
    """One that never ends by itself."""

    def __init__(self) -> None:
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def __call__(self, model: ModelSpec, folder: Path | None, device: str) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


async def test_an_unload_does_not_wait_for_an_export(its: PoolFixture) -> None:
    its.pool._convert = export = Export()
    asking = asyncio.create_task(its.pool.load(A))
    await asyncio.wait_for(export.begun.wait(), 10)

    await asyncio.wait_for(its.pool.unload(A), 10)

    assert export.ended.is_set()
    assert its.states() == {"a": "unloaded"}
    with pytest.raises(ModelLoadFailed, match="was unloaded while its networks were exported"):
        await asking


async def test_a_pool_that_closes_takes_its_exports_along(its: PoolFixture) -> None:
    its.pool._convert = export = Export()
    asking = asyncio.create_task(its.pool.load(A))
    await asyncio.wait_for(export.begun.wait(), 10)

    await its.pool.close()

    with pytest.raises(asyncio.CancelledError):
        await asking
    assert export.ended.is_set()
