"""`engine: auto` and `verify` of exported models: which library and format is taken, measured with real exports."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelmora.errors import ModelLoadFailed
from runners import precision
from runners.engines.conversion import Request
from runners.engines.conversions import PassingTrouble
from runners.engines.converted import Converted
from runners.examinations.resolver import Resolver
from runners.forms import Form, form_of
from runners.networks.open_clip.network import OpenClip
from tests.fakes import until
from tests.models.conftest import small
from tests.models.workers import AUTO, Bench, candidate, report_of, steps_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

OPEN = replace(AUTO, engine="auto")
NET = small(vision={"width": 128, "layers": 3, "image_size": 64}, text={"width": 128, "layers": 3})
BY_OPENVINO = [("openvino", "bf16"), ("openvino", "int8")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data folder for all: each network is exported once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
async def bench(written: Callable[..., Path], data: Path) -> AsyncIterator[Bench]:
    if "bf16" not in precision.native("cpu"):
        pytest.skip("this CPU has no circuits for bf16")  # hardware: nothing that CI could install
    shutil.rmtree(data / "parity", ignore_errors=True)
    for failed in (data / "engines").glob("*.failed.json"):
        failed.unlink()
    bench = Bench(written(NET), data)
    yield bench
    for host in bench.hosts:
        await host.stop()


async def test_the_fastest_of_all_libraries_and_formats_is_taken_from_the_next_load_on(bench: Bench) -> None:
    bench.provider.drag_s, bench.provider.formats = 0.5, ("fp32",)  # every export is faster than this torch
    host = bench.host(OPEN)
    steps = await steps_of(host, OPEN)

    exporting = [(step["engine"], step["precision"]) for step in steps if step["stage"] == "exporting"]
    assert exporting == BY_OPENVINO
    report = steps[-1]
    assert [(one["engine"], one["precision"]) for one in report["candidates"]] == [("torch", "fp32"), *BY_OPENVINO]
    bf16 = candidate(report, "bf16", "openvino")
    assert bf16["verdict"] == "passes"
    assert 0.999 <= bf16["likeness"]["embed_image"]["lowest"] < 1
    assert (report["declared"], report["engine"]) == ({"engine": "auto", "precision": "auto"}, "torch")
    assert report["auto"]["engine"] == "openvino"

    serving = host.pool.peek(OPEN)
    assert isinstance(serving, OpenClip)
    assert form_of(serving) == Form("torch", "fp32")  # never switched while it serves
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    before = serving.embed("embed_image", [picture])
    await host.pool.unload(OPEN)
    async with host.pool.lease(OPEN) as loaded:
        assert isinstance(loaded, Converted)
        assert form_of(loaded).to_dict() == report["auto"]
        assert (loaded.embed("embed_image", [picture]) * before).sum() >= 0.999


async def test_a_decided_export_that_cannot_be_had_any_more_goes_back_to_torch(bench: Bench) -> None:
    bench.provider.drag_s, bench.provider.formats = 0.5, ("fp32",)
    report = await report_of(bench.host(OPEN), OPEN)
    assert report["auto"]["engine"] == "openvino"
    for network in (bench.data / "engines").iterdir():
        if network.is_dir():
            shutil.rmtree(network)
    later = bench.host(OPEN)
    later.conversions._patience_s = 0.0  # no export will be made in that time

    async with later.pool.lease(OPEN) as loaded:
        assert form_of(loaded) == Form("torch", "fp32")
    assert bench.decided() == []


async def test_an_exported_model_is_verified_against_torch(bench: Bench) -> None:
    exported = replace(AUTO, engine="openvino", precision="bf16")
    host = bench.host(exported)
    report = await report_of(host, exported)

    assert [(one["engine"], one["precision"]) for one in report["candidates"]] == [BY_OPENVINO[0], ("torch", "fp32")]
    assert (report["engine"], report["precision"], report["passes"]) == ("openvino", "bf16", True)
    assert report["auto"] == {"engine": "openvino", "precision": "bf16"}
    assert candidate(report, "fp32")["verdict"] == "reference"
    assert [one.model for one in host.pool.holdings() if one.state == "loaded"] == [exported.key]


async def test_an_int8_below_the_gate_is_in_the_report_and_never_taken(bench: Bench) -> None:
    """Unsigned activations of onnxruntime: the network is not even loaded."""
    coarse = replace(AUTO, engine="onnxruntime", config={"quantize": {"activations": "uint8"}})
    report = await report_of(bench.host(coarse), coarse)

    int8 = candidate(report, "int8", "onnxruntime")
    assert (int8["verdict"], int8["ms"], int8["failed"]) == ("below the gate", {}, None)
    assert min(tower["lowest"] for tower in int8["likeness"].values()) < 0.999
    assert report["auto"] == {"engine": "onnxruntime", "precision": "fp32"}


async def test_it_is_found_out_while_nobody_asks(bench: Bench) -> None:
    bench.provider.drag_s, bench.provider.formats = 0.5, ("fp32",)
    host = bench.host(OPEN)
    await host.pool.load(OPEN)
    await Resolver(host, idle_s=0.0, look_s=0.01).run()

    await until(lambda: len(bench.decided()) == 1)
    async with bench.host(OPEN).pool.lease(OPEN) as loaded:
        assert form_of(loaded).engine == "openvino"


async def test_an_int8_that_torch_cannot_do_is_asked_of_the_library_that_can(bench: Bench) -> None:
    """Which of this random network is not near enough, and nothing else may be taken."""
    asked = replace(AUTO, engine="auto", precision="int8")
    with pytest.raises(ModelLoadFailed, match=r"openvino int8 is not near enough to fp32"):
        await bench.host(asked).pool.load(asked)


# --- what goes wrong on the way ----------------------------------------------------------------------------------


async def test_a_decided_export_that_is_broken_goes_back_to_torch(bench: Bench) -> None:
    bench.provider.drag_s, bench.provider.formats = 0.5, ("fp32",)
    await report_of(bench.host(OPEN), OPEN)
    for network in (bench.data / "engines").glob("*/*.xml"):
        network.write_text("rubbish")
    try:
        async with bench.host(OPEN).pool.lease(OPEN) as loaded:
            assert form_of(loaded) == Form("torch", "fp32")
        assert bench.decided() == []
    finally:
        shutil.rmtree(bench.data / "engines")  # others share it


async def test_an_export_that_failed_for_the_moment_decides_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ended(request: Request) -> dict[str, Any]:
        raise PassingTrouble("it ended with code -9", retry_after_s=5.0)

    monkeypatch.setattr("runners.engines.conversions._run", ended)
    bench.data = bench.data / "fresh"
    report = await report_of(bench.host(OPEN), OPEN)
    assert candidate(report, "bf16", "openvino")["failed"] == "it ended with code -9"
    assert bench.decided() == []
    again = await report_of(bench.host(OPEN), OPEN)  # told of what failed a moment ago
    assert candidate(again, "bf16", "openvino")["verdict"] == "failed"
    assert bench.decided() == []


async def test_a_model_that_is_unloaded_during_its_exports_stays_unloaded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, killed = asyncio.Event(), asyncio.Event()

    async def endless(request: Request) -> dict[str, Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            killed.set()
        raise AssertionError

    monkeypatch.setattr("runners.engines.conversions._run", endless)
    bench.data = bench.data / "endless"
    host = bench.host(OPEN)
    await host.pool.load(OPEN)
    resolving = asyncio.create_task(Resolver(host, idle_s=0.0, look_s=0.01, again_s=60).run())
    await asyncio.wait_for(begun.wait(), 20)

    await asyncio.wait_for(host.pool.unload(OPEN), 10)

    await asyncio.wait_for(killed.wait(), 10)
    assert [one.state for one in host.pool.holdings()] == ["unloaded"]
    assert bench.decided() == []
    resolving.cancel()


async def test_a_serving_network_whose_export_is_gone_is_still_verified(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = replace(AUTO, engine="openvino", precision="bf16")
    host = bench.host(exported)
    await host.pool.load(exported)

    async def report(*_: Any, **__: Any) -> dict[str, Any]:
        raise ModelLoadFailed("it cannot be exported any more")

    monkeypatch.setattr(host.conversions, "report", report)
    told = await report_of(host, exported)
    assert (told["engine"], told["passes"]) == ("openvino", True)
