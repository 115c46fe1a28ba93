"""What the pool counts: loads and how they ended, evictions, and memory by model and device."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY

from modelmora.errors import ArtifactCorrupt
from tests.fakes import until
from tests.families import GIB
from tests.pools import A, B, PoolFixture


@pytest.fixture
async def its() -> AsyncIterator[PoolFixture]:
    fixture = PoolFixture()
    fixture.room(1.5, metered=True)
    yield fixture
    await fixture.close()


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"modelmora_{name}", labels) or 0.0


def of(name: str, model: str, **more: str) -> float:
    return value(name, model=model, version="1.0.0", **more)


async def test_loads_are_counted_by_how_they_ended_and_timed(its: PoolFixture) -> None:
    before = [of("model_loads_total", "a", code=code) for code in ("ok", "artifact_corrupt")]
    timed = of("model_load_seconds_count", "a")
    its.family.load_errors = [ArtifactCorrupt("torn")]

    with pytest.raises(ArtifactCorrupt):
        await its.load(A)
    await its.load(A, A)

    after = [of("model_loads_total", "a", code=code) for code in ("ok", "artifact_corrupt")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1]
    assert of("model_load_seconds_count", "a") - timed == 1


async def test_evictions_are_counted_and_unloads_are_not(its: PoolFixture) -> None:
    before = of("model_evictions_total", "a"), of("model_evictions_total", "b")

    await its.load(A, B)
    await its.pool.unload(B)

    assert (of("model_evictions_total", "a") - before[0], of("model_evictions_total", "b") - before[1]) == (1, 0)


async def test_memory_is_told_by_model_and_device_and_is_nought_after_an_unload(its: PoolFixture) -> None:
    await its.load(A)
    assert of("model_bytes", "a") == value("device_memory_bytes", device="cpu") == GIB
    its.batch(A, 4, GIB // 4)
    await until(lambda: of("model_bytes", "a") == 1.25 * GIB)
    assert value("device_memory_bytes", device="cpu") == 1.25 * GIB

    await its.pool.unload(A)
    assert of("model_bytes", "a") == value("device_memory_bytes", device="cpu") == 0
