"""Vectors in a folder, through the process that owns the folder, and on a server where there is one."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from qdrant_client import models

from adapters.vectors.null import NullVectors
from adapters.vectors.owner import OwnerVectors, SharedVectors, socket_of
from adapters.vectors.qdrant import QdrantVectors, created_with
from modelmora.domain.pictures.picture import Facts
from modelmora.domain.pictures.search import Filter, Point, Provenance, Question, Range
from modelmora.domain.pictures.spaces import IndexSettings, Space
from modelmora.errors import Conflict, DependencyUnavailable, ModelNotFound, ValidationFailed
from modelmora.ports import Vectors
from tests.pictures import START

PLAIN = IndexSettings()


def unit(*numbers: float) -> bytes:
    array = np.array(numbers, "<f4")
    normal: NDArray[np.float32] = (array / np.linalg.norm(array)).astype("<f4")
    return normal.tobytes()


def point(id_: str, *numbers: float, seq: int = 1, tags: tuple[str, ...] = (), at: int = 0, **metadata: Any) -> Point:
    made = Provenance(
        picture_id=id_, sha256="0" * 64, model="m", version="1.0.0", precision="fp32", seq=seq, embedded_at=START
    )
    return Point(
        vector=unit(*numbers),
        facts=Facts(filename=f"{id_}.png", tags=tags, metadata=metadata),
        provenance=made,
        content_type="image/png",
        created_at=START + timedelta(days=at),
    )


SERVER = os.environ.get("MODELMORA_TEST_QDRANT_URL")
"""No registry has a Qdrant server: its tests run where there is one."""


@pytest.fixture(params=["local", "owner", *(["server"] if SERVER else [])])
async def vectors(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Vectors]:
    if request.param == "server":
        opened: Vectors = await QdrantVectors.server(str(SERVER), timeout_s=10)
        yield opened
        await opened.close()
        return
    folder = tmp_path / "vectors"
    opened = await QdrantVectors.local(folder)
    if request.param == "local":
        yield opened
    else:
        shared, asking = SharedVectors(opened, socket_of(folder)), OwnerVectors(socket_of(folder))
        await shared.start()
        yield asking
        await asking.close()
        await shared.stop()
    await opened.close()
    await opened.close()


@pytest.fixture
async def index(vectors: Vectors) -> AsyncIterator[str]:
    name = f"mm-{uuid.uuid4().hex}"
    await vectors.create(name, dimension=3, settings=PLAIN)
    yield name
    await vectors.drop(name)


async def found(vectors: Vectors, name: str, **asked: Any) -> list[str]:
    question = Question(**{"vector": unit(1, 0, 0), **asked})
    return [hit.id for hit in await vectors.search(name, question)]


async def test_the_nearest_come_first_with_all_that_is_known_of_them(vectors: Vectors, index: str) -> None:
    hostile = '"><script>\u2028 ü\U0001f600'
    await vectors.upsert(index, [point("far", 0, 1, 0), point("near", 3, 0, 0, tags=(hostile,), camera=hostile)])
    first, second = await vectors.search(index, Question(vector=unit(1, 0, 0)))
    assert (first.id, second.id) == ("near", "far")
    assert first.score == pytest.approx(1.0, abs=1e-6)
    assert first.facts == Facts(filename="near.png", tags=(hostile,), metadata={"camera": hostile})
    assert first.provenance == point("near", 1, 0, 0).provenance
    assert await vectors.count(index) == 2


async def test_what_is_upserted_is_found_at_once_and_replaced_by_newer_alone(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [point("a", 0, 1, 0, seq=5), point("b", 0, 0, 1, seq=1)])
    await vectors.upsert(index, [point("a", 1, 0, 0, seq=4), point("b", 1, 0, 0, seq=2), point("c", 1, 0, 0, seq=9)])
    assert await found(vectors, index, score_threshold=0.5) == ["b", "c"]
    await vectors.upsert(index, [point("a", 1, 0, 0, seq=5)])
    assert await found(vectors, index, score_threshold=0.5) == ["a", "b", "c"]
    assert await vectors.count(index) == 3


async def test_a_vector_comes_back_as_it_is_compared(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [point("a", 3, 4, 0)])
    told = await vectors.vectors(index, ["a", "nobody"])
    assert list(told) == ["a"]
    assert np.frombuffer(told["a"], "<f4") == pytest.approx([0.6, 0.8, 0.0], abs=1e-6)


async def test_deleting_twice_is_no_error_and_leaves_nothing(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [point("a", 1, 0, 0)])
    for _ in range(2):
        await vectors.delete(index, ["a", "nobody"])
    assert await found(vectors, index) == []
    await vectors.delete("mm-nothing", ["a"])


async def test_an_index_that_is_not_there_has_nothing(vectors: Vectors) -> None:
    assert await found(vectors, "mm-nothing") == []
    assert await vectors.count("mm-nothing") == 0
    assert await vectors.vectors("mm-nothing", ["a"]) == {}
    assert await vectors.ids("mm-nothing", after=None, limit=5) == ((), None)
    await vectors.drop("mm-nothing")
    with pytest.raises(ModelNotFound):
        await vectors.upsert("mm-nothing", [point("a", 1, 0, 0)])


async def test_a_vector_of_another_length_is_refused(vectors: Vectors, index: str) -> None:
    with pytest.raises(ValidationFailed, match="3 numbers"):
        await vectors.upsert(index, [point("a", 1, 0)])
    with pytest.raises(ValidationFailed, match="3 numbers"):
        await vectors.search(index, Question(vector=unit(1, 0, 0, 0)))
    with pytest.raises(ValidationFailed, match="finite"):
        await vectors.search(index, Question(vector=np.array([np.nan, 0, 0], "<f4").tobytes()))
    await vectors.create(index, dimension=3, settings=PLAIN)
    with pytest.raises(Conflict):
        await vectors.create(index, dimension=4, settings=PLAIN)


FILTERS: list[tuple[Filter, list[str]]] = [
    (Filter(any_tags=("x", "y")), ["a", "b"]),
    (Filter(all_tags=("x", "y")), ["b"]),
    (Filter(no_tags=("y",)), ["a", "c"]),
    (Filter(metadata={"n": 2}), ["b"]),
    (Filter(metadata={"n": (1, 3)}), ["a", "c"]),
    (Filter(metadata={"n": Range(gt=1, lte=3)}), ["b", "c"]),
    (Filter(metadata={"flag": True}), ["a"]),
    (Filter(metadata={"word": "ü 'quoted'"}), ["c"]),
    (Filter(metadata={"share": 0.5}), ["b"]),
    (Filter(metadata={"unheard": "of"}), []),
    (Filter(ids=("a", "c")), ["a", "c"]),
    (Filter(created_after=START + timedelta(days=1)), ["b", "c"]),
    (Filter(created_before=START + timedelta(days=1)), ["a"]),
    (Filter(any_tags=("y",), metadata={"n": Range(gte=2)}), ["b"]),
]


@pytest.mark.parametrize(("asked", "expected"), FILTERS, ids=[str(number) for number in range(len(FILTERS))])
async def test_filters(vectors: Vectors, index: str, asked: Filter, expected: list[str]) -> None:
    await vectors.upsert(
        index,
        [
            point("a", 1, 0, 0, tags=("x",), n=1, flag=True),
            point("b", 1, 0, 0, tags=("x", "y"), at=1, n=2, share=0.5, flag=False),
            point("c", 1, 0, 0, at=2, n=3, word="ü 'quoted'"),
        ],
    )
    assert await found(vectors, index, filter=asked) == expected


async def test_pages_thresholds_exact_and_what_is_left_out(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [point(str(n), 1, n / 10, 0) for n in range(10)])
    assert await found(vectors, index, limit=3, offset=4) == ["4", "5", "6"]
    assert await found(vectors, index, limit=3, exact=True) == ["0", "1", "2"]
    assert await found(vectors, index, limit=3, exclude=("0", "2")) == ["1", "3", "4"]
    assert len(await found(vectors, index, score_threshold=0.99)) == 2


async def test_groups(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [point(f"{n}", 1, n / 10, 0, day="odd" if n % 2 else "even") for n in range(6)])
    hits = await vectors.search(index, Question(vector=unit(1, 0, 0), limit=2, group_by="day", group_size=2))
    assert [(hit.group, hit.id) for hit in hits] == [("even", "0"), ("even", "2"), ("odd", "1"), ("odd", "3")]


async def test_all_ids_come_a_page_at_a_time(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [point(f"{n}", 1, 0, 0) for n in range(7)])
    told: list[str] = []
    after: str | None = None
    while True:
        ids, after = await vectors.ids(index, after=after, limit=3)
        told += ids
        if after is None:
            break
    assert sorted(told) == [f"{n}" for n in range(7)]


async def test_an_alias_is_switched_while_it_is_searched(vectors: Vectors, index: str) -> None:
    other, alias = f"{index}-2", f"{index}-alias"
    await vectors.create(other, dimension=3, settings=PLAIN)
    await vectors.upsert(index, [point("old", 1, 0, 0)])
    await vectors.upsert(other, [point("new", 1, 0, 0)])
    await vectors.switch(alias, index)
    seen: set[tuple[str, ...]] = set()
    over = asyncio.Event()

    async def search() -> None:
        while not over.is_set():
            seen.add(tuple(await found(vectors, alias)))

    searching = asyncio.create_task(search())
    for name in (other, index, other):
        await found(vectors, alias)
        await vectors.switch(alias, name)
    assert (await vectors.standing())[alias] == other
    assert await found(vectors, alias) == ["new"]
    over.set()
    await searching
    assert seen <= {("old",), ("new",)}
    await vectors.drop(other)
    assert await found(vectors, alias) == []


async def test_a_folder_keeps_everything_over_a_restart(tmp_path: Path) -> None:
    first = await QdrantVectors.local(tmp_path / "v")
    await first.create("mm-a", dimension=3, settings=PLAIN)
    await first.upsert("mm-a", [point("a", 1, 0, 0, camera="x")])
    await first.switch("mm-alias", "mm-a")
    await first.close()
    second = await QdrantVectors.local(tmp_path / "v")
    assert await found(second, "mm-alias", filter=Filter(metadata={"camera": "x"})) == ["a"]
    assert await second.names() == ("mm-a",)
    assert (tmp_path / "v").stat().st_mode & 0o077 == 0
    await second.close()


async def test_a_folder_that_another_has_open_is_refused(tmp_path: Path) -> None:
    first = await QdrantVectors.local(tmp_path / "v")
    with pytest.raises(DependencyUnavailable, match="already accessed"):
        await QdrantVectors.local(tmp_path / "v")
    await first.close()


async def test_an_owner_that_is_away_is_told_and_found_again(tmp_path: Path) -> None:
    local = await QdrantVectors.local(tmp_path / "v")
    socket = socket_of(tmp_path / "v")
    asking = OwnerVectors(socket, timeout_s=5)
    with pytest.raises(DependencyUnavailable, match="does not answer"):
        await asking.ping()
    for _ in range(2):
        shared = SharedVectors(local, socket)
        await shared.start()
        assert socket.stat().st_mode & 0o077 == 0
        async with asyncio.timeout(20):
            while True:
                try:
                    await asking.ping()
                    break
                except DependencyUnavailable:
                    await asyncio.sleep(0.05)
        await shared.stop()
    await asking.close()
    await local.close()


def test_a_socket_is_never_longer_than_systems_allow(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["folder" * 5] * 6)
    assert len(os.fsencode(socket_of(deep))) <= 103
    assert socket_of(deep) != socket_of(deep / "other")


async def test_nothing_is_kept_where_nothing_shall_be() -> None:
    null = NullVectors()
    await null.upsert("x", [point("a", 1, 0, 0)])
    assert await null.count("x") == 0
    with pytest.raises(DependencyUnavailable, match="null://"):
        await null.search("x", Question(vector=unit(1, 0, 0)))


def test_settings_are_passed_through() -> None:
    settings = IndexSettings(m=8, ef_construct=64, quantization="int8", always_ram=False, on_disk=True)
    told = created_with(models, 512, settings)
    assert (told["vectors_config"].size, told["vectors_config"].on_disk) == (512, True)
    assert (told["hnsw_config"].m, told["hnsw_config"].ef_construct) == (8, 64)
    assert told["quantization_config"].scalar.type == models.ScalarType.INT8
    assert told["quantization_config"].scalar.always_ram is False
    assert set(created_with(models, 512, PLAIN)) == {"vectors_config"}


def test_names_of_spaces_are_short_enough_and_told_apart() -> None:
    long = [Space(model="m" * 64, version=f"1.0.{n}", collection="c" * 64, tenant="t" * 64) for n in range(2)]
    assert all(len(space.name) <= 200 and len(space.alias) <= 200 for space in long)
    assert long[0].name != long[1].name
    assert long[0].alias == long[1].alias
    assert Space(model="a", version="1.0.0").name == "mm-default-default-a-1.0.0"
