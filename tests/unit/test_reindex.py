"""Models are indexed anew in the background: nothing is missing when searches go to the new index, and none fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.inference import Text
from modelmora.domain.pictures.spaces import Index, Space
from modelmora.errors import (
    DependencyUnavailable,
    ImageNotFound,
    ModelLoadFailed,
    ModelNotFound,
    ValidationFailed,
    VersionNotFound,
    WrongState,
)
from modelmora.usecases.pictures.indexes import SWITCHES
from modelmora.usecases.pictures.reindex import KEEP
from tests.fakes import CLIP, until
from tests.galleries import CLIP_SPACE, LONG_S, Kit, newer

NEXT = Space(model="clip", version="2.0.0")
AWAY = DependencyUnavailable("nobody is there", retry_after_s=1.0)


@pytest.fixture
def kit() -> Kit:
    return Kit()


def release(kit: Kit, version: str = "2.0.0") -> None:
    """What the name stands for from now on."""
    catalogue = kit.world.catalogue
    models = (*(replace(one, default=one.default and one.name != "clip") for one in catalogue.models), newer(version))
    kit.world.catalogue = replace(
        catalogue,
        models=tuple(replace(one, default=True) if one.key == f"clip@{version}" else one for one in models),
        current={"clip": version},
    )
    kit._book = None


async def begin(kit: Kit, *, switch: bool = True, version: str | None = None) -> Index:
    return await kit.book.begin("clip", version=version, collection="default", switch=switch, deadline=LONG_S)


async def states(kit: Kit) -> dict[str, str]:
    return {index.space.version: index.state for index in await kit.database.indexes.all()}


async def index_of(kit: Kit, version: str = "2.0.0") -> Index:
    return await kit.book.get(f"clip@{version}", collection="default")


async def test_a_model_that_changed_is_indexed_anew_and_then_searched(kit: Kit) -> None:
    kept = await kit.kept(*[f"p{i}".encode() for i in range(5)])
    release(kit)

    begun = await begin(kit)
    await kit.fill()

    assert (begun.state, begun.total, begun.space) == ("building", 5, NEXT)
    assert await states(kit) == {"1.0.0": "draining", "2.0.0": "live"}
    index = await index_of(kit)
    assert (index.done, index.failed, index.agreement, index.cursor) == (5, 0, 1.0, None)
    assert kit.vectors.aliases[NEXT.alias] == NEXT.name
    assert kit.vectors.ids_in(NEXT.name) == sorted(kept)
    assert (await kit.find(Text("p1"))).model == "clip@2.0.0"
    assert {asked.call.priority for asked in kit.world.embedder.asked if asked.model.version == "2.0.0"} >= {"bulk"}


async def test_no_search_fails_or_misses_anything_meanwhile(kit: Kit) -> None:
    kept = sorted(await kit.kept(*[f"p{i}".encode() for i in range(20)]))
    release(kit)
    await begin(kit)
    work, models = kit.reindex(), []

    for _ in range(30):
        await work.round()
        kit.time.pass_(1)
        found = await kit.find(Text("p3"), limit=100)
        assert sorted(hit.id for hit in found.hits) == kept
        assert {hit.provenance.version for hit in found.hits} == {found.model.partition("@")[2]}
        models.append(found.model)

    assert models[0] == "clip@1.0.0"
    assert models[-1] == "clip@2.0.0"
    assert models == sorted(models)


async def test_pictures_that_come_meanwhile_are_in_both_indexes(kit: Kit) -> None:
    await kit.kept(b"before")
    release(kit)
    await begin(kit)

    (new,) = await kit.kept(b"meanwhile")

    assert new in kit.vectors.ids_in(CLIP_SPACE.name)
    assert new in kit.vectors.ids_in(NEXT.name)
    await kit.fill()
    assert len(kit.vectors.ids_in(NEXT.name)) == 2


async def test_who_comes_after_a_crash_goes_on_where_it_ended(kit: Kit) -> None:
    await kit.kept(*[f"p{i}".encode() for i in range(20)])
    release(kit)
    await begin(kit)
    first = kit.reindex()
    await first.round()
    done = len(kit.vectors.ids_in(NEXT.name))
    assert 0 < done < 20
    assert (await index_of(kit)).cursor is not None

    await kit.fill()  # by another one

    embedded = [item for asked in kit.world.embedder.asked if asked.model.version == "2.0.0" for item in asked.items]
    assert len(embedded) == 20
    assert len(kit.vectors.ids_in(NEXT.name)) == 20


async def test_searches_go_to_it_at_once_or_when_they_are_told_to(kit: Kit) -> None:
    await kit.kept(b"a")
    release(kit)
    await begin(kit, switch=False)

    await kit.fill()

    assert await states(kit) == {"1.0.0": "live", "2.0.0": "ready"}
    await kit.book.switch("clip@2.0.0", collection="default")
    assert await states(kit) == {"1.0.0": "draining", "2.0.0": "live"}


async def test_an_index_that_is_not_complete_is_not_switched_to(kit: Kit) -> None:
    await kit.kept(b"a")
    release(kit)
    await begin(kit)

    with pytest.raises(WrongState):
        await kit.book.switch("clip@2.0.0", collection="default")

    assert await states(kit) == {"1.0.0": "live", "2.0.0": "building"}


async def test_the_way_back_stays_open_for_an_hour_and_misses_nothing(kit: Kit) -> None:
    await kit.kept(b"a")
    release(kit)
    await begin(kit)
    await kit.fill()
    (late,) = await kit.kept(b"late")

    await kit.book.switch("clip@1.0.0", collection="default")
    await kit.fill()

    found = await kit.find(Text("late"))
    assert (found.model, found.hits[0].id) == ("clip@1.0.0", late)
    assert await states(kit) == {"1.0.0": "live", "2.0.0": "draining"}


async def test_after_an_hour_the_one_before_is_dropped(kit: Kit) -> None:
    await kit.kept(b"a")
    release(kit)
    await begin(kit)
    await kit.fill()

    kit.time.pass_(KEEP.total_seconds())
    await kit.fill()

    assert await states(kit) == {"2.0.0": "live"}
    assert await kit.vectors.names() == (NEXT.name,)


async def test_an_index_that_was_dropped_once_is_filled_from_the_pictures_not_from_the_records(kit: Kit) -> None:
    kept = await kit.kept(b"a", b"b")
    release(kit)
    await begin(kit)
    await kit.fill()
    kit.time.pass_(KEEP.total_seconds())
    await kit.fill()

    await begin(kit, version="1.0.0")
    await kit.fill()

    assert kit.vectors.ids_in(CLIP_SPACE.name) == sorted(kept)
    assert (await kit.find(Text("a"))).model == "clip@1.0.0"


async def test_vectors_that_were_lost_are_made_again_while_the_index_is_searched(kit: Kit) -> None:
    lost, kept = await kit.kept(b"a", b"b")
    await kit.vectors.delete(CLIP_SPACE.name, [lost])

    again = await begin(kit)
    assert (again.state, again.space) == ("live", CLIP_SPACE)
    await kit.fill()

    assert kit.vectors.ids_in(CLIP_SPACE.name) == sorted([lost, kept])
    assert (await index_of(kit, "1.0.0")).cursor is None


async def test_pictures_whose_bytes_are_gone_are_counted_and_hold_nobody_up(kit: Kit) -> None:
    gone, there = await kit.kept(b"a", b"b")
    kit.files.fails = {kit.database.store.pictures[gone].object: ImageNotFound("gone")}
    release(kit)
    await begin(kit)

    await kit.fill()

    index = await index_of(kit)
    assert (index.state, index.done, index.failed, index.total) == ("live", 1, 1, 2)
    assert kit.vectors.ids_in(NEXT.name) == [there]
    letters = list(kit.database.store.letters.values())
    assert [(one.code, one.stage, one.picture_id) for one in letters] == [("image_not_found", "fetching", gone)]


async def test_a_store_that_is_away_costs_time_and_no_tries(kit: Kit) -> None:
    await kit.kept(b"a", b"b")
    release(kit)
    await begin(kit)
    kit.files.away = AWAY

    with pytest.raises(DependencyUnavailable):
        await kit.reindex().round()

    assert (await index_of(kit)).cursor is None
    assert {way.space for way in kit.database.store.ways.values()} == {CLIP_SPACE.key}
    kit.files.away = None
    await kit.fill()
    assert (await states(kit))["2.0.0"] == "live"


async def test_pictures_that_wait_for_another_try_are_waited_for(kit: Kit) -> None:
    await kit.kept(b"a", b"slow")
    release(kit)
    kit.world.embedder.fails = {b"slow": AWAY}
    await begin(kit)

    work = kit.reindex()
    for _ in range(10):
        await work.round()
    assert (await states(kit))["2.0.0"] == "building"
    kit.world.embedder.fails = {}
    await kit.fill()

    assert (await states(kit))["2.0.0"] == "live"
    assert len(kit.vectors.ids_in(NEXT.name)) == 2


async def test_a_version_that_is_served_no_more_ends_its_index(kit: Kit) -> None:
    await kit.kept(b"a")
    release(kit)
    await begin(kit)
    kit.world.catalogue = Catalogue((CLIP,))

    await kit.fill()

    index = await index_of(kit)
    assert (index.state, "2.0.0" in index.why) == ("failed", True)


async def test_a_model_that_cannot_be_loaded_ends_its_index_with_the_reason(kit: Kit) -> None:
    await kit.kept(b"a")
    release(kit)
    await begin(kit)
    kit.world.embedder.raises = ModelLoadFailed("its weights are of another shape")

    await kit.fill()

    index = await index_of(kit)
    assert (index.state, index.why) == ("failed", "its weights are of another shape")
    kit.world.embedder.raises = None
    assert (await begin(kit)).state == "building"
    kit.time.pass_(10)
    await kit.fill()
    assert (await states(kit))["2.0.0"] == "live"


async def test_the_one_that_is_searched_is_not_dropped_and_others_are(kit: Kit) -> None:
    await kit.kept(b"a")
    release(kit)
    await begin(kit)

    with pytest.raises(WrongState):
        await kit.book.drop("clip@1.0.0", collection="default")
    await kit.book.drop("clip@2.0.0", collection="default")
    await kit.fill()

    assert await states(kit) == {"1.0.0": "live"}
    assert await kit.vectors.names() == (CLIP_SPACE.name,)


async def test_a_model_that_was_never_indexed_is_indexed_when_it_is_asked_for(kit: Kit) -> None:
    (id_,) = await kit.kept(b"a")

    index = await kit.book.begin("vit", version=None, collection="default", switch=True, deadline=LONG_S)
    await kit.fill()

    assert (index.space.key, index.why) == ("vit@2.0.0-rc.1", SWITCHES)
    found = await kit.find(Text("a"), model="vit")
    assert [hit.id for hit in found.hits] == [id_]
    assert (await kit.book.get("vit@2.0.0-rc.1", collection="default")).agreement is None


async def test_an_index_of_no_pictures_is_complete(kit: Kit) -> None:
    await begin(kit)
    await kit.fill()

    assert await states(kit) == {"1.0.0": "live"}


async def test_an_alias_that_a_switch_did_not_get_to_is_set(kit: Kit) -> None:
    await kit.kept(b"a")
    kit.vectors.aliases.clear()

    await kit.reindex().round()

    assert kit.vectors.aliases == {CLIP_SPACE.alias: CLIP_SPACE.name}


async def test_an_index_tells_how_many_pictures_are_in_it(kit: Kit) -> None:
    await kit.kept(b"a", b"b")
    await kit.kept(b"c", collection="others")

    told = {index.space.collection: (index.done, index.total) for index in await kit.book.all()}
    kit.vectors.away = AWAY

    assert told == {"default": (2, 2), "others": (1, 1)}
    assert len(await kit.book.all(collection="others")) == 1


@pytest.mark.parametrize(
    ("model", "version", "error"),
    [("gone", None, ModelNotFound), ("clip", "9.9.9", VersionNotFound), ("No Name", None, ValidationFailed)],
)
async def test_what_is_not_there_is_not_indexed(
    kit: Kit, model: str, version: str | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await kit.book.begin(model, version=version, collection="default", switch=True, deadline=LONG_S)


async def test_an_index_that_is_not_there_or_of_no_version_is_not_found(kit: Kit) -> None:
    with pytest.raises(ModelNotFound):
        await kit.book.get("clip@1.0.0", collection="default")
    with pytest.raises(ValidationFailed):
        await kit.book.get("clip", collection="default")


async def test_one_process_does_the_work(kit: Kit) -> None:
    await kit.kept(b"a")
    release(kit)
    kit.leases.taken = {"reindex"}
    working = asyncio.create_task(kit.reindex().run())

    await begin(kit)
    await until(lambda: not kit.book.begun.is_set())
    assert (await states(kit))["2.0.0"] == "building"
    kit.leases.taken = set()
    kit.book.begun.set()
    await until(lambda: kit.vectors.ids_in(NEXT.name) != [])

    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def test_trouble_ends_no_loop(kit: Kit) -> None:
    await kit.kept(b"a")
    release(kit)
    await begin(kit)
    kit.files.away = AWAY
    working = asyncio.create_task(kit.reindex().run())
    await until(lambda: "register" in kit.database.calls and not kit.book.begun.is_set())

    kit.files.away = None
    kit.book.begun.set()
    await until(lambda: kit.vectors.ids_in(NEXT.name) != [])

    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
