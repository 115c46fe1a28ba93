"""Which spaces a picture is to be in: by what is served, by what is indexed, whoever made the index first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from modelmora.domain.models import ModelRef, ModelSpec
from modelmora.domain.pictures.spaces import Index, IndexSettings, IndexState, Space
from modelmora.errors import Conflict
from modelmora.usecases.pictures.spaces import REMEMBERED_S, Spaces
from tests.event_line import Line
from tests.fakes import CLIP, OLD, SAM, VIT
from tests.pictures import START

NEXT = replace(CLIP, version="2.0.0", default=False)
DINO = replace(OLD, name="dino", index=IndexSettings(m=32))


async def keys(spaces: Spaces, collection: str = "default") -> list[str]:
    return [space.key for space in await spaces.of(collection)]


async def put(line: Line, spec: ModelSpec, state: IndexState, collection: str = "default") -> Space:
    """An index of a version."""
    space = Space(model=spec.name, version=spec.version, collection=collection)
    index = Index(space=space, state=state, dimension=4, created_at=START, changed_at=START)
    assert await line.database.indexes.add(index) == index
    line.spaces.forget()
    return space


def other(line: Line) -> Spaces:
    """Those of another process."""
    return Spaces(lambda: line.world.catalogue, line.database.indexes, line.vectors, now=line.time, clock=line.clock)


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        ([CLIP], ["clip@1.0.0"]),
        ([OLD, VIT, SAM, CLIP], ["clip@1.0.0"]),
        ([OLD, DINO, CLIP], ["clip@1.0.0", "dino@1.0.0"]),
        ([OLD, SAM], []),
        ([DINO], ["dino@1.0.0"]),
    ],
)
async def test_before_anything_is_indexed_the_default_model_and_those_that_ask_for_it(
    served: Sequence[ModelSpec], expected: list[str]
) -> None:
    assert await keys(Line(*served).spaces) == expected


async def test_the_current_version_is_the_first_to_be_indexed() -> None:
    line = Line(NEXT, CLIP)
    line.world.catalogue = replace(
        line.world.catalogue, current={"clip": "2.0.0"}, defaults={"embedding": ModelRef("clip")}
    )
    assert await keys(line.spaces) == ["clip@2.0.0"]


async def test_what_is_searched_stays_fed_when_another_version_becomes_current() -> None:
    line = Line(CLIP, NEXT)
    await put(line, CLIP, "live")
    line.world.catalogue = replace(line.world.catalogue, current={"clip": "2.0.0"})
    assert await keys(line.spaces) == ["clip@1.0.0"]


@pytest.mark.parametrize("state", ["building", "verifying", "ready", "draining"])
async def test_new_pictures_go_into_the_next_index_and_the_way_back_too(state: IndexState) -> None:
    line = Line(CLIP, NEXT)
    await put(line, CLIP, "live")
    await put(line, NEXT, state)
    assert await keys(line.spaces) == ["clip@1.0.0", "clip@2.0.0"]
    live = await line.spaces.index_of("default", "clip")
    assert live is not None
    assert live.space.version == "1.0.0"


@pytest.mark.parametrize("state", ["failed", "dropped"])
async def test_nothing_goes_into_an_index_that_is_over(state: IndexState) -> None:
    line = Line(CLIP, NEXT)
    await put(line, CLIP, "live")
    await put(line, NEXT, state)
    assert await keys(line.spaces) == ["clip@1.0.0"]


async def test_a_version_that_is_not_served_is_left_out() -> None:
    line = Line(CLIP)
    await put(line, CLIP, "live")
    await put(line, NEXT, "building")
    assert await keys(line.spaces) == ["clip@1.0.0"]


async def test_collections_have_indexes_of_their_own() -> None:
    line = Line(NEXT, CLIP)
    await put(line, NEXT, "live", "other")
    assert await keys(line.spaces) == ["clip@1.0.0"]
    assert await keys(line.spaces, "other") == ["clip@2.0.0"]
    assert await line.spaces.index_of("default", "clip") is None


async def test_what_another_process_changed_is_seen_within_a_second() -> None:
    line = Line(CLIP)
    assert await keys(line.spaces) == ["clip@1.0.0"]
    asked = line.database.calls.count("indexes.all")
    assert await line.spaces.index_of("default", "clip") is None
    assert line.database.calls.count("indexes.all") == asked
    await other(line).ensure(Space(model="clip", version="1.0.0"), 4)
    assert await line.spaces.index_of("default", "clip") is None
    line.clock.now += REMEMBERED_S
    assert await line.spaces.index_of("default", "clip") is not None


async def test_an_index_is_made_as_the_registry_declares_it_and_searched_at_once() -> None:
    line = Line(CLIP, DINO)
    space = Space(model="dino", version="1.0.0")
    await line.spaces.ensure(space, 4)
    (index,) = await line.database.indexes.all()
    assert (index.state, index.settings.m, index.dimension) == ("live", 32, 4)
    assert line.vectors.indexes[space.name].settings.m == 32
    assert line.vectors.aliases == {space.alias: space.name}


async def test_what_was_made_is_not_asked_for_again() -> None:
    line, space = Line(CLIP), Space(model="clip", version="1.0.0")
    await line.spaces.ensure(space, 4)
    asked = len(line.database.calls)
    await line.spaces.ensure(space, 4)
    assert len(line.database.calls) == asked


async def test_of_two_processes_with_two_versions_one_index_is_searched_and_the_other_fills_up() -> None:
    line = Line(CLIP, NEXT)
    one, two = Space(model="clip", version="1.0.0"), Space(model="clip", version="2.0.0")
    await asyncio.gather(line.spaces.ensure(one, 4), other(line).ensure(two, 4))
    assert sorted(index.state for index in await line.database.indexes.all()) == ["building", "live"]
    live = await line.spaces.refreshed("default", "clip")
    assert live is not None
    assert line.vectors.aliases == {one.alias: live.space.name}
    assert set(line.vectors.indexes) == {one.name, two.name}


async def test_who_was_killed_between_record_and_index_is_made_up_for() -> None:
    line = Line(CLIP)
    space = await put(line, CLIP, "live")
    await line.spaces.ensure(space, 4)
    assert line.vectors.aliases == {space.alias: space.name}


async def test_an_index_of_another_length_is_no_place_for_a_vector() -> None:
    line, space = Line(CLIP), Space(model="clip", version="1.0.0")
    await line.spaces.ensure(space, 4)
    with pytest.raises(Conflict):
        await other(line).ensure(space, 8)
