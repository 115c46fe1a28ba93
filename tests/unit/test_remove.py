"""A picture that is removed is gone everywhere, at once or as soon as the stores are there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelmora.domain.pictures.spaces import IndexSettings, Space
from modelmora.errors import DependencyUnavailable, ImageNotFound, OutOfMemory, ValidationFailed
from modelmora.ports import PictureQuery
from tests.event_line import KEY, Line
from tests.fakes import CLIP, OLD
from tests.pictures import digest

AWAY = DependencyUnavailable("away")
DINO = replace(OLD, name="dino", index=IndexSettings())


@pytest.fixture
async def line() -> Line:
    line = Line(CLIP, DINO)
    await line.ingest(line.coming("a", "b", "c"))
    return line


async def test_nothing_of_it_is_left(line: Line) -> None:
    line.world.embedder.fails = {b"d": OutOfMemory("never")}
    for _ in range(3):
        line.time.pass_(10_000)
        await line.database.pictures.announce_again(stuck_s=300, tries=9, limit=9, source="/s")
        await line.ingest([line.announced(line.stored("d"), id_="d")])
    assert line.codes() == ["out_of_memory"] * 2
    assert await line.remove(["a", "d", "nobody"]) == 2
    for space in (Space(model="clip", version="1.0.0"), Space(model="dino", version="1.0.0")):
        assert line.indexed(space) == ["b", "c"]
    assert sorted(line.files.objects.values()) == [b"b", b"c"]
    assert sorted(line.files.thumbnails.values()) == [b"small b", b"small c"]
    assert line.codes() == []
    about = [event for event in line.database.told() if event.key in ("a", "d")]
    assert [event.type for event in about] == ["com.modelmora.image.removed.v1"] * 2
    assert line.database.states("a") == {KEY: "tombstoned", DINO.key: "tombstoned"}


async def test_bytes_that_another_picture_has_stay(line: Line) -> None:
    twin = line.stored("twin", data=b"a", collection="other")
    await line.ingest([line.announced(twin)])
    await line.remove(["a"])
    assert await line.files.get(twin.object, max_bytes=10) == b"a"
    await line.remove(["twin"])
    assert digest("a") not in line.files.thumbnails
    assert twin.object not in line.files.objects


@pytest.mark.parametrize("store", ["vectors", "files"])
async def test_a_store_that_is_away_is_cleaned_by_the_event(line: Line, store: str) -> None:
    getattr(line, store).away = AWAY
    assert await line.remove(["a"]) == 1
    with pytest.raises(ImageNotFound):
        await line.database.pictures.get("a")
    getattr(line, store).away = None
    kept = [one for one in await line.database.outbox.due(limit=99) if one.key == b"a"]
    await line.ingest([line.delivery(one.key, one.value, one.headers) for one in kept])
    assert line.indexed() == ["b", "c"]
    assert sorted(line.files.objects.values()) == [b"b", b"c"]


async def test_without_the_database_nothing_is_removed(line: Line) -> None:
    line.database.store.away = AWAY
    with pytest.raises(DependencyUnavailable):
        await line.remove(["a"])
    assert line.indexed() == ["a", "b", "c"]


async def test_one_that_is_not_there_is_told_so(line: Line) -> None:
    await line.remove.one("a")
    with pytest.raises(ImageNotFound):
        await line.remove.one("a")


async def test_all_of_a_query_are_removed_however_many_pages_they_are(line: Line) -> None:
    for start in range(0, 120, 8):
        some = [line.stored(f"p{start + n}", collection="many") for n in range(8)]
        await line.ingest([line.announced(one) for one in some])
    assert await line.remove.where(PictureQuery(collection="many")) == 120
    assert line.indexed(Space(model="clip", version="1.0.0", collection="many")) == []
    assert line.indexed() == ["a", "b", "c"]


async def test_what_was_removed_is_not_removed_for_ever(line: Line) -> None:
    await line.remove(["a"])
    with pytest.raises(ValidationFailed, match="already"):
        await line.remove.where(PictureQuery(state="deleted"))
