"""The promise of `Footprints`, kept by every database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from adapters.database import Database
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import GroupSpec, ModelSpec
from modelmora.ports import Footprint, Holding, WorkerView
from wiring.footprints import FootprintMemory


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    yield database
    await database.close()


async def test_nothing_is_known_at_first(database: Database) -> None:
    assert list(await database.footprints.all()) == []


async def test_the_latest_measurement_replaces_the_earlier_one(database: Database) -> None:
    await database.footprints.remember(Footprint(model="clip@1.0.0", device="cpu", precision="fp32", bytes=600_000_000))
    latest = Footprint(model="clip@1.0.0", device="cpu", precision="fp32", bytes=650_000_000)
    await database.footprints.remember(latest)
    assert list(await database.footprints.all()) == [latest]


async def test_device_and_precision_are_measured_each_for_itself(database: Database) -> None:
    measured = [
        Footprint(model="clip@1.0.0", device="cpu", precision="bf16", bytes=300),
        Footprint(model="clip@1.0.0", device="cpu", precision="fp32", bytes=600),
        Footprint(model="clip@1.0.0", device="cuda:0", precision="fp32", bytes=700),
        Footprint(model="clip@1.1.0", device="cpu", precision="fp32", bytes=601),
    ]
    for footprint in reversed(measured):
        await database.footprints.remember(footprint)
    assert list(await database.footprints.all()) == measured


async def test_sizes_beyond_four_gibibytes_fit(database: Database) -> None:
    huge = Footprint(model="vit-g@1.0.0", device="cuda:0", precision="fp32", bytes=90 * 2**30)
    await database.footprints.remember(huge)
    assert list(await database.footprints.all()) == [huge]


async def test_they_outlive_the_process(database_url: str) -> None:
    footprint = Footprint(model="clip@1.0.0", device="cpu", precision="fp32", bytes=600)
    first = await Database.open(database_url)
    await first.footprints.remember(footprint)
    await first.close()
    second = await Database.open(database_url)
    try:
        assert list(await second.footprints.all()) == [footprint]
    finally:
        await second.close()


SPEC = ModelSpec(name="clip", version="1.0.0", type="embedding", provider="noop", source="bundled:noop")
CATALOGUE = Catalogue((SPEC, replace(SPEC, name="other", group="gpu")), (GroupSpec(), GroupSpec(name="gpu")))


def holds(size: int, *, model: str = SPEC.key, worker: str = "default-1-1", device: str = "cpu") -> WorkerView:
    """A worker that has measured one model."""
    holding = Holding(model=model, state="loaded", bytes=size)
    return WorkerView(group="default", worker=worker, pid=1, ready=True, device=device, holdings={model: holding})


async def test_what_runners_measured_before_a_restart_is_told_to_the_next_ones(database_url: str) -> None:
    first = await Database.open(database_url)
    await FootprintMemory(first.footprints, first.leases, lambda: CATALOGUE).keep_once([holds(600)])
    await first.close()

    second = await Database.open(database_url)
    try:
        memory = FootprintMemory(second.footprints, second.leases, lambda: CATALOGUE)
        known = Footprint(model=SPEC.key, device="cpu", precision="fp32", bytes=600)
        assert list(await memory.of_group("default")) == [known]
        assert list(await memory.of_group("gpu")) == []
    finally:
        await second.close()


async def test_only_the_holder_of_the_lease_stores(database: Database) -> None:
    assert await database.leases.acquire("footprints", "another", ttl_s=60.0) is not None

    await FootprintMemory(database.footprints, database.leases, lambda: CATALOGUE).keep_once([holds(600)])

    assert list(await database.footprints.all()) == []


async def test_a_size_that_comes_back_is_stored_again(database: Database) -> None:
    memory = FootprintMemory(database.footprints, database.leases, lambda: CATALOGUE)
    for size in (600, 650, 600):
        await memory.keep_once([holds(size)])

    assert [footprint.bytes for footprint in await database.footprints.all()] == [600]
