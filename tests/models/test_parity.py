"""`verify` and `precision: auto` with real networks: what passes, what is refused, what is remembered."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from load.random_weights import write_random
from modelmora.domain.models import Task
from modelmora.domain.outcome import Ok, Outcome
from modelmora.errors import CapabilityMissing, ModelLoadFailed, OutOfMemory
from runners import precision
from runners.batching.jobs import Computed, Job
from runners.examinations.examine import examine
from runners.examinations.likeness import FOLDER, samples
from runners.examinations.resolver import Resolver
from runners.examinations.trial import Pace
from runners.host import RunnerHost
from tests.fakes import until
from tests.models.conftest import small
from tests.models.workers import AUTO, Bench, candidate, report_of, steps_of
from training.parity_samples import write

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "registry" / "bundled" / "shapes-clip"
DRAG_S = 0.2
"""More CPU time than a batch takes in bf16 where a CPU has no circuits for it."""

WIDE = small(vision={"width": 256, "layers": 4, "image_size": 64}, text={"width": 128, "layers": 3})


def three_bits(weights: torch.Tensor) -> torch.Tensor:
    """Eight values in place of all: what a gate must catch."""
    step = weights.abs().max() / 4
    return (weights / step).round().clamp(-4, 3) * step if step else weights


@pytest.fixture
async def bench(written: Callable[..., Path], tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(written(WIDE), tmp_path / "data")
    yield bench
    for host in bench.hosts:
        await host.stop()


def holdings(host: RunnerHost) -> dict[str, str]:
    return {one.model: one.state for one in host.pool.holdings() if one.state != "unloaded"}


def needs_bf16() -> None:
    if "bf16" not in precision.native("cpu"):
        pytest.skip("this CPU has no circuits for bf16")  # hardware: nothing that CI could install


# --- the samples -------------------------------------------------------------------------------------------------


def test_there_are_64_pictures_and_64_texts_in_less_than_3_mb() -> None:
    given = samples()
    assert (len(given.pictures), len(given.texts)) == (64, 64)
    assert len(set(given.pictures)) == len(set(given.texts)) == 64
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 3_000_000


def test_the_pictures_are_of_many_kinds_in_either_half() -> None:
    opened = [Image.open(io.BytesIO(data)) for data in samples().pictures]
    for half in (opened[::2], opened[1::2]):
        assert {"RGB", "L", "RGBA"} <= {picture.mode for picture in half}
        assert len({picture.size for picture in half}) >= 12
        assert any(picture.width > picture.height for picture in half)
        assert any(picture.width < picture.height for picture in half)
    assert any(picture.getexif().get(0x0112, 1) != 1 for picture in opened)


def test_every_picture_has_its_source_and_licence() -> None:
    told = (FOLDER / "SOURCES.md").read_text(encoding="utf-8")
    kinds = {path.stem.split("-")[1] for path in (FOLDER / "pictures").iterdir()}
    assert [kind for kind in kinds if f"`{kind}`" not in told] == []


def test_samples_that_were_left_out_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"needs pictures/ and texts.txt"):
        samples(tmp_path)


def test_making_them_anew_replaces_them_and_nothing_else(tmp_path: Path) -> None:
    for name in ("07-old.jpg", "notes.txt"):
        (tmp_path / name).touch()
    write(tmp_path)
    assert (tmp_path / "notes.txt").exists()
    assert not (tmp_path / "07-old.jpg").exists()
    assert {path.name for path in tmp_path.glob("[0-9]*")} == {path.name for path in (FOLDER / "pictures").iterdir()}


# --- what passes and what does not -------------------------------------------------------------------------------


async def test_the_bundled_model_passes_the_gate_in_bf16(bench: Bench) -> None:
    bench.folder = BUNDLED
    report = await report_of(bench.host())
    assert candidate(report, "fp32")["verdict"] == "reference"
    bf16 = candidate(report, "bf16")
    assert bf16["verdict"] in ("passes", "no faster")
    for task in ("embed_image", "embed_text"):
        assert 0.999 <= bf16["likeness"][task]["lowest"] <= bf16["likeness"][task]["mean"] < 1
        assert 0 < bf16["likeness"][task]["difference"] < 0.05
        assert bf16["likeness"][task]["overlap"] > 0.8
        assert bf16["ms"][task] > 0


def verified_alone(folder: Path, data: Path) -> dict[str, Any]:
    """The report of a process of its own."""
    command = [sys.executable, "-m", "tests.models.parity_process", str(folder), str(data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.slow
@pytest.mark.timeout(600)  # 605 MB are drawn and written first
def test_vit_b_32_is_faster_in_bf16_and_passes_the_gate(tmp_path: Path) -> None:
    needs_bf16()
    folder = write_random("ViT-B-32", tmp_path / "vit-b-32")
    for attempt in range(3):  # another machine may share this one's cores
        report = verified_alone(folder, tmp_path / f"data-{attempt}")
        if report["auto"]["precision"] == "bf16":
            break
    assert (candidate(report, "bf16")["verdict"], report["auto"]["precision"]) == ("passes", "bf16")


async def test_a_faster_candidate_that_passes_is_what_auto_takes_from_the_next_load_on(bench: Bench) -> None:
    bench.provider.drag_s = DRAG_S
    host = bench.host()
    report = await report_of(host)
    assert {key: told for key, told in report.items() if key not in ("stage", "gate", "candidates")} == {
        "model": "tested",
        "version": "1.0.0",
        "device": "cpu",
        "engine": "torch",
        "precision": "fp32",
        "declared": {"engine": "torch", "precision": "auto"},
        "passes": True,
        "auto": {"engine": "torch", "precision": "bf16"},
    }
    assert (candidate(report, "bf16")["verdict"], candidate(report, "bf16")["failed"]) == ("passes", None)
    serving = host.pool.peek(AUTO)
    assert serving is not None
    assert serving.precision == "fp32"  # never switched while it serves
    await host.pool.unload(AUTO)
    async with host.pool.lease(AUTO) as loaded:
        assert loaded.precision == "bf16"


async def test_a_network_whose_weights_were_rounded_to_three_bits_is_refused(bench: Bench) -> None:
    bench.provider.drag_s, bench.provider.spoil = DRAG_S, three_bits
    report = await report_of(bench.host())
    assert (candidate(report, "bf16")["verdict"], report["auto"]["precision"]) == ("below the gate", "fp32")
    assert candidate(report, "bf16")["likeness"]["embed_image"]["lowest"] < 0.999


async def test_the_model_as_it_is_loaded_is_what_is_judged(bench: Bench) -> None:
    bench.provider.spoil = three_bits
    declared = replace(AUTO, precision="bf16")
    report = await report_of(bench.host(declared), declared)
    assert (report["precision"], report["passes"], report["auto"]["precision"]) == ("bf16", False, "fp32")
    assert bench.provider.loads == ["bf16", "fp32"]  # the reference is the copy


async def test_a_candidate_that_cannot_be_loaded_is_told_and_does_not_end_the_rest(bench: Bench) -> None:
    bench.provider.refuse = ModelLoadFailed("cpu cannot compute in bf16")
    report = await report_of(bench.host())
    assert (candidate(report, "bf16")["verdict"], report["auto"]["precision"]) == ("failed", "fp32")
    assert candidate(report, "bf16")["failed"] == "cpu cannot compute in bf16"


async def test_a_candidate_that_the_device_cannot_run_is_told_with_the_reason(bench: Bench) -> None:
    def refusing(weights: torch.Tensor) -> torch.Tensor:
        return weights.new_full(weights.shape, float("nan"))

    bench.provider.spoil = refusing
    report = await report_of(bench.host())
    assert candidate(report, "bf16")["likeness"]["embed_text"]["lowest"] == -1.0
    assert (candidate(report, "bf16")["verdict"], report["auto"]["precision"]) == ("below the gate", "fp32")

    bench.provider.breaks = RuntimeError("not implemented for 'BFloat16'")
    report = await report_of(bench.host())
    assert candidate(report, "bf16")["failed"] == "cpu does not run it in bf16: not implemented for 'BFloat16'"


async def test_a_trouble_that_passes_decides_nothing(bench: Bench) -> None:
    bench.provider.refuse = ModelLoadFailed("the machine ran out of memory while loading it", retry_after_s=5.0)
    with pytest.raises(ModelLoadFailed):
        await report_of(bench.host())
    assert bench.decided() == []


async def test_hardware_with_fp32_alone_makes_no_copy(bench: Bench) -> None:
    bench.provider.formats = ("fp32",)
    report = await report_of(bench.host())
    assert ([one["precision"] for one in report["candidates"]], report["auto"]["precision"]) == (["fp32"], "fp32")
    assert bench.provider.loads == ["fp32"]


async def test_progress_is_told_in_batches_up_to_all_of_them(bench: Bench) -> None:
    steps = (await steps_of(bench.host()))[:-1]
    assert [step["precision"] for step in steps if step["stage"] == "loading"] == ["fp32", "bf16"]
    assert [step["done"] for step in steps] == sorted(step["done"] for step in steps)
    assert len({step["total"] for step in steps}) == 1
    assert steps[-1]["done"] == steps[-1]["total"]


async def test_a_family_with_one_precision_says_that_there_is_nothing_to_verify(bench: Bench) -> None:
    from runners.noop import NoopProvider

    host = bench.host()
    host._providers = lambda _: cast(Any, NoopProvider())
    with pytest.raises(CapabilityMissing, match="one precision only"):
        await steps_of(host)


# --- what is remembered ------------------------------------------------------------------------------------------


async def test_a_decision_survives_a_restart_and_not_other_weights(bench: Bench) -> None:
    bench.provider.drag_s = DRAG_S
    await report_of(bench.host())
    assert len(bench.decided()) == 1

    async with bench.host().pool.lease(AUTO) as loaded:
        assert loaded.precision == "bf16"

    write_random(WIDE, bench.folder, seed=5)
    async with bench.host().pool.lease(AUTO) as loaded:
        assert loaded.precision == "fp32"


async def test_a_declared_precision_is_loaded_whatever_was_decided(bench: Bench) -> None:
    bench.provider.drag_s = DRAG_S
    await report_of(bench.host())
    declared = replace(AUTO, precision="fp32")
    async with bench.host(declared).pool.lease(declared) as loaded:
        assert loaded.precision == "fp32"


# --- room and running work ---------------------------------------------------------------------------------------


def tighten(host: RunnerHost, share: float) -> None:
    """From now on the budget is so many times what is held: what a load is measured at differs from one to the next."""
    budget_bytes = int(share * host.pool.held_bytes("cpu"))
    host.pool._room._share = replace(host.share, budget_bytes=budget_bytes)


async def test_without_room_for_a_copy_it_says_out_of_memory(bench: Bench) -> None:
    host = bench.host(budget_bytes=2**40)
    await host.pool.load(AUTO)
    tighten(host, 1.3)
    with pytest.raises(OutOfMemory, match=r"to compare tested@1.0.0 with itself in bf16"):
        await steps_of(host)
    assert holdings(host) == {AUTO.key: "loaded"}


async def test_copies_are_gone_when_it_is_done(bench: Bench) -> None:
    host = bench.host()
    await steps_of(host)
    assert holdings(host) == {AUTO.key: "loaded"}
    assert set(host.view().holdings) == {AUTO.key}
    assert host.pool.holdings()[0].in_flight == 0


async def test_a_caller_who_leaves_takes_the_copy_along(bench: Bench) -> None:
    host = bench.host()
    async with aclosing(examine(host, AUTO, "verify", deadline=time.monotonic() + 60)) as steps:
        async for step in steps:
            if step["stage"] == "measuring" and step["precision"] == "bf16":
                break
        assert len(holdings(host)) == 2
    await until(lambda: holdings(host) == {AUTO.key: "loaded"})
    assert host.pool.holdings()[0].in_flight == 0
    assert bench.decided() == []
    assert not host.examining.locked()


async def test_one_examination_at_a_time(bench: Bench) -> None:
    host = bench.host()

    async def asked() -> list[str]:
        return [step["stage"] async for step in examine(host, AUTO, "verify", deadline=time.monotonic() + 60)]

    first, second = await asyncio.gather(asked(), asked())
    assert (first[0], second[0]) == ("loading", "waiting")
    assert (first[-1], second[-1]) == ("report", "report")


def job(host: RunnerHost, image: NDArray[np.uint8]) -> tuple[Job, asyncio.Future[Outcome[Computed]]]:
    answer: asyncio.Future[Outcome[Computed]] = asyncio.get_running_loop().create_future()
    task: Task = "embed_image"
    one = Job(spec=AUTO, task=task, payload=image, deadline=time.monotonic() + 30, done=answer.set_result)
    return one, answer


async def vectors(host: RunnerHost, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    made = [job(host, image) for image in images]
    for one, _ in made:
        host.batcher.submit(one)
    outcomes = [await answer for _, answer in made]
    assert all(isinstance(outcome, Ok) for outcome in outcomes), outcomes
    return np.stack(
        [np.frombuffer(cast(bytes, outcome.value.body), "<f4") for outcome in outcomes if isinstance(outcome, Ok)]
    )


def pictures(count: int) -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    return (rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(count))


async def test_work_goes_on_unchanged_while_a_model_is_verified(bench: Bench) -> None:
    host, images = bench.host(), list(pictures(5))
    before = await vectors(host, images)
    verifying = asyncio.create_task(report_of(host))
    rounds = 0
    while not verifying.done():
        np.testing.assert_allclose(await vectors(host, images), before, atol=1e-5)
        rounds += 1
    assert rounds > 2
    assert (await verifying)["passes"]


async def test_auto_is_resolved_while_nobody_asks_and_the_loaded_model_stays_as_it_is(bench: Bench) -> None:
    bench.provider.drag_s = DRAG_S
    host, images = bench.host(), list(pictures(3))
    resolving = asyncio.create_task(Resolver(host, idle_s=0.0, look_s=0.01).run())
    before = await vectors(host, images)
    serving = host.pool.peek(AUTO)

    await asyncio.wait_for(resolving, 60)

    assert len(bench.decided()) == 1
    assert host.pool.peek(AUTO) is serving
    assert serving is not None
    assert serving.precision == "fp32"
    np.testing.assert_allclose(await vectors(host, images), before, atol=1e-5)
    assert holdings(host) == {AUTO.key: "loaded"}
    async with bench.host().pool.lease(AUTO) as loaded:
        assert loaded.precision == "bf16"


async def test_what_is_decided_already_is_not_measured_again(bench: Bench) -> None:
    await report_of(bench.host())
    later = bench.host()
    await later.pool.load(AUTO)
    bench.provider.loads.clear()
    await asyncio.wait_for(Resolver(later, idle_s=0.0, look_s=0.01).run(), 10)
    assert bench.provider.loads == []


async def test_nothing_is_measured_while_work_is_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    host, busy = bench.host(), True
    await host.pool.load(AUTO)
    monkeypatch.setattr(host.batcher, "busy", lambda: busy)
    looked = asyncio.Event()
    monkeypatch.setattr("runners.examinations.resolver.asyncio.sleep", _noting(looked))
    resolving = asyncio.create_task(Resolver(host, idle_s=0.0, look_s=0.01).run())
    await asyncio.wait_for(looked.wait(), 10)
    assert bench.provider.loads == ["fp32"]
    busy = False
    await asyncio.wait_for(resolving, 60)
    assert bench.provider.loads == ["fp32", "bf16"]


def _noting(looked: asyncio.Event) -> Callable[[float], Any]:
    """`asyncio.sleep` that says when it was called for the tenth time: nothing has begun by then."""
    calls, sleep = 0, asyncio.sleep

    async def noted(seconds: float) -> None:
        nonlocal calls
        calls += 1
        if calls >= 10:
            looked.set()
        await sleep(0.001)

    return noted


async def test_a_measurement_makes_way_for_an_unload_and_is_made_later(bench: Bench) -> None:
    host = bench.host()
    await host.pool.load(AUTO)
    resolving = asyncio.create_task(Resolver(host, idle_s=0.0, look_s=0.01, again_s=0.01).run())
    await until(lambda: len(holdings(host)) == 2)

    await asyncio.wait_for(host.pool.unload(AUTO), 10)

    assert bench.decided() == []
    await until(lambda: holdings(host) == {})
    await host.pool.load(AUTO)
    await asyncio.wait_for(resolving, 60)
    assert len(bench.decided()) == 1


async def test_an_unload_is_not_kept_waiting_by_a_measurement_that_waits_for_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = bench.host()
    await host.pool.load(AUTO)
    resolving = asyncio.create_task(Resolver(host, idle_s=0.0, look_s=0.01, again_s=60).run())
    await until(lambda: len(holdings(host)) == 2)
    monkeypatch.setattr(host.batcher, "busy", lambda: True)  # traffic of other models, without end

    await asyncio.wait_for(host.pool.unload(AUTO), 10)

    resolving.cancel()
    assert bench.decided() == []


async def test_nobody_is_evicted_to_resolve_auto(bench: Bench) -> None:
    other = replace(AUTO, name="other", precision="fp32")
    tight = bench.host(AUTO, other, budget_bytes=2**40)
    await tight.pool.load(other)
    await tight.pool.load(AUTO)
    tighten(tight, 1.15)  # each of the two is about half of it
    await asyncio.wait_for(Resolver(tight, idle_s=0.0, look_s=0.01).run(), 20)
    assert holdings(tight) == {other.key: "loaded", AUTO.key: "loaded"}
    assert bench.decided() == []
    report = await report_of(tight, pace=Pace())  # whoever asks for it may evict
    assert report["passes"]
    assert holdings(tight) == {AUTO.key: "loaded"}
