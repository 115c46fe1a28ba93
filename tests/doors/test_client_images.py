"""The client's half of kept pictures through the real doors: brought, searched, looked at, removed, indexed anew."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from modelmora.client import (
    Client,
    Embedding,
    Failed,
    ImageNotFound,
    IndexInfo,
    InputError,
    KeptImage,
    ModelMoraError,
    Ok,
    Query,
    Stored,
    SyncClient,
    Transport,
    ValidationFailed,
    unwrap,
)
from modelmora.client.found import found
from modelmora.client.kept import dead_letter_info, image_info, index_info, kept_image
from modelmora.domain.description import Description
from modelmora.domain.preprocess import Preprocess
from modelmora.errors import (
    CapabilityMissing,
    DeadlineExceeded,
    DependencyUnavailable,
    InternalError,
    InvalidInput,
    ModelNotFound,
    NotFound,
    Overloaded,
    WrongState,
)
from tests import examples
from tests.doors.client_doors import QUICK
from tests.doors.client_kept import client_of, doors
from tests.doors.test_http_dead_letters import unread
from tests.fakes import CLIP, DIMENSION, VIT, World, until, vector_of
from tests.galleries import TWO, Kit
from tests.pictures import START, digest


@pytest.fixture
def kit(world: World) -> Kit:
    return Kit(world=world)


@pytest.fixture(params=["http", "grpc"])
async def client(request: pytest.FixtureRequest, kit: Kit) -> AsyncIterator[Client]:
    async with client_of(request.param, kit) as client:
        yield client


@pytest.fixture
async def rest(kit: Kit) -> AsyncIterator[Client]:
    """For what is always REST."""
    async with client_of("http", kit) as client:
        yield client


async def kept(client: Client, *files: Any, **told: Any) -> list[KeptImage]:
    return [unwrap(outcome) for outcome in await client.upload(files, **told)]


def codes(outcomes: list[Any]) -> list[str]:
    return [one.error.code if isinstance(one, Failed) else one.value.state for one in outcomes]


async def test_a_picture_that_was_brought_is_found_by_the_next_search(client: Client, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"cat")

    (brought,) = await kept(client, tmp_path / "cat.png", tags=["pet", "a, b"], metadata={"legs": 4, "name": "ä\"'"})
    found = await client.search("cat", limit=1)

    assert brought == KeptImage(
        id=brought.id,
        state="indexed",
        sha256=digest("cat"),
        filename="cat.png",
        content_type="image/png",
        bytes=3,
        width=4,
        height=2,
        spaces=(CLIP.key,),
    )
    (hit,) = found.hits
    assert (hit.id, hit.filename, hit.tags) == (brought.id, "cat.png", ("pet", "a, b"))
    assert hit.metadata == {"legs": 4, "name": "ä\"'"}
    assert hit.score == pytest.approx(1.0)
    assert (hit.created_at, hit.content_type, found.model) == (START, "image/png", CLIP.key)


async def test_a_picture_is_brought_once(client: Client) -> None:
    first, again = await kept(client, b"cat"), await kept(client, b"cat")

    assert (again[0].id, again[0].duplicate, first[0].duplicate) == (first[0].id, True, False)


async def test_each_picture_has_its_name_its_metadata_and_its_outcome(client: Client, kit: Kit, tmp_path: Path) -> None:
    kit.looks.fails = {b"torn": InvalidInput("torn", expected="a whole picture")}
    opened = io.BytesIO(b"b")
    opened.name = "/somewhere/opened.png"
    given: list[Any] = [('../ä "x".png', b"a"), tmp_path / "absent.png", opened, b"torn", b"c"]

    outcomes = await client.upload(given, metadata=[{"n": n} for n in range(5)], collection="trips")

    assert codes(outcomes) == ["indexed", "invalid_input", "indexed", "invalid_input", "indexed"]
    found = await client.search("a", collection="trips")
    names = {hit.metadata["n"]: hit.filename for hit in found.hits}
    assert names.keys() == {0, 2, 4}
    assert names[2] == "opened.png"
    assert names[0].startswith("ä ")
    assert names[4] == "picture"
    assert (await client.search("a")).hits == ()


async def test_a_single_picture_that_is_refused_is_an_outcome_as_well(client: Client, kit: Kit) -> None:
    kit.looks.fails = {b"torn": InvalidInput("torn", expected="a whole picture")}

    (outcome,) = await client.upload([b"torn"])

    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.detail) == ("invalid_input", "torn")


async def test_who_does_not_wait_sees_how_it_goes_on(client: Client, kit: Kit) -> None:
    (brought,) = await kept(client, b"cat", wait=False)
    assert brought.state == "registered"
    with pytest.raises(DeadlineExceeded, match="registered"):
        await client.images.settled(brought.id, timeout=0.06)

    settled = asyncio.create_task(client.images.settled(brought.id))
    await kit.kept(b"cat")  # as somebody else brings it, waiting

    assert (await settled).state == "indexed"


async def test_what_lies_in_the_store_is_named(client: Client, kit: Kit) -> None:
    outcomes = await client.upload([Stored("s3://nowhere/cat.png"), b"dog"], metadata=[{"n": 1}, {"n": 2}])

    first, second = outcomes
    assert isinstance(first, Failed)
    assert isinstance(second, Ok)
    assert isinstance(first.error, InputError | NotFound | ModelMoraError)
    assert first.error.code != "internal"
    assert (await client.search("dog")).hits[0].metadata == {"n": 2}


async def test_what_failed_for_a_passing_reason_is_brought_again(client: Client, kit: Kit) -> None:
    troubles = [Overloaded("full", retry_after_s=0.0)]
    whole = kit.looks.look

    async def look(data: bytes, *, deadline: float) -> Any:
        if troubles:
            raise troubles.pop()
        return await whole(data, deadline=deadline)

    kit.looks.look = look  # type: ignore[method-assign] # what a server does that is busy once

    assert codes(await client.upload([b"cat"])) == ["indexed"]
    assert troubles == []


async def test_what_says_nothing_of_pictures_is_refused_before_it_is_sent(client: Client, kit: Kit) -> None:
    wrong: list[tuple[Any, dict[str, Any]]] = [
        ("cat.png", {}),
        (b"cat", {}),
        ([b"a"], {"tags": "pet"}),
        ([b"a"], {"metadata": [{}, {}]}),
        ([b"a"], {"metadata": "x"}),
        ([b"a"], {"metadata": [1]}),
        ([b"a"], {"metadata": {"x": object()}}),
        ([b"a"], {"ttl_s": 0}),
        ([b"a"], {"ttl_s": 1.5}),
    ]
    for given, told in wrong:
        with pytest.raises(ValidationFailed):
            await client.upload(given, **told)
    assert await client.upload([]) == []
    assert kit.database.pictures is not None
    assert (await client.search("a")).hits == ()


async def test_a_question_has_many_forms(client: Client, kit: Kit) -> None:
    cat, dog = await kit.kept(b"cat", b"dog")
    vector = vector_of(b"cat")
    asked: dict[str, Any]
    embedding = await client.generate_embedding(b"cat")
    assert isinstance(embedding, Embedding)

    for asked in (
        {"text": "cat"},
        {"image": b"cat"},
        {"vector": vector},
        {"vector": embedding},
        {"vector": embedding.data},
        {"queries": [Query(image=b"cat", weight=2), Query(text="dog", weight=-0.01)]},
        {"text": "cat", "queries": [Query(text="dog", weight=0.1)]},
    ):
        assert (await client.search(**asked)).hits[0].id == cat, asked
    assert [hit.id for hit in (await client.search(id=cat)).hits] == [dog]


async def test_results_are_narrowed_paged_and_grouped(client: Client, kit: Kit) -> None:
    a, b = await kit.kept(b"a", b"b", metadata={"kind": "x", "n": 1}, tags=("t",))
    (c,) = await kit.kept(b"c", metadata={"kind": 7, "n": 5})

    by_tag = await client.search("a", filter={"tags": {"none": ["t"]}})
    by_range = await client.search("a", filter={"metadata": {"n": {"gte": 5}}, "created_after": START - timedelta(1)})
    first = await client.search("x", limit=2)
    rest = await client.search("x", limit=2, cursor=first.next_cursor)
    groups = (await client.search("a", group_by="kind", group_size=1)).groups
    near = await client.search("a", score_threshold=0.99, exact=True, model="clip")

    assert [hit.id for hit in by_tag.hits] == [hit.id for hit in by_range.hits] == [c]
    assert {hit.id for hit in (*first.hits, *rest.hits)} == {a, b, c}
    assert (len(first.hits), rest.next_cursor) == (2, None)
    assert {group.value: len(group.hits) for group in groups} == {"x": 1, 7: 1}
    assert [hit.id for hit in near.hits] == [a]


async def test_what_is_wrong_with_a_question_is_told_as_the_server_tells_it(client: Client, kit: Kit) -> None:
    await kit.kept(b"cat")
    with pytest.raises(ImageNotFound):
        await client.search(id="absent")
    with pytest.raises(ModelNotFound):
        await client.search("cat", model="absent")
    with pytest.raises(ValidationFailed, match="no field colour"):
        await client.search("cat", filter={"colour": "red"})
    with pytest.raises(ValidationFailed) as short:
        await client.search(vector=[1.0, 2.0])
    assert short.value.field is not None


async def test_a_text_for_a_model_that_takes_none_names_those_that_do(kit: Kit, world: World) -> None:
    world.catalogue = TWO
    await kit.kept(b"cat")
    seeing = Preprocess(resize="exact", height=1, width=1)
    world.describer.known = {VIT.key: Description(model=VIT.key, dimension=DIMENSION, image=seeing)}
    async with client_of("grpc", kit) as client:
        with pytest.raises(CapabilityMissing, match=CLIP.name):
            await client.search("cat", model=VIT.name)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"queries": [Query()]},
        {"queries": [Query(text="a", id="b")]},
        {"queries": Query(text="a")},
        {"queries": [Query(text="a", weight=float("nan"))]},
        {"text": 7},
        {"text": "\udcff"},
        {"vector": []},
        {"vector": [float("inf")]},
        {"vector": ["x"]},
        {"vector": b"12345"},
        {"vector": 7},
        {"text": "a", "limit": 0},
        {"text": "a", "limit": 1.5},
        {"text": "a", "score_threshold": "high"},
        {"text": "a", "filter": {"ids": {1, 2}}},
        {"text": "a", "filter": ["x"]},
    ],
)
async def test_what_is_no_question_is_refused_before_it_is_sent(asked: dict[str, Any]) -> None:
    async with Client("http://127.0.0.1:1", retry=QUICK, timeout=1) as nowhere:
        with pytest.raises(InputError):
            await nowhere.search(**asked)


async def test_a_search_is_asked_again_while_the_server_is_busy(client: Client, kit: Kit) -> None:
    (cat,) = await kit.kept(b"cat")
    kit.world.embedder.raises = Overloaded("full", retry_after_s=0.0)
    asking = asyncio.create_task(client.search("dog"))
    await until(lambda: len(kit.world.embedder.asked) >= 3)
    kit.world.embedder.raises = None

    assert [hit.id for hit in (await asking).hits] == [cat]


async def test_a_record_tells_the_ways_and_what_went_wrong(rest: Client, kit: Kit) -> None:
    kit.world.embedder.raises = DependencyUnavailable("nobody is there", retry_after_s=1.0)
    (brought,) = await kept(rest, b"cat", tags=["pet"], ttl_s=60)

    info = await rest.images.get(brought.id)

    assert (info.state, brought.state, info.tags, info.collection) == ("retrying", "retrying", ("pet",), "default")
    (way,) = info.ways
    assert (way.space, way.state, way.code, way.attempts) == (CLIP.key, "retry_wait", "dependency_unavailable", 1)
    assert info.why == "nobody is there"
    assert info.expires_at == START + timedelta(seconds=60)


async def test_pictures_are_listed_shown_and_removed(rest: Client, kit: Kit) -> None:
    ids = await kit.kept(b"a", b"b", tags=("t",)) + await kit.kept(b"c")

    listed = [info.id async for info in rest.images.list()]
    tagged = {info.id async for info in rest.images.list(tags=["t", "u"], state="indexed", collection="default")}
    by_digest = [info.id async for info in rest.images.list(sha256=digest("c"), created_before=START + timedelta(1))]

    assert sorted(listed) == sorted(ids)
    assert tagged == {*ids[:2]}
    assert by_digest == ids[2:]
    assert await rest.images.content(ids[0]) == b"a"
    assert await rest.images.thumbnail(ids[0]) == b"small a"
    await rest.images.delete(ids[0])
    with pytest.raises(ImageNotFound):
        await rest.images.get(ids[0])
    with pytest.raises(ImageNotFound):
        await rest.images.delete(ids[0])
    assert await rest.images.delete_many([ids[1], "absent"]) == 1
    assert await rest.images.delete_many(collection="default", created_before=START + timedelta(1)) == 1
    assert [info async for info in rest.images.list()] == []


@pytest.mark.parametrize("id_", ["", ".", "..", "\n", 7])
async def test_what_is_no_id_is_refused_before_it_is_sent(id_: Any) -> None:
    async with Client("http://127.0.0.1:1", retry=QUICK, timeout=1) as nowhere:
        for ask in (nowhere.images.get, nowhere.images.content, nowhere.images.delete, nowhere.dead_letters.get):
            with pytest.raises(ValidationFailed):
                await ask(id_)


async def test_everything_is_not_removed_by_mistake(rest: Client, kit: Kit) -> None:
    await kit.kept(b"a")
    with pytest.raises(ValidationFailed):
        await rest.images.delete_many()
    with pytest.raises(ValidationFailed):
        await rest.images.delete_many("abc")
    with pytest.raises(ValidationFailed):
        await rest.images.delete_many(["x"], tags=["t"])
    assert len([info async for info in rest.images.list()]) == 1


async def test_dead_letters_are_read_replayed_and_forgotten(rest: Client, kit: Kit) -> None:
    letters = [unread(str(n), failed_at=START + timedelta(seconds=n), code="abc"[n % 3]) for n in range(5)]
    await kit.database.dead_letters.add(letters)

    listed = [letter async for letter in rest.dead_letters.list()]
    assert [letter.id for letter in listed] == ["4", "3", "2", "1", "0"]
    assert [letter.id async for letter in rest.dead_letters.list(code="b")] == ["4", "1"]
    whole = await rest.dead_letters.get("4")
    assert (whole.key, whole.value, whole.headers) == (b"\xff", b"<script>\x00", (("h", b"\x00\xff"),))
    assert replace(whole, key=b"", value=b"", headers=()) == listed[0]
    assert await rest.dead_letters.replay("0") == 1
    assert await rest.dead_letters.replay(code="b") == 2
    assert (await rest.dead_letters.get("4")).replayed_at is not None
    await rest.dead_letters.remove("3")
    with pytest.raises(NotFound):
        await rest.dead_letters.remove("3")
    assert await rest.dead_letters.replay(all=True) == 1
    for wrong in ({}, {"code": "a", "all": True}):
        with pytest.raises(ValidationFailed):
            await rest.dead_letters.replay(**wrong)  # type: ignore[arg-type] # on purpose


async def test_a_model_is_indexed_anew_while_it_is_watched(rest: Client, kit: Kit, world: World) -> None:
    await kit.kept(b"a", b"b")
    seen: list[IndexInfo] = []
    filling = asyncio.create_task(_filling(kit, seen))

    index = await rest.reindex("vit", wait=True, on_progress=seen.append)
    await filling

    assert (index.key, index.state, index.done, index.total, index.dimension) == (VIT.key, "live", 2, 2, DIMENSION)
    assert seen[0].state == "building"
    assert {one.key: one.state for one in await rest.indexes.list(collection="default")} == {
        CLIP.key: "live",
        VIT.key: "live",
    }
    assert (await rest.search(image=b"a", model="vit")).model == VIT.key


async def test_an_index_waits_for_its_switch_and_goes_when_it_is_told(rest: Client, kit: Kit) -> None:
    await kit.kept(b"a")
    begun = await rest.reindex(VIT.key, switch=False)
    with pytest.raises(WrongState):
        await rest.indexes.switch(VIT.key)
    with pytest.raises(WrongState, match="searches go to"):
        await rest.indexes.drop(CLIP.key)
    with pytest.raises(DeadlineExceeded, match="building"):
        await rest.reindex("vit", version=VIT.version, switch=False, wait=True, timeout=0.5)
    await kit.fill()

    ready = await rest.indexes.get(VIT.key)
    assert (begun.state, ready.state) == ("building", "ready")
    assert (await rest.indexes.switch(VIT.key)).state == "live"
    with pytest.raises(ModelNotFound):
        await rest.indexes.get("clip@9.9.9")
    with pytest.raises(ModelNotFound):
        await rest.reindex("absent")


async def test_an_index_that_is_given_up_or_let_go_of_ends_the_waiting(rest: Client) -> None:
    index = IndexInfo(model="clip", version="1.0.0", state="failed", why="too many failed")
    with pytest.raises(InternalError, match="too many failed"):
        await rest.indexes.complete(index, switch=True, timeout=1, tell=lambda one: None)
    with pytest.raises(WrongState):
        await rest.indexes.complete(replace(index, state="dropped"), switch=True, timeout=1, tell=lambda one: None)


async def test_the_sync_facade_does_the_same(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"cat")

    def work(url: str, control_url: str) -> None:
        with SyncClient(url, control_url=control_url, retry=QUICK, timeout=10) as client:
            (brought,) = [unwrap(one) for one in client.upload([tmp_path / "cat.png"], tags=["pet"])]
            ((index, again),) = client.upload_each([b"cat"])
            assert (index, unwrap(again).duplicate) == (0, True)
            assert [hit.id for hit in client.search("cat", limit=3).hits] == [brought.id]
            assert client.search(queries=[Query(image=b"cat")]).hits[0].id == brought.id
            images = client.images
            assert images.get(brought.id) == images.settled(brought.id) == next(images.list(tags=["pet"]))
            assert (images.content(brought.id), images.thumbnail(brought.id)) == (b"cat", b"small cat")
            assert [one.key for one in client.indexes.list()] == [CLIP.key]
            assert client.indexes.get(CLIP.key).done == 1
            assert client.indexes.switch(CLIP.key).state == "live"
            assert client.reindex("vit", switch=False).state == "building"
            client.indexes.drop(VIT.key)
            (letter,) = client.dead_letters.list()
            assert client.dead_letters.get(letter.id).detail == "no JSON"
            assert client.dead_letters.replay(letter.id) == 1
            client.dead_letters.remove(letter.id)
            images.delete(brought.id)
            assert images.delete_many([brought.id]) == 0

    await kit.database.dead_letters.add([unread("1")])
    async with doors("grpc", kit) as urls:
        await asyncio.to_thread(work, urls.url, urls.control_url)


async def test_a_closed_client_says_so() -> None:
    client = Client("http://127.0.0.1:1")
    await client.close()
    with pytest.raises(WrongState):
        await client.search("a")
    with pytest.raises(WrongState):
        await client.upload([b"a"])
    with pytest.raises(WrongState):
        await client.images.get("a")


def test_both_transports_promise_what_the_seam_asks_for() -> None:
    from modelmora.client.grpc_transport import GrpcTransport
    from modelmora.client.http_transport import HttpTransport

    names = {name for name in vars(Transport) if not name.startswith("_")} | {"batch"}
    assert {"upload", "search"} <= names
    for transport in (GrpcTransport, HttpTransport):
        assert names <= set(dir(transport))


def test_the_server_s_own_times_are_told() -> None:
    told = found({"results": [], "model": ""}, server_timing="embed;dur=1.5, search;dur=2.25, total;dur=4")
    assert (told.embed_ms, told.search_ms, told.total_ms) == (1.5, 2.25, 4.0)
    assert told == found({"next_cursor": ""}, server_timing="")


@pytest.mark.parametrize("body", [{"results": [{}]}, {"results": [7]}, {"groups": [{"value": 1}]}, {"results": 7}])
def test_an_answer_of_another_shape_is_the_server_s_defect(body: dict[str, Any]) -> None:
    with pytest.raises(InternalError, match="another shape"):
        found(body, server_timing="")


@pytest.mark.parametrize("read", [kept_image, image_info, dead_letter_info, index_info])
def test_a_record_of_another_shape_is_the_server_s_defect(read: Callable[[Any], object]) -> None:
    for body in (
        {},
        {"id": "a", "state": "indexed", "bytes": "many", "headers": [7], "model": "a", "version": "1", "done": "some"},
    ):
        with pytest.raises(InternalError, match="another shape"):
            read(body)


async def _filling(kit: Kit, seen: list[IndexInfo]) -> None:
    """As the server does it in the background, once it was begun."""
    await until(lambda: bool(seen))
    await kit.fill()


EXAMPLES = [example.code for example in examples.runnable("docs/sdk-images.md")]


@pytest.mark.parametrize("example", EXAMPLES)
async def test_an_example_of_the_page_runs(
    example: str, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    await kit.database.dead_letters.add([unread("1", code="artifact_corrupt")])
    async with doors("grpc", kit) as urls:
        async with Client(urls.url) as client:
            pictures = [("cat.jpg", b"cat"), ("bird.jpg", b"bird")]
            await kept(client, *pictures, tags=["pet"], metadata={"year": 2031, "album": "spring"})
        here = example.replace("grpc://127.0.0.1:50051", urls.url).replace("http://127.0.0.1:3000", urls.control_url)
        here = here.replace('Client("grpc', f'Client(control_url="{urls.control_url}", url="grpc')
        assert here != example
        await asyncio.to_thread(exec, compile(here, "docs/sdk-images.md", "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out
    for wanted in (line.removeprefix("# -> ") for line in example.splitlines() if line.startswith("# -> ")):
        assert wanted in printed
