"""Pictures are brought: kept at once, indexed while their bringer waits, and left to the events where that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.inference import Call, Content, Embedded, Text
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed, Ok, Outcome, unwrap
from modelmora.domain.pictures.search import Point
from modelmora.domain.pictures.way import RetryRule
from modelmora.errors import (
    DependencyUnavailable,
    InvalidInput,
    LimitExceeded,
    Overloaded,
    ValidationFailed,
)
from modelmora.ports import Registered, Registration, Watch
from modelmora.usecases.decoding import Decoding
from modelmora.usecases.pictures.arrivals import Arrival, Object, Terms
from modelmora.usecases.pictures.kept import Kept
from modelmora.usecases.pictures.upload import MARGIN_S
from modelmora.usecases.pictures.upload_stream import Uploaded, UploadStream
from tests.fakes import CLIP, FakeEmbedder, until
from tests.galleries import ASKING, CLIP_SPACE, SYNC_S, TWO, Kit, arriving, calling
from tests.pictures import digest
from tests.pictures_fakes import FakeRecords, FakeVectors

CLIP_KEY, VIT_KEY = CLIP.key, ASKING.key
AWAY = DependencyUnavailable("nobody is there", retry_after_s=1.0)


@pytest.fixture
def kit() -> Kit:
    return Kit()


def states(outcomes: Sequence[Outcome[Kept]]) -> list[str]:
    return [outcome.value.state if isinstance(outcome, Ok) else outcome.error.code for outcome in outcomes]


async def due(kit: Kit) -> list[str]:
    """What the relay would carry now."""
    numbers = {kept.number for kept in await kit.database.outbox.due(limit=100)}
    waiting = [one.kept.number for one in kit.database.store.outbox if one.kept.topic == "modelmora.images"]
    return [type_ for number, type_ in zip(waiting, kit.database.types(), strict=True) if number in numbers]


async def test_a_picture_that_is_uploaded_is_found_by_the_next_search(kit: Kit) -> None:
    (outcome,) = await kit.bring(b"a red circle")

    kept = unwrap(outcome)
    assert (kept.state, kept.duplicate, kept.spaces) == ("indexed", False, (CLIP_KEY,))
    found = await kit.find(Text("a red circle"))
    assert [hit.id for hit in found.hits] == [kept.picture.id]


async def test_what_is_kept_of_a_picture_is_found_out_from_its_bytes(kit: Kit) -> None:
    arrival = Arrival(content=Ok(b"bytes"), filename="../../etc/cat.jpg", tags=("pet",), metadata={"year": 2020})

    (outcome,) = await kit.upload()([arrival], Terms(collection="pets", ttl_s=60), call=calling())

    picture = unwrap(outcome).picture
    assert (picture.collection, picture.sha256, picture.bytes) == ("pets", digest(b"bytes"), 5)
    assert (picture.content_type, picture.width, picture.height) == ("image/png", 4, 2)
    assert (picture.facts.filename, picture.facts.tags, picture.facts.metadata) == ("cat.jpg", ("pet",), {"year": 2020})
    assert picture.expires_at == picture.created_at + timedelta(seconds=60)
    assert kit.files.objects[picture.object] == b"bytes"
    assert kit.files.thumbnails[picture.sha256] == b"small bytes"


async def test_all_pictures_of_an_upload_share_each_call(kit: Kit) -> None:
    kit.world.catalogue = TWO

    outcomes = await kit.bring(*[f"p{i}".encode() for i in range(6)])

    assert states(outcomes) == ["indexed"] * 6
    asked = [(one.model.key, len(one.items)) for one in kit.world.embedder.asked]
    assert sorted(asked) == [(CLIP_KEY, 6), (VIT_KEY, 6)]
    assert [len(ids) for _, ids in kit.vectors.upserts] == [6, 6]
    assert [kit.database.calls.count(call) for call in ("register", "finish")] == [1, 1]


async def test_a_picture_goes_into_the_space_of_every_model_that_asks_for_it(kit: Kit) -> None:
    kit.world.catalogue = TWO

    (id_,) = await kit.kept(b"a")

    assert kit.database.states(id_) == {CLIP_KEY: "indexed", VIT_KEY: "indexed"}
    assert [hit.id for hit in (await kit.find(Text("a"), model="vit")).hits] == [id_]
    generated = [event for event in kit.database.told() if "embedding.generated" in event.type]
    assert sorted(event.data["model"] for event in generated) == ["clip", "vit"]


async def test_the_same_bytes_again_are_the_picture_that_is_there(kit: Kit) -> None:
    first, again = [unwrap((await kit.bring(b"a"))[0]) for _ in range(2)]

    assert (again.duplicate, again.state, again.picture.id) == (True, "indexed", first.picture.id)
    assert again.spaces == (CLIP_KEY,)
    assert len(kit.world.embedder.asked) == 1


async def test_the_same_bytes_twice_in_one_upload_are_one_picture(kit: Kit) -> None:
    first, again = [unwrap(outcome) for outcome in await kit.bring(b"a", b"a")]

    assert (first.duplicate, again.duplicate) == (False, True)
    assert (again.state, again.picture.id) == ("indexed", first.picture.id)
    assert [len(asked.items) for asked in kit.world.embedder.asked] == [1]


async def test_the_same_bytes_in_another_collection_are_another_picture(kit: Kit) -> None:
    (one,) = await kit.kept(b"a")
    (other,) = await kit.kept(b"a", collection="others")

    assert one != other
    assert [hit.id for hit in (await kit.find(Text("a"), collection="others")).hits] == [other]


async def test_what_is_wrong_with_one_picture_is_its_own_error(kit: Kit) -> None:
    kit.looks.fails = {b"torn": InvalidInput("torn")}
    arrivals = [
        Arrival(content=Ok(b"fine")),
        Arrival(content=Ok(b"torn")),
        Arrival(content=Ok(b"x" * 4097)),
        Arrival(content=Ok(b"odd"), metadata={"key": [1]}),
        Arrival(content=Failed(ValidationFailed("unreadable"))),
        Arrival(content=Ok(b"also fine")),
    ]

    outcomes = await kit.upload()(arrivals, Terms(), call=calling())

    expected = ["indexed", "invalid_input", "limit_exceeded", "validation", "validation", "indexed"]
    assert states(outcomes) == expected
    assert len(kit.database.store.pictures) == 2
    assert len(kit.files.objects) == 2


async def test_a_picture_that_no_model_takes_is_its_bringers_error_and_stays_with_its_letter(kit: Kit) -> None:
    kit.world.embedder.fails = {b"bad": InvalidInput("not for this model")}

    good, bad = await kit.bring(b"good", b"bad")

    assert (states([good, bad]), unwrap(good).state) == (["indexed", "invalid_input"], "indexed")
    (letter,) = kit.database.store.letters.values()
    assert (letter.code, letter.stage, letter.space) == ("invalid_input", "embedding", CLIP_KEY)
    assert kit.database.states(letter.picture_id) == {CLIP_KEY: "rejected"}


class OneModelLess(FakeEmbedder):
    """Of one of the models nobody hears."""

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Embedded]]:
        if model.name == ASKING.name:
            raise AWAY
        return await super().embed(model, task, items, call=call, watch=watch)


async def test_a_model_that_is_away_keeps_no_other_one_from_its_index(kit: Kit) -> None:
    kit.world.catalogue, kit.world.embedder = TWO, OneModelLess()

    (outcome,) = await kit.bring(b"a")

    kept = unwrap(outcome)
    assert kept.state == "retrying"
    assert kit.database.states(kept.picture.id) == {CLIP_KEY: "indexed", VIT_KEY: "retry_wait"}
    assert [hit.id for hit in (await kit.find(Text("a"))).hits] == [kept.picture.id]


@pytest.mark.parametrize(
    ("trouble", "stage"),
    [("embedder", "embedding"), ("item", "embedding"), ("vectors", "upserting")],
)
async def test_trouble_that_may_pass_leaves_the_picture_to_the_events(kit: Kit, trouble: str, stage: str) -> None:
    match trouble:
        case "embedder":
            kit.world.embedder.raises = AWAY
        case "item":
            kit.world.embedder.fails = {b"a": AWAY}
        case _:
            kit.vectors.away = AWAY

    (outcome,) = await kit.bring(b"a")

    kept = unwrap(outcome)
    assert (kept.state, kept.under_way) == ("retrying", True)
    (way,) = kit.database.store.ways.values()
    assert (way.state, way.stage, way.attempts) == ("retry_wait", stage, 1)
    assert way.next_attempt_at == kit.time.now + timedelta(seconds=1)
    assert await due(kit) == ["image.registered.v1"]  # it is held back no longer


async def test_what_is_not_indexed_in_time_is_answered_and_taken_over_at_once(kit: Kit) -> None:
    kit.sync_s, kit.world.embedder.hold = 0.01, asyncio.Event()

    (outcome,) = await kit.bring(b"a")

    assert unwrap(outcome).state == "retrying"
    (way,) = kit.database.store.ways.values()
    assert (way.code, way.next_attempt_at) == ("deadline_exceeded", kit.time.now)
    assert await due(kit) == ["image.registered.v1"]
    assert kit.world.embedder.cancelled.is_set()


async def test_the_callers_own_deadline_is_kept_as_well(kit: Kit) -> None:
    kit.world.embedder.hold = asyncio.Event()

    (outcome,) = await kit.bring(b"a", call=calling(deadline=asyncio.get_running_loop().time() + 0.3))

    assert unwrap(outcome).state == "retrying"


async def test_a_bringer_who_leaves_leaves_the_picture_to_its_announcement(kit: Kit) -> None:
    kit.world.embedder.hold = asyncio.Event()
    upload = asyncio.create_task(kit.bring(b"a"))
    await kit.world.embedder.entered.wait()

    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    assert [way.state for way in kit.database.store.ways.values()] == ["working"]
    assert await due(kit) == []
    kit.time.pass_(SYNC_S + MARGIN_S)
    assert await due(kit) == ["image.registered.v1"]


class LosingVectors(FakeVectors):
    """The database goes away while the vectors are written."""

    def __init__(self, kit: Kit) -> None:
        super().__init__()
        self._kit = kit

    async def upsert(self, name: str, points: Sequence[Point]) -> None:
        await super().upsert(name, points)
        self._kit.database.store.away = AWAY


async def test_a_database_that_goes_away_meanwhile_loses_nothing(kit: Kit) -> None:
    kit.vectors = LosingVectors(kit)

    (outcome,) = await kit.bring(b"a")

    kit.database.store.away = None
    assert unwrap(outcome).state == "embedding"
    assert await due(kit) == []
    kit.time.pass_(SYNC_S + MARGIN_S)
    assert await due(kit) == ["image.registered.v1"]


async def test_nothing_is_taken_where_the_database_is_away(kit: Kit) -> None:
    kit.database.store.away = AWAY

    with pytest.raises(DependencyUnavailable):
        await kit.bring(b"a")

    assert kit.database.store.pictures == {}


async def test_a_picture_whose_bytes_cannot_be_stored_is_not_taken(kit: Kit) -> None:
    kit.files.away = AWAY

    assert states(await kit.bring(b"a")) == ["dependency_unavailable"]
    assert kit.database.store.pictures == {}


async def test_where_there_is_no_room_nothing_is_looked_at(kit: Kit) -> None:
    kit.world.capacity.most = 1

    with pytest.raises(Overloaded):
        await kit.bring(b"a", b"b")

    assert kit.looks.looks == 0


async def test_who_does_not_wait_is_answered_before_anything_is_embedded(kit: Kit) -> None:
    (outcome,) = await kit.bring(b"a", terms=Terms(wait=False))

    assert unwrap(outcome).state == "registered"
    assert kit.world.embedder.asked == []
    assert await due(kit) == ["image.registered.v1"]


async def test_an_object_is_kept_where_it_lies(kit: Kit) -> None:
    name = "s3://elsewhere/cat.png"
    kit.files.objects[name] = b"a"
    arrivals = [Arrival(content=Ok(Object(name))), Arrival(content=Ok(Object("s3://elsewhere/gone.png")))]

    there, gone = await kit.upload()(arrivals, Terms(), call=calling())

    assert unwrap(there).picture.object == name
    assert list(kit.files.objects) == [name]
    assert states([gone]) == ["image_not_found"]


async def test_a_point_that_the_store_does_not_take_is_alone_in_it(kit: Kit) -> None:
    kit.vectors = Disliking(b"bad")

    outcomes = await kit.bring(b"a", b"b", b"bad", b"c")

    assert states(outcomes) == ["indexed", "indexed", "retrying", "indexed"]


class Disliking(FakeVectors):
    """Breaks down over pictures of one content."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._sha256 = digest(content)

    async def upsert(self, name: str, points: Sequence[Point]) -> None:
        self.refuses = {p.provenance.picture_id for p in points if p.provenance.sha256 == self._sha256}
        await super().upsert(name, points)


async def test_a_version_that_went_away_meanwhile_refuses_no_picture(kit: Kit) -> None:
    await kit.kept(b"a")
    upload = kit.upload()  # of a catalogue that will have changed
    kit.world.catalogue = Catalogue(tuple(replace(one, version="9.0.0") for one in TWO.models))
    indexing = kit.indexing()
    kit.world.catalogue = TWO
    upload._indexing = indexing

    (outcome,) = await upload([Arrival(content=Ok(b"b"))], Terms(), call=calling())

    assert unwrap(outcome).state == "retrying"
    assert {way.state for way in kit.database.store.ways.values()} == {"indexed", "retry_wait"}


async def test_an_index_that_was_dropped_meanwhile_is_not_made_again(kit: Kit) -> None:
    await kit.kept(b"a")
    kit.world.embedder.hold = asyncio.Event()
    upload = asyncio.create_task(kit.bring(b"b"))
    await kit.world.embedder.entered.wait()
    kit.world.catalogue = replace(kit.world.catalogue, models=())
    await kit.database.indexes.remove(CLIP_SPACE)
    kit.world.embedder.hold.set()

    (outcome,) = await upload

    assert unwrap(outcome).state == "retrying"
    assert await kit.database.indexes.all() == ()


async def test_tries_that_are_used_up_leave_a_letter(kit: Kit) -> None:
    kit.rule, kit.world.embedder.raises = RetryRule(tries=1), AWAY

    (outcome,) = await kit.bring(b"a")

    assert unwrap(outcome).state == "failed"
    assert [letter.code for letter in kit.database.store.letters.values()] == ["dependency_unavailable"]


class RemovingRecords(FakeRecords):
    """While a picture is registered somebody removes the last other one of the same bytes."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit.database.store)
        self._kit = kit

    async def register(self, registrations: Sequence[Registration]) -> list[Outcome[Registered]]:
        self._kit.files.objects.clear()
        return await super().register(registrations)


async def test_bytes_that_somebody_removed_meanwhile_are_stored_again(kit: Kit) -> None:
    kit.database.pictures = RemovingRecords(kit)

    (outcome,) = await kit.bring(b"a")

    assert kit.files.objects == {unwrap(outcome).picture.object: b"a"}


async def test_a_picture_that_is_removed_while_it_is_embedded_leaves_no_vector(kit: Kit) -> None:
    await kit.kept(b"another")
    kit.world.embedder.holds = {b"going": asyncio.Event()}
    upload = asyncio.create_task(kit.bring(b"going"))
    await kit.world.embedder.entered.wait()
    (id_,) = [way.picture_id for way in kit.database.store.ways.values() if way.state == "working"]

    await kit.remove().one(id_)
    kit.world.embedder.holds[b"going"].set()
    await upload

    assert id_ not in kit.vectors.ids_in(CLIP_SPACE.name)
    assert len(kit.vectors.ids_in(CLIP_SPACE.name)) == 1


@pytest.mark.parametrize(
    "said", [{"collection": "No Name"}, {"ttl_s": 0}, {"tags": ["x" * 200]}, {"metadata": {"a": None}}]
)
def test_terms_that_cannot_be_kept_are_refused_before_anything_else(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed):
        Terms(**said)


def test_what_is_said_of_all_pictures_and_of_one_is_said_of_it() -> None:
    terms = Terms(tags=("a",), metadata={"x": 1, "y": 1}, each=[{"y": 2}, {"y": 3}])

    told = [terms.of(Arrival(content=Ok(b""), tags=("b",), metadata={"z": 1}), index) for index in (1, 2)]

    assert told[0].metadata == {"x": 1, "y": 3, "z": 1}
    assert told[1].metadata == {"x": 1, "y": 1, "z": 1}
    assert told[0].tags == ("a", "b")


# A stream of them.


def stream_of(kit: Kit, **windows: int) -> UploadStream:
    return UploadStream(kit.upload(), Decoding(kit.world.capacity), **windows)


async def uploaded(
    stream: UploadStream, arrivals: AsyncGenerator[Arrival, None], *, most: int = 100, **more: Any
) -> list[list[Uploaded]]:
    return [window async for window in stream(arrivals, Terms, call=calling(), most=most, **more)]


def brought(*contents: bytes) -> AsyncGenerator[Arrival, None]:
    return arriving([Arrival(content=Ok(content)) for content in contents])


async def test_a_stream_is_taken_in_windows_of_so_many_or_so_many_bytes(kit: Kit) -> None:
    by_count = await uploaded(stream_of(kit, window_items=2), brought(b"a", b"b", b"c"))
    by_size = await uploaded(stream_of(kit, window_bytes=10), brought(b"x" * 9, b"y", b"z"))

    assert [[one.index for one in window] for window in by_count] == [[0, 1], [2]]
    assert [[one.index for one in window] for window in by_size] == [[0, 1], [2]]


async def test_who_waits_for_an_answer_before_sending_more_gets_it(kit: Kit) -> None:
    answered = asyncio.Event()

    async def asking() -> AsyncGenerator[Arrival, None]:
        yield Arrival(content=Ok(b"a"))
        await answered.wait()
        yield Arrival(content=Ok(b"b"))

    windows = []
    async for window in stream_of(kit)(asking(), Terms, call=calling(), most=10, linger_s=0.001):
        windows.append([one.index for one in window])
        answered.set()

    assert windows == [[0], [1]]


async def test_more_pictures_than_may_be_are_refused(kit: Kit) -> None:
    with pytest.raises(LimitExceeded):
        await uploaded(stream_of(kit, window_items=2), brought(b"a", b"b", b"c"), most=2)


async def test_the_first_window_fails_as_a_whole_and_later_ones_by_picture(kit: Kit) -> None:
    async def losing(window: int) -> AsyncGenerator[Arrival, None]:
        for index in range(4):
            if index == 2 * window:
                await until(lambda: kit.world.capacity.taken == 0)
                kit.database.store.away = AWAY
            yield Arrival(content=Ok(f"{index}".encode()))

    stream = stream_of(kit, window_items=2)
    with pytest.raises(DependencyUnavailable):
        await uploaded(stream, losing(0))
    kit.database.store.away = None

    later = []
    async for window in stream(brought(b"a", b"b", b"c", b"d"), Terms, call=calling(), most=10):
        later.append(states([one.outcome for one in window]))
        kit.database.store.away = AWAY

    assert later == [["indexed"] * 2, ["dependency_unavailable"] * 2]


async def test_a_stream_that_breaks_off_is_not_taken_any_further(kit: Kit) -> None:
    async def torn() -> AsyncGenerator[Arrival, None]:
        yield Arrival(content=Ok(b"a"))
        raise InvalidInput("cut off")

    with pytest.raises(InvalidInput):
        await uploaded(stream_of(kit), torn())

    assert kit.database.store.pictures == {}


async def test_who_stops_reading_stops_the_stream(kit: Kit) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[Arrival, None]:
        try:
            for index in range(10**6):
                yield Arrival(content=Ok(str(index).encode()))
        finally:
            closed.set()

    results = stream_of(kit, window_items=2)(endless(), Terms, call=calling(), most=10**6)
    await anext(results)
    await results.aclose()

    assert closed.is_set()
    assert len(kit.database.store.pictures) == 2
