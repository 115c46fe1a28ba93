"""Models that no runner was declared: whoever asks for one tells what it is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from modelmora.domain.models import Batching
from modelmora.domain.outcome import Ok
from tests.doors.hop import Hop, own
from tests.fakes import until


@pytest.fixture
async def hop(tmp_path: Path) -> AsyncIterator[Hop]:
    async with Hop(tmp_path, own()) as made:
        yield made


REGISTERED = replace(own(), version="2.0.0", source="object:" + "ab" * 32)


def soon() -> float:
    return time.monotonic() + 30


async def test_a_registered_version_is_computed_beside_the_declared_one(hop: Hop) -> None:
    await hop.host()
    declared, registered = await hop.texts(own(), "a"), await hop.texts(REGISTERED, "a", "b")
    assert all(isinstance(outcome, Ok) for outcome in (*declared, *registered))
    assert set(hop.handle.workers()[0].holdings) == {"own@1.0.0", "own@2.0.0"}


async def test_it_is_loaded_and_unloaded_like_any_other(hop: Hop) -> None:
    await hop.host()
    loaded = await hop.handle.load(REGISTERED, deadline=soon())
    assert (loaded.version, loaded.state) == ("2.0.0", "loaded")
    assert (await hop.handle.unload(REGISTERED, deadline=soon())).state == "unloaded"


async def test_a_worker_that_came_later_is_told_as_well(hop: Hop) -> None:
    first = await hop.host(1)
    assert isinstance((await hop.texts(REGISTERED, "a"))[0], Ok)
    await first.stop()
    await hop.host(2)
    await until(lambda: [view.worker[:9] for view in hop.handle.workers()] == ["default-2"])
    assert isinstance((await hop.texts(REGISTERED, "a"))[0], Ok)


async def test_what_is_said_of_a_declared_model_changes_nothing(hop: Hop) -> None:
    host = await hop.host()
    other = replace(own(), config={"anything": "else"})
    assert isinstance((await hop.texts(other, "a"))[0], Ok)
    assert host.spec("own@1.0.0") == own()


async def test_a_version_that_came_back_as_another_is_run_as_what_it_is_now(hop: Hop) -> None:
    host = await hop.host()
    await hop.handle.load(REGISTERED, deadline=soon())
    await hop.handle.unload(REGISTERED, deadline=soon())
    again = replace(REGISTERED, batching=Batching(max_batch=3))
    await hop.handle.load(again, deadline=soon())
    assert host.spec("own@2.0.0") == again
    loaded = host.pool.peek(again)
    assert loaded is not None
    assert loaded.description.max_batch == 3
