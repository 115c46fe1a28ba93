"""Kept pictures are found by words, by a picture, by one that is kept, by a vector, by several with weights."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from modelmora.domain.description import Description
from modelmora.domain.inference import Image, Text, Vector
from modelmora.domain.pictures.queries import Like, Part, SearchQuery
from modelmora.domain.pictures.search import Filter
from modelmora.domain.pictures.spaces import Index, IndexState, Space
from modelmora.domain.preprocess import Preprocess
from modelmora.errors import (
    CapabilityMissing,
    DeadlineExceeded,
    DependencyUnavailable,
    ImageNotFound,
    InvalidInput,
    ModelNotFound,
    ValidationFailed,
)
from modelmora.usecases.pictures.search import Found
from tests.fakes import CLIP, DIMENSION, SAM, VIT, vector_of
from tests.galleries import ASKING, CLIP_SPACE, TWO, Kit, calling, newer


@pytest.fixture
def kit() -> Kit:
    return Kit()


def packed(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def ids(found: Found) -> list[str]:
    return [hit.id for hit in found.hits]


def cosine(one: bytes, other: bytes) -> float:
    a, b = np.array(vector_of(one)), np.array(vector_of(other))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


async def test_the_most_alike_come_first(kit: Kit) -> None:
    names = [b"a", b"b", b"c", b"d"]
    kept = dict(zip(names, await kit.kept(*names), strict=True))

    found = await kit.find(Text("b"))

    likeness = sorted(names, key=lambda name: -cosine(b"b", name))
    assert ids(found) == [kept[name] for name in likeness]
    assert [hit.score for hit in found.hits] == pytest.approx([cosine(b"b", name) for name in likeness])
    assert (found.model, found.next_cursor) == (CLIP.key, None)


@pytest.mark.parametrize("content", [Text("b"), Image(b"b"), Vector(packed(*vector_of(b"b")))])
async def test_words_a_picture_and_a_vector_are_asked_alike(kit: Kit, content: Any) -> None:
    _, b = await kit.kept(b"a", b"b")

    found = await kit.find(content)

    assert ids(found)[0] == b
    assert found.hits[0].score == pytest.approx(1.0)


async def test_a_kept_picture_finds_the_others(kit: Kit) -> None:
    names = [b"a", b"b", b"c"]
    kept = dict(zip(names, await kit.kept(*names), strict=True))
    embedded = len(kit.world.embedder.asked)

    found = await kit.find(Like(kept[b"a"]))

    assert ids(found) == [kept[name] for name in sorted([b"b", b"c"], key=lambda name: -cosine(b"a", name))]
    assert len(kit.world.embedder.asked) == embedded


async def test_parts_are_weighed_and_embedded_in_one_call(kit: Kit) -> None:
    kept = await kit.kept(b"a", b"b", b"c")
    kit.world.embedder.asked.clear()
    a, b = np.array(vector_of(b"a")), np.array(vector_of(b"b"))
    wanted = a / np.linalg.norm(a) - 0.5 * b / np.linalg.norm(b)
    query = SearchQuery(parts=(Part(content=Image(b"a")), Part(content=Image(b"b"), weight=-0.5)))

    found = await kit.search()(query, call=calling())

    direct = await kit.find(Vector(packed(*wanted)))
    assert ids(found) == ids(direct)
    assert set(ids(found)) == set(kept)
    assert [hit.score for hit in found.hits] == pytest.approx([hit.score for hit in direct.hits], abs=1e-5)
    assert [len(asked.items) for asked in kit.world.embedder.asked] == [2]


async def test_parts_that_take_each_other_away_are_refused(kit: Kit) -> None:
    await kit.kept(b"a")
    query = SearchQuery(parts=(Part(content=Text("a")), Part(content=Text("a"), weight=-1.0)))

    with pytest.raises(ValidationFailed, match="nothing is left"):
        await kit.search()(query, call=calling())


async def test_a_picture_that_is_not_indexed_is_not_found(kit: Kit) -> None:
    await kit.kept(b"a")

    with pytest.raises(ImageNotFound, match="nobody"):
        await kit.find(Like("nobody"))


async def test_a_vector_of_another_length_is_refused_with_both_lengths(kit: Kit) -> None:
    await kit.kept(b"a")

    with pytest.raises(ValidationFailed) as refused:
        await kit.find(Vector(packed(1, 2, 3)))

    assert (refused.value.found, refused.value.expected) == ("3 numbers", f"{DIMENSION} numbers")


@pytest.mark.parametrize("more", [{}, {"model": "vit"}, {"model": CLIP.key}, {"collection": "nothing-in-it"}])
async def test_nothing_is_found_before_anything_is_indexed(kit: Kit, more: dict[str, Any]) -> None:
    found = await kit.find(Text("a"), **more)

    assert (found.hits, found.next_cursor) == ((), None)
    assert kit.world.embedder.asked == []


async def test_models_that_are_not_there_or_do_not_embed_are_refused_as_elsewhere(kit: Kit) -> None:
    with pytest.raises(ModelNotFound):
        await kit.find(Text("a"), model="gone")
    with pytest.raises(CapabilityMissing):
        await kit.find(Text("a"), model=SAM.name)


async def test_what_cannot_be_embedded_is_the_questions_error(kit: Kit) -> None:
    await kit.kept(b"a")
    kit.world.embedder.fails = {b"torn": InvalidInput("torn")}

    with pytest.raises(InvalidInput, match="torn"):
        await kit.find(Image(b"torn"))


async def test_texts_are_cut_to_what_the_model_reads(kit: Kit) -> None:
    await kit.kept(b"a")

    await kit.find(Text("many words"))

    assert kit.world.embedder.asked[-1].call.truncate


async def test_a_model_without_words_says_which_of_the_collection_has_them(kit: Kit) -> None:
    kit.world.catalogue = TWO
    await kit.kept(b"a")
    seeing = Preprocess(resize="exact", height=1, width=1)
    kit.world.describer.known = {ASKING.key: Description(model=ASKING.key, dimension=DIMENSION, image=seeing)}

    with pytest.raises(CapabilityMissing) as refused:
        await kit.find(Text("a"), model="vit")

    assert refused.value.expected == "clip"
    assert "clip" in refused.value.detail
    assert len((await kit.find(Image(b"a"), model="vit")).hits) == 1
    kit.world.describer.known[CLIP.key] = Description(model=CLIP.key, dimension=DIMENSION, image=seeing)
    with pytest.raises(CapabilityMissing, match="no model that this collection is indexed by"):
        await kit.find(Text("a"), model="vit")


async def test_pages_follow_each_other_without_gaps(kit: Kit) -> None:
    kept = await kit.kept(*[f"p{i}".encode() for i in range(7)])
    whole = ids(await kit.find(Text("p"), limit=10))

    pages, cursor = [], None
    while True:
        found = await kit.find(Text("p"), limit=3, cursor=cursor)
        pages.append(ids(found))
        cursor = found.next_cursor
        if cursor is None:
            break

    assert [len(page) for page in pages] == [3, 3, 1]
    assert [id_ for page in pages for id_ in page] == whole
    assert sorted(whole) == sorted(kept)


async def test_a_page_that_ends_with_the_last_result_has_no_next(kit: Kit) -> None:
    await kit.kept(b"a", b"b")

    assert (await kit.find(Text("a"), limit=2)).next_cursor is None


async def test_another_questions_cursor_is_refused_before_anything_is_embedded(kit: Kit) -> None:
    await kit.kept(b"a", b"b")
    cursor = (await kit.find(Text("a"), limit=1)).next_cursor
    kit.world.embedder.asked.clear()

    with pytest.raises(ValidationFailed) as refused:
        await kit.find(Text("b"), limit=1, cursor=cursor)

    assert refused.value.field == "cursor"
    assert kit.world.embedder.asked == []


async def test_filters_and_thresholds_narrow_the_answer(kit: Kit) -> None:
    (cat,) = await kit.kept(b"cat", tags=("pet",), metadata={"legs": 4})
    (bird,) = await kit.kept(b"bird", tags=("pet", "wild"), metadata={"legs": 2})

    assert ids(await kit.find(Text("x"), filter=Filter(any_tags=("wild",)))) == [bird]
    assert ids(await kit.find(Text("x"), filter=Filter(no_tags=("wild",)))) == [cat]
    assert ids(await kit.find(Text("x"), filter=Filter(metadata={"legs": (3, 4)}))) == [cat]
    assert ids(await kit.find(Text("cat"), score_threshold=0.9999)) == [cat]


async def test_groups_are_of_those_that_share_a_value(kit: Kit) -> None:
    cats = await kit.kept(b"cat1", b"cat2", b"cat3", metadata={"kind": "cat"})
    birds = await kit.kept(b"bird1", metadata={"kind": "bird"})
    await kit.kept(b"stone")

    found = await kit.find(Text("cat1"), group_by="kind", group_size=2)

    assert found.groups is not None
    assert [group.value for group in found.groups] == ["cat", "bird"]
    assert [len(group.hits) for group in found.groups] == [2, 1]
    assert {hit.id for hit in found.groups[0].hits} < set(cats)
    assert [hit.id for hit in found.groups[1].hits] == birds
    assert (found.hits, found.next_cursor) == ((), None)


async def test_a_store_that_is_away_is_said(kit: Kit) -> None:
    await kit.kept(b"a")
    kit.vectors.away = DependencyUnavailable("away")

    with pytest.raises(DependencyUnavailable):
        await kit.find(Text("a"))


async def test_a_search_ends_with_its_deadline(kit: Kit) -> None:
    await kit.kept(b"a")
    kit.world.embedder.hold = asyncio.Event()

    with pytest.raises(DeadlineExceeded):
        await kit.find(Text("a"), call=calling(deadline=asyncio.get_running_loop().time() + 0.01))

    assert kit.world.embedder.cancelled.is_set()


# Versions are never mixed.


async def beside(kit: Kit, state: IndexState, *, version: str = "2.0.0") -> Space:
    """An index of the next version, with a vector of its own for each picture."""
    kit.world.catalogue = replace(kit.world.catalogue, models=(*kit.world.catalogue.models, newer(version)))
    space, index = Space(model=CLIP.name, version=version), kit.vectors.indexes[CLIP_SPACE.name]
    now = kit.time.now
    await kit.vectors.create(space.name, dimension=DIMENSION, settings=index.settings)
    points = [replace(point, provenance=replace(point.provenance, version=version)) for point in index.points.values()]
    await kit.vectors.upsert(space.name, points)
    there = Index(space=space, state=state, dimension=DIMENSION, created_at=now, changed_at=now)
    await kit.database.indexes.add(there)
    return space


async def test_a_question_is_embedded_by_the_version_whose_index_is_asked(kit: Kit) -> None:
    await kit.kept(b"a")
    await beside(kit, "ready")  # the newest version is what the name stands for by now
    kit.world.embedder.asked.clear()

    found = await kit.find(Text("a"), model="clip")

    assert found.model == "clip@1.0.0"
    assert [hit.provenance.version for hit in found.hits] == ["1.0.0"]
    assert [asked.model.version for asked in kit.world.embedder.asked] == ["1.0.0"]


async def test_after_a_switch_the_other_version_is_asked(kit: Kit) -> None:
    await kit.kept(b"a")
    space = await beside(kit, "ready")
    await kit.book.switch(space.key, collection="default")

    found = await kit.find(Text("a"), model="clip")

    assert (found.model, [hit.provenance.version for hit in found.hits]) == (space.key, ["2.0.0"])
    assert kit.world.embedder.asked[-1].model.version == "2.0.0"


async def test_a_version_that_is_named_is_asked_where_its_index_is_whole(kit: Kit) -> None:
    await kit.kept(b"a")
    space = await beside(kit, "ready")
    building = await beside(kit, "building", version="3.0.0")

    assert (await kit.find(Text("a"), model=space.key)).model == space.key
    assert [hit.provenance.version for hit in (await kit.find(Text("a"), model=space.key)).hits] == ["2.0.0"]
    assert (await kit.find(Text("a"), model=building.key)).hits == ()


async def test_an_index_that_another_process_has_just_made_is_seen(kit: Kit) -> None:
    await kit.find(Text("a"))
    kit.spaces._clock = lambda: 0.0  # nothing is forgotten by itself any more
    await kit.find(Text("a"))
    other = Kit(world=kit.world, vectors=kit.vectors)
    other.database = kit.database

    (id_,) = await other.kept(b"a")

    assert ids(await kit.find(Text("a"))) == [id_]
    assert VIT.name not in (await kit.find(Text("a"))).model
