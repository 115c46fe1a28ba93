"""Pictures that events announce: each ends in its indexes once, or with a reason in the dead letters."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmora.domain.inference import Call
from modelmora.domain.models import ModelSpec
from modelmora.domain.pictures.spaces import IndexSettings, Space
from modelmora.domain.pictures.way import shown
from modelmora.errors import (
    DeadlineExceeded,
    DependencyUnavailable,
    InvalidInput,
    ModelLoading,
    ModelMoraError,
    OutOfMemory,
    Overloaded,
    UnsupportedMedia,
)
from modelmora.ports import Delivery, Registration
from modelmora.usecases.pictures.ingest import Outage
from tests.event_line import KEY, SPACE, TRIES, Line
from tests.fakes import CLIP, OLD
from tests.pictures import coming, digest

AWAY = DependencyUnavailable("away")
DINO = replace(OLD, name="dino", index=IndexSettings())


class Killed(BaseException):
    """As nothing that anybody handles."""


@pytest.fixture
def line() -> Line:
    return Line()


async def test_what_is_announced_is_indexed_and_told_of(line: Line) -> None:
    deliveries = line.coming("a", "b", "c")
    await line.ingest(deliveries)
    assert line.indexed() == ["a", "b", "c"]
    assert line.database.states("a") == {KEY: "indexed"}
    assert line.database.types() == ["embedding.generated.v1"] * 3
    told = line.database.told()[0].data
    assert (told["model"], told["version"], told["dimension"], told["index"]) == ("clip", "1.0.0", 4, SPACE.name)


async def test_a_chunk_is_one_call_of_each_kind(line: Line) -> None:
    await line.ingest(line.coming("a", "b", "c"))
    assert [len(asked.items) for asked in line.world.embedder.asked] == [3]
    assert line.world.embedder.asked[0].call.priority == "bulk"
    assert line.vectors.upserts == [(SPACE.name, ["a", "b", "c"])]
    assert [line.database.calls.count(name) for name in ("register", "finish")] == [1, 1]


async def test_the_first_vector_makes_the_index_that_is_searched(line: Line) -> None:
    await line.ingest(line.coming("a"))
    index = await line.spaces.index_of("default", "clip")
    assert index is not None
    assert (index.space, index.state, index.dimension) == (SPACE, "live", 4)
    assert line.vectors.aliases == {SPACE.alias: SPACE.name}


async def test_every_model_that_asks_to_be_indexed_is(line: Line) -> None:
    line.serve(CLIP, DINO, OLD)
    await line.ingest(line.coming("a"))
    assert line.database.states("a") == {KEY: "indexed", DINO.key: "indexed"}
    assert line.indexed(Space(model="dino", version="1.0.0")) == ["a"]


async def test_a_delivery_that_comes_again_changes_nothing(line: Line) -> None:
    deliveries = line.coming("a", "b")
    await line.ingest(deliveries)
    line.rise()
    await line.ingest(deliveries)
    assert len(line.world.embedder.asked) == 1
    assert len(line.database.told()) == 2
    assert line.indexed() == ["a", "b"]


@pytest.mark.parametrize("place", ["files", "embedder", "vectors", "finish"])
async def test_whoever_is_killed_anywhere_leaves_one_point_a_picture(
    line: Line, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries = line.coming("a", "b")
    ports: dict[str, tuple[Any, str]] = {
        "files": (line.files, "get"),
        "embedder": (line.world.embedder, "embed"),
        "vectors": (line.vectors, "upsert"),
        "finish": (line.database.pictures, "finish"),
    }

    async def killed(*_: object, **__: object) -> None:
        raise Killed

    target, name = ports[place]
    monkeypatch.setattr(type(target), name, killed)
    with pytest.raises(Killed):
        await line.ingest(deliveries)
    monkeypatch.undo()
    line.rise()
    await line.ingest(deliveries)
    assert line.indexed() == ["a", "b"]
    assert line.database.states("a") == line.database.states("b") == {KEY: "indexed"}
    assert line.database.types().count("embedding.generated.v1") == 2


async def test_an_event_of_somebody_else_needs_no_digest(line: Line) -> None:
    line.files.objects["s3://pictures/f"] = b"theirs"
    await line.ingest([line.foreign(tags=["x"], metadata={"n": 1})])
    there = await line.database.pictures.get("f")
    assert (there.sha256, there.bytes, there.facts.tags) == (digest(b"theirs"), 6, ("x",))
    assert line.indexed() == ["f"]
    assert line.files.gets == ["s3://pictures/f"], "its bytes are fetched once"


async def test_other_bytes_than_were_announced_are_refused(line: Line) -> None:
    line.files.objects["s3://pictures/f"] = b"changed since"
    await line.ingest([line.foreign(sha256=digest(b"announced"))])
    assert line.codes() == ["validation"]
    assert line.database.states("f") == {KEY: "rejected"}
    assert line.indexed() == []


async def test_thumbnails_are_made_where_there_are_none(line: Line) -> None:
    deliveries = line.coming("a", "b")
    line.files.thumbnails[digest("b")] = b"there"
    await line.ingest(deliveries)
    assert line.files.thumbnails == {digest("a"): b"small a", digest("b"): b"there"}


async def test_a_picture_without_a_thumbnail_is_better_than_none(line: Line) -> None:
    line.looks.away = Overloaded("the decoders are busy")
    await line.ingest(line.coming("a"))
    assert line.indexed() == ["a"]


async def test_what_is_no_picture_is_refused_alone(line: Line) -> None:
    line.looks.fails = {b"text": UnsupportedMedia("no picture")}
    line.world.embedder.fails = {b"torn": InvalidInput("cannot be decoded")}
    await line.ingest(line.coming("good", "text", "torn"))
    assert line.indexed() == ["good"]
    assert sorted(line.codes()) == ["invalid_input", "unsupported_media"]
    letter = next(one for one in line.database.store.letters.values() if one.code == "invalid_input")
    assert (letter.stage, letter.space, letter.attempts) == ("embedding", KEY, 1)
    assert line.database.types().count("embedding.failed.v1") == 2


async def test_what_is_not_in_the_store_or_too_large_is_refused_alone(line: Line) -> None:
    large = line.announced(line.stored("large", data=bytes(5_000)))
    missing = line.announced(replace(line.stored("missing"), object="s3://pictures/nowhere"))
    await line.ingest([*line.coming("good"), large, missing])
    assert line.indexed() == ["good"]
    assert sorted(line.codes()) == ["image_not_found", "limit_exceeded"]
    assert {letter.stage for letter in line.database.store.letters.values()} == {"fetching"}


async def test_what_may_pass_waits_longer_each_time_until_its_tries_are_used_up(line: Line) -> None:
    line.world.embedder.fails = {b"hard": OutOfMemory("too large at this moment")}
    delivery = line.announced(line.stored("hard"), id_="1")
    waits = []
    for attempt in range(1, TRIES):
        await line.ingest([delivery])
        (way,) = line.database.store.of("hard")
        assert (way.state, way.attempts, way.stage, way.code) == ("retry_wait", attempt, "embedding", "out_of_memory")
        assert way.next_attempt_at is not None
        waits.append((way.next_attempt_at - line.time()).total_seconds())
        await line.ingest([delivery])
        assert len(line.world.embedder.asked) == attempt, "it is not tried before its time"
        line.time.pass_(waits[-1])
        assert await line.database.pictures.announce_again(stuck_s=300, tries=TRIES, limit=10, source="/s") == 1
    assert waits == [1.0, 2.0]
    await line.ingest([delivery])
    assert line.database.states("hard") == {KEY: "dead"}
    assert line.codes() == ["out_of_memory"]


@pytest.mark.parametrize(
    "error", [AWAY, Overloaded("full"), ModelLoading("soon"), DeadlineExceeded("late")], ids=lambda e: str(e.code)
)
@pytest.mark.parametrize("stage", ["items", "whole"])
async def test_an_outage_of_what_embeds_burns_no_tries(line: Line, error: ModelMoraError, stage: str) -> None:
    if stage == "whole":
        line.world.embedder.raises = error
    else:
        line.world.embedder.fails = {b"": error}
    deliveries = line.coming("a", "b")
    for _ in range(TRIES + 2):
        with pytest.raises(Outage):
            await line.ingest(deliveries)
    assert [way.attempts for id_ in "ab" for way in line.database.store.of(id_)] == [0, 0]
    line.world.embedder.raises, line.world.embedder.fails = None, {}
    await line.ingest(deliveries)
    assert line.indexed() == ["a", "b"]


async def test_an_outage_of_the_vectors_or_the_files_burns_no_tries(line: Line) -> None:
    deliveries = line.coming("a", "b")
    for store in (line.vectors, line.files):
        store.away = AWAY
        with pytest.raises(Outage):
            await line.ingest(deliveries)
        store.away = None
    await line.ingest(deliveries)
    assert line.indexed() == ["a", "b"]
    assert [way.attempts for way in line.database.store.of("a")] == [0]


async def test_without_the_database_nothing_is_durable(line: Line) -> None:
    deliveries = [*line.coming("a"), line.delivery(b"k", b"no json")]
    line.database.store.away = AWAY
    with pytest.raises(DependencyUnavailable):
        await line.ingest(deliveries)
    assert line.vectors.upserts == []
    line.database.store.away = None
    await line.ingest(deliveries)
    assert (line.indexed(), line.codes()) == (["a"], ["invalid_input"])


async def test_the_last_try_of_a_chunk_leaves_it_waiting_one_by_one(line: Line) -> None:
    line.files.away = AWAY
    await line.ingest(line.coming("a", "b"), last=True)
    assert {state for id_ in "ab" for state in line.database.states(id_).values()} == {"retry_wait"}


async def test_the_last_try_of_what_cannot_even_be_registered_is_a_letter(line: Line) -> None:
    line.files.away = AWAY
    delivery = line.foreign()
    with pytest.raises(Outage):
        await line.ingest([delivery])
    await line.ingest([delivery], last=True)
    (letter,) = line.database.store.letters.values()
    assert (letter.code, letter.stage, letter.value) == ("dependency_unavailable", "fetching", delivery.value)


async def test_a_single_fetch_that_hangs_once_is_tried_again_before_it_is_given_up(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.files.objects |= {"s3://pictures/f": b"f", "s3://pictures/g": b"g"}
    get, failing = line.files.get, ["s3://pictures/f"]

    async def once(object_: str, *, max_bytes: int) -> bytes:
        if object_ in failing:
            failing.remove(object_)
            raise AWAY
        return await get(object_, max_bytes=max_bytes)

    monkeypatch.setattr(line.files, "get", once)
    await line.ingest([line.foreign(id_="f"), line.foreign(id_="g")])
    assert line.indexed() == ["f", "g"]


async def test_one_that_has_no_way_through_does_not_hold_up_the_others(line: Line) -> None:
    line.world.embedder.fails = {b"b": DeadlineExceeded("late")}
    await line.ingest(line.coming("a", "b"))
    assert line.indexed() == ["a"]
    assert line.database.states("b") == {KEY: "retry_wait"}


@pytest.mark.parametrize("at", ["a", "d", "g"])
async def test_a_poisonous_point_is_found_and_the_others_are_indexed(line: Line, at: str) -> None:
    line.vectors.refuses = {at}
    await line.ingest(line.coming(*"abcdefg"))
    assert line.indexed() == [one for one in "abcdefg" if one != at]
    assert line.database.states(at) == {KEY: "retry_wait"}
    assert line.database.store.of(at)[0].code == "internal"


async def test_a_defect_while_fetching_one_is_that_one_s(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    deliveries, get = line.coming("a", "b"), line.files.get

    async def odd(object_: str, *, max_bytes: int) -> bytes:
        if object_.endswith(digest("b")):
            raise UnicodeEncodeError("utf-8", "", 0, 1, "a defect")
        return await get(object_, max_bytes=max_bytes)

    monkeypatch.setattr(line.files, "get", odd)
    await line.ingest(deliveries)
    assert line.indexed() == ["a"]
    assert line.database.states("b") == {KEY: "retry_wait"}


async def test_a_space_that_was_let_go_of_meanwhile_is_not_made_again(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What immich's issue 17885 is about: the model was changed while pictures were being embedded."""
    line.serve(CLIP, DINO)
    deliveries, embed = line.coming("a"), line.world.embedder.embed

    async def slow(model: ModelSpec, *told: Any, call: Call, **more: Any) -> Any:
        answer = await embed(model, *told, call=call, **more)
        if model == DINO:
            line.world.catalogue = replace(line.world.catalogue, models=(CLIP,))
        return answer

    monkeypatch.setattr("tests.fakes.FakeEmbedder.embed", lambda _, *told, **more: slow(*told, **more))
    await line.ingest(deliveries)
    assert line.indexed() == ["a"]
    assert Space(model="dino", version="1.0.0").name not in line.vectors.indexes
    monkeypatch.undo()
    line.time.pass_(3_600)
    line.clock.now += 3_600
    await line.database.pictures.announce_again(stuck_s=300, tries=3, limit=10, source="/sweep")
    await line.ingest([line.announced(await line.database.pictures.get("a"))])
    ways = (await line.database.pictures.ways(["a"]))["a"]
    assert {way.space: way.state for way in ways} == {CLIP.key: "indexed", DINO.key: "superseded"}
    assert shown(ways) == "indexed", "a model that is not there any more makes no picture fail"


async def test_a_removal_takes_vectors_and_bytes_along_however_often_it_is_told(line: Line) -> None:
    one = line.stored("a")
    await line.ingest([line.announced(one)])
    line.vectors.away = AWAY
    assert await line.remove(["a"]) == 1
    assert (line.indexed(), one.object in line.files.objects) == (["a"], True)
    line.vectors.away = None
    gone = line.gone(await line.database.pictures.get("a", deleted=True))
    for _ in range(2):
        await line.ingest([gone])
        assert (line.indexed(), one.object in line.files.objects) == ([], False)


async def test_a_removal_is_not_forgotten_while_a_store_is_away(line: Line) -> None:
    one = line.stored("a")
    await line.ingest([line.announced(one)])
    await line.remove(["a"])
    line.vectors.away = AWAY
    with pytest.raises(DependencyUnavailable):
        await line.ingest([line.gone(one)])


async def test_the_removal_of_a_picture_that_nobody_knows_is_nothing(line: Line) -> None:
    await line.ingest([line.gone(line.stored("never"))])
    assert line.codes() == []


async def test_an_announcement_that_comes_after_the_removal_brings_nothing_back(line: Line) -> None:
    one = line.stored("a")
    await line.ingest([line.announced(one)])
    await line.remove(["a"])
    line.files.objects[one.object] = b"a"
    await line.ingest([line.announced(replace(one, seq=9))])
    assert line.indexed() == []
    assert line.database.states("a") == {KEY: "tombstoned"}


async def test_a_picture_that_was_removed_while_it_was_embedded_leaves_neither_event_nor_vector(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its removal was taken in as well meanwhile, since it came under another key: another id of the same content."""
    await line.database.pictures.register([Registration(picture=line.stored("a"), spaces=(KEY,))])
    upsert = line.vectors.upsert

    async def late(*told: Any) -> None:
        await line.remove(["a"])
        await line.ingest([line.gone(await line.database.pictures.get("a", deleted=True))])
        await upsert(*told)

    monkeypatch.setattr(line.vectors, "upsert", late)
    await line.ingest([line.announced(line.stored("b", data=b"a"))])
    assert line.database.types() == ["image.removed.v1"]
    assert line.indexed() == []


UNREADABLE = {
    "no json": b"\xff\xfe",
    "half a json": b'{"specversion": "1.0", ',
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "no cloudevent": b'{"id": "1"}',
    "another version": b'{"specversion": "0.3", "id": "1", "source": "/s", "type": "t", "data": {}}',
    "an unknown type": b'{"specversion": "1.0", "id": "1", "source": "/s", "type": "org.example.v1", "data": {}}',
    "no data": b'{"specversion": "1.0", "id": "1", "source": "/s", "type": "com.modelmora.image.registered.v1"}',
    "an unknown version": (
        b'{"specversion": "1.0", "id": "1", "source": "/s", "type": "com.modelmora.image.registered.v7", "data": {}}'
    ),
    "numbers beyond all": b'{"specversion": ' + b"9" * 6_000 + b"}",
}


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE)
async def test_what_cannot_be_read_is_put_aside_as_it_came(line: Line, value: bytes) -> None:
    bad = line.delivery(b"\xffkey", value, [("h", b"\x00\xff")])
    await line.ingest([bad, *line.coming("a")])
    await line.ingest([bad])
    (letter,) = line.database.store.letters.values()
    assert (letter.key, letter.value, letter.headers) == (bad.key, bad.value[: 2**20], bad.headers)
    assert (letter.stage, letter.picture_id) == ("reading", "")
    assert line.indexed() == ["a"]


@pytest.mark.parametrize(
    "odd",
    [
        {"object": "s3://pictures/\ud83d"},
        {"object": "file:///etc/passwd\0"},
        {"tags": ["\ud83d"]},
        {"tags": "no list"},
        {"metadata": {"n": 10**400}},
        {"metadata": {"\ud83d": 1}},
        {"filename": "\ud83d" * 9},
        {"created_at": "0001-01-01T00:00:00+23:59"},
        {"created_at": "2030-01-01T00:00:00"},
        {"expires_at": "9999-12-31T23:59:59-23:59"},
        {"seq": 2**80},
        {"seq": 0},
        {"collection": "../x"},
        {"tenant": "another"},
        {"sha256": "0" * 63},
        {"image_id": "\ud83d"},
        {"bytes": -1},
    ],
    ids=str,
)
async def test_whatever_a_stranger_announces_has_an_end(line: Line, odd: dict[str, Any]) -> None:
    told = {"sha256": digest(b"f"), "object": "s3://pictures/f", **odd}
    line.files.objects["s3://pictures/f"] = b"f"
    await line.ingest([line.foreign(**told), *line.coming("a")])
    assert "a" in line.indexed()
    assert len(line.codes()) + len(line.indexed()) == 2


@pytest.mark.parametrize("name", ["id", "source", "subject", "time", "traceparent"])
async def test_an_envelope_with_half_a_character_is_put_aside(line: Line, name: str) -> None:
    line.files.objects["s3://pictures/f"] = b"f"
    event = {**json.loads(line.foreign().value), name: "half \ud83d"}
    bad = line.delivery(b"f", json.dumps(event).encode())
    await line.ingest([bad, *line.coming("a")])
    assert "a" in line.indexed()
    assert all(letter.value == bad.value for letter in line.database.store.letters.values())


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("image_id", "object", "sha256", "tags", "metadata", "seq", "created_at", "expires_at", "bytes", "filename")


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=4), st.dictionaries(st.sampled_from("xyz"), ANY))
async def test_of_events_of_any_kind_each_ends_in_an_index_or_a_letter(
    data: dict[str, Any], attributes: dict[str, Any]
) -> None:
    line = Line()
    line.files.objects["s3://pictures/f"] = b"f"
    event = json.loads(line.foreign(**data).value)
    await line.ingest([line.delivery(b"f", json.dumps({**event, **attributes}).encode())])
    assert len(line.indexed()) + len(line.codes()) == 1


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=20)), max_size=4))
async def test_of_messages_of_any_bytes_each_ends_in_a_letter(value: bytes, headers: list[tuple[str, bytes]]) -> None:
    line = Line()
    await line.ingest([Delivery(topic="t", partition=0, offset=1, key=b"", value=value, headers=tuple(headers))])
    assert len(line.codes()) == 1


async def test_two_announcements_of_one_content_are_one_picture(line: Line) -> None:
    one, two = line.stored("a"), line.stored("b", data=b"a")
    await line.ingest([line.announced(one), line.announced(two)])
    assert line.indexed() == ["a"]
    assert line.codes() == []


async def test_new_facts_of_a_picture_are_in_its_index(line: Line) -> None:
    one = line.stored("a")
    await line.ingest([line.announced(one)])
    await line.ingest([line.announced(replace(one, seq=2, facts=replace(one.facts, tags=("new",))))])
    point = line.vectors.indexes[SPACE.name].points["a"]
    assert (point.facts.tags, point.provenance.seq) == (("new",), 2)


async def test_other_events_of_ours_are_passed_over(line: Line) -> None:
    await line.ingest(line.coming("a"))
    (told,) = (one.kept for one in line.database.store.outbox)
    await line.ingest([line.delivery(told.key, told.value, told.headers)])
    assert line.codes() == []
    assert len(line.world.embedder.asked) == 1


async def test_a_version_that_is_not_served_any_more_makes_nobody_fail(line: Line) -> None:
    line.serve(CLIP, DINO)
    await line.database.pictures.register([coming("x", spaces=("dino@1.0.0",), claim=False)])
    line.serve(CLIP)
    line.files.objects["s3://pictures/x"] = b"x"
    await line.ingest(line.coming("a"))
    assert line.indexed() == ["a"]
