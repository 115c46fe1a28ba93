"""The port `Vectors`: in a folder, through the process that owns the folder, and on a server."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.vectors.null import NullVectors
from adapters.vectors.owner import OwnerVectors, SharedVectors, socket_of
from adapters.vectors.qdrant import QdrantVectors
from modelmora.domain.pictures.picture import Facts
from modelmora.domain.pictures.search import Filter, Question, Range
from modelmora.domain.pictures.spaces import Space
from modelmora.errors import Conflict, DependencyUnavailable, ModelNotFound, ValidationFailed
from modelmora.ports import Vectors
from tests.contracts.points import PLAIN, found, point, unit
from tests.contracts.qdrant_server import QdrantServer
from tests.pictures import START

SERVER = os.environ.get("MODELMORA_TEST_QDRANT_URL")
"""No registry has a Qdrant server: its tests run where there is one, and over what stands in for it."""


@pytest.fixture(params=["local", "owner", "rest", *(["server"] if SERVER else [])])
async def vectors(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Vectors]:
    match request.param:
        case "local":
            opened: Vectors = await QdrantVectors.local(tmp_path / "vectors")
            yield opened
        case "owner":
            opened, socket = await QdrantVectors.local(tmp_path / "vectors"), socket_of(tmp_path / "vectors")
            shared, asking = SharedVectors(opened, socket), OwnerVectors(socket)
            await shared.start()
            yield asking
            await asking.close()
            await asking.close()
            await shared.stop()
        case "rest":
            with QdrantServer().serving() as server:
                opened = await QdrantVectors.server(server.url, timeout_s=10)
                yield opened
        case _:
            opened = await QdrantVectors.server(str(SERVER), timeout_s=10)
            yield opened
    await opened.close()
    await opened.close()


@pytest.fixture
async def index(vectors: Vectors) -> AsyncIterator[str]:
    name = f"mm-{uuid.uuid4().hex}"
    await vectors.create(name, dimension=3, settings=PLAIN)
    yield name
    await vectors.drop(name)


async def test_the_nearest_come_first_with_all_that_is_known_of_them(vectors: Vectors, index: str) -> None:
    hostile = '"><script>\u2028 ü\U0001f600'
    await vectors.upsert(index, [point("far", 0, 1, 0), point("near", 3, 0, 0, tags=(hostile,), camera=hostile)])
    first, second = await vectors.search(index, Question(vector=unit(1, 0, 0)))
    assert (first.id, second.id) == ("near", "far")
    assert first.score == pytest.approx(1.0, abs=1e-6)
    assert first.facts == Facts(filename="near.png", tags=(hostile,), metadata={"camera": hostile})
    assert first.provenance == point("near", 1, 0, 0).provenance
    assert await vectors.count(index) == 2


async def test_a_point_is_given_back_whole(vectors: Vectors, index: str) -> None:
    first, second = point("a", 3, 0, 4, tags=("t",), k=1, f=0.5, b=True), point("b", 0, 1, 0, seq=7)
    await vectors.upsert(index, [first, second])
    told = {one.provenance.picture_id: one for one in await vectors.points(index, ["b", "a", "nobody"])}
    assert told == {"a": first, "b": second}
    assert await vectors.points(index, []) == []
    assert await vectors.points("mm-nothing", ["a"]) == []


async def test_what_is_upserted_is_found_at_once_and_replaced_by_newer_alone(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [point("a", 0, 1, 0, seq=5), point("b", 0, 0, 1, seq=1)])
    await vectors.upsert(index, [point("a", 1, 0, 0, seq=4), point("b", 1, 0, 0, seq=2), point("c", 1, 0, 0, seq=9)])
    assert await found(vectors, index, score_threshold=0.5) == ["b", "c"]
    await vectors.upsert(index, [point("a", 1, 0, 0, seq=5)])
    assert await found(vectors, index, score_threshold=0.5) == ["a", "b", "c"]
    assert await vectors.count(index) == 3


async def test_of_a_picture_that_comes_twice_at_once_the_newer_is_kept(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [point("a", 1, 0, 0, seq=7), point("a", 0, 1, 0, seq=3), point("b", 1, 0, 0)])
    assert await found(vectors, index, score_threshold=0.5) == ["a", "b"]
    assert await vectors.count(index) == 2


async def test_what_are_equally_near_come_by_their_ids(vectors: Vectors, index: str) -> None:
    names = [f"{n:02}" for n in (7, 3, 11, 5, 2)]
    await vectors.upsert(index, [point(name, 2, 1, 0) for name in names])
    assert await found(vectors, index) == sorted(names)


async def test_points_may_be_numbers_and_of_any_length(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [replace(point("a", 1, 0, 0), vector=[3e38, 0.0, 3e38])])
    (hit,) = await vectors.search(index, Question(vector=np.array([5, 0, 5], "<f4").tobytes()))
    assert hit.score == pytest.approx(1.0, abs=1e-6)
    assert hit.score <= 1.0


async def test_whatever_may_stand_in_a_fact_comes_back_as_it_was(vectors: Vectors, index: str) -> None:
    words = ["'; DROP TABLE points; --", '{"must": []}', "\u202e\u0000\x7f", "\U0001f600" * 30, "metadata.n", " "]
    hostile = Facts(filename="a" * 255, tags=tuple(words), metadata={f"k{n}": word for n, word in enumerate(words)})
    await vectors.upsert(index, [replace(point("it's \u00fc/\"\n", 1, 0, 0), facts=hostile)])
    for n, word in enumerate(words):
        asked = Filter(any_tags=(word,), metadata={f"k{n}": word})
        (hit,) = await vectors.search(index, Question(vector=unit(1, 0, 0), filter=asked))
        assert (hit.id, hit.facts) == ("it's \u00fc/\"\n", hostile)


async def test_an_empty_index_has_nothing(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [])
    await vectors.delete(index, [])
    assert await found(vectors, index, filter=Filter(any_tags=("x",))) == []
    assert await found(vectors, index, group_by="day") == []
    assert (await vectors.count(index), await vectors.vectors(index, [])) == (0, {})
    assert await vectors.ids(index, after=None, limit=5) == ((), None)
    assert await vectors.ping() > 0.0


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
    with pytest.raises(ModelNotFound, match="mm-nothing"):
        await vectors.upsert("mm-nothing", [point("a", 1, 0, 0)])
    with pytest.raises(ModelNotFound, match="mm-nothing"):
        await vectors.switch("mm-alias", "mm-nothing")


async def test_a_vector_of_another_length_is_refused(vectors: Vectors, index: str) -> None:
    with pytest.raises(ValidationFailed, match="3 numbers") as caught:
        await vectors.upsert(index, [point("b", 1, 0, 0), point("a", 1, 0)])
    assert (caught.value.field, caught.value.found) == ("vector", "2 numbers")
    assert await vectors.count(index) == 0
    with pytest.raises(ValidationFailed, match="3 numbers"):
        await vectors.search(index, Question(vector=unit(1, 0, 0) + b"x"))
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


async def test_one_in_figures_in_fractions_true_and_in_letters_are_four_values(vectors: Vectors, index: str) -> None:
    values: dict[str, Any] = {"int": 1, "float": 1.0, "true": True, "text": "1"}
    await vectors.upsert(index, [point(id_, 1, 0, 0, **{"a-key_1": value}) for id_, value in values.items()])
    for id_, value in values.items():
        assert await found(vectors, index, filter=Filter(metadata={"a-key_1": value})) == [id_]
        (kept,) = await vectors.search(index, Question(vector=unit(1, 0, 0), filter=Filter(ids=(id_,))))
        assert repr(kept.facts.metadata) == repr({"a-key_1": value})
    assert await found(vectors, index, filter=Filter(metadata={"a-key_1": Range(gte=1)})) == ["float", "int"]
    assert await found(vectors, index, filter=Filter(metadata={"a-key_1": (1.0, "1")})) == ["float", "text"]
    hits = await vectors.search(index, Question(vector=unit(1, 0, 0), group_by="a-key_1"))
    assert [(repr(hit.group), hit.id) for hit in hits] == [
        ("1.0", "float"),
        ("1", "int"),
        ("'1'", "text"),
        ("True", "true"),
    ]


async def test_pages_thresholds_exact_and_what_is_left_out(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [point(str(n), 1, n / 10, 0) for n in range(10)])
    assert await found(vectors, index, limit=3, offset=4) == ["4", "5", "6"]
    assert await found(vectors, index, limit=3, exact=True) == ["0", "1", "2"]
    assert await found(vectors, index, limit=3, exclude=("0", "2")) == ["1", "3", "4"]
    assert await found(vectors, index, limit=3, offset=3, exclude=("0", "2")) == ["5", "6", "7"]
    assert await found(vectors, index, limit=3, offset=20) == []
    assert len(await found(vectors, index, score_threshold=0.99)) == 2


async def test_groups(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [point(f"{n}", 1, n / 10, 0, day="odd" if n % 2 else "even") for n in range(6)])
    hits = await vectors.search(index, Question(vector=unit(1, 0, 0), limit=2, group_by="day", group_size=2))
    assert [(hit.group, hit.id) for hit in hits] == [("even", "0"), ("even", "2"), ("odd", "1"), ("odd", "3")]


async def test_of_groups_the_best_comes_first_and_filters_hold_in_them(vectors: Vectors, index: str) -> None:
    told = [point(str(n), 1, n / 10, 0, tags=("odd",) if n % 2 else (), third=n % 3) for n in range(9)]
    await vectors.upsert(index, [*told, point("none", 1, 0, 0)])
    asked = Question(vector=unit(1, 0, 0), group_by="third", limit=2, exclude=("0",), filter=Filter(no_tags=("odd",)))
    hits = await vectors.search(index, asked)
    assert [(hit.group, hit.id) for hit in hits] == [(2, "2"), (2, "8"), (1, "4")]


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

    searching = [asyncio.create_task(search()) for _ in range(3)]
    for name in (other, index, other, index, other):
        await found(vectors, alias)
        await vectors.switch(alias, name)
    assert (await vectors.standing())[alias] == other
    assert await found(vectors, alias) == ["new"]
    over.set()
    await asyncio.gather(*searching)
    assert seen == {("old",), ("new",)}
    assert {index, other} <= {*await vectors.names()}
    await vectors.drop(other)
    assert await found(vectors, alias) == []


async def test_an_index_that_is_made_anew_takes_vectors_of_its_new_length(vectors: Vectors, index: str) -> None:
    await vectors.upsert(index, [point("a", 1, 0, 0)])
    await vectors.drop(index)
    await vectors.create(index, dimension=2, settings=PLAIN)
    await vectors.upsert(index, [point("b", 1, 0)])
    assert await found(vectors, index, vector=unit(1, 0)) == ["b"]


async def test_nothing_is_kept_where_nothing_shall_be() -> None:
    null = NullVectors()
    await null.upsert("x", [point("a", 1, 0, 0)])
    assert await null.count("x") == 0
    with pytest.raises(DependencyUnavailable, match="null://"):
        await null.search("x", Question(vector=unit(1, 0, 0)))


def test_names_of_spaces_are_short_enough_and_told_apart() -> None:
    long = [Space(model="m" * 64, version=f"1.0.{n}", collection="c" * 64, tenant="t" * 64) for n in range(2)]
    assert all(len(space.name) <= 200 and len(space.alias) <= 200 for space in long)
    assert long[0].name != long[1].name
    assert long[0].alias == long[1].alias
    assert Space(model="a", version="1.0.0").name == "mm-default-default-a-1.0.0"
