"""The promise of `Footprints`, kept by every database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters.database import Database
from modelmora.ports import Footprint


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
