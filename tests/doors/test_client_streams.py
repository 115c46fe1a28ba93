"""The client's streams against the real doors: any number of items in one call, and how far one is."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path

import numpy as np
import pytest

from modelmora.client import Client, Embedding, Failed, Image, Ok, Outcome, Progress, Retry, SyncClient, Text
from modelmora.client.address import Address
from modelmora.client.grpc_transport import GrpcTransport
from modelmora.client.transport import Group
from modelmora.domain.inference import Call
from modelmora.domain.progress import Step
from modelmora.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    ModelLoading,
    ModelMoraError,
    ModelNotFound,
    ValidationFailed,
    VersionNotFound,
    WrongState,
)
from tests.doors.client_doors import QUICK, over, over_grpc
from tests.doors.client_script import Script, overloaded
from tests.doors.client_servers import grpc_server as scripted
from tests.doors.client_servers import http_server as scripted_http
from tests.doors.client_servicer import PROGRESS
from tests.fakes import TIMINGS, World, until, vector_of
from tests.support import reserve_port

TORN = InvalidInput("the picture is cut off", field="image", found="4 bytes", expected="a whole picture")
Serve = Callable[[int], AbstractAsyncContextManager[None]]


@pytest.fixture(params=["grpc", "http"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def port() -> int:
    return reserve_port()


@pytest.fixture
def serve(wire: str, world: World) -> Serve:
    return lambda port: over(wire, world, port)


@pytest.fixture
async def client(wire: str, serve: Serve, port: int) -> AsyncIterator[Client]:
    async with serve(port), Client(f"{wire}://127.0.0.1:{port}", retry=QUICK, timeout=10) as client:
        yield client


def contents(count: int) -> list[Image | Text]:
    return [Text(f"text {i}") if i % 3 == 2 else Image(f"picture {i}".encode()) for i in range(count)]


def vectors(found: dict[int, Outcome[Embedding]]) -> dict[int, list[float] | str]:
    return {i: o.value.tolist() if isinstance(o, Ok) else o.error.code for i, o in found.items()}


async def test_every_item_of_a_batch_is_answered_once(client: Client) -> None:
    found: dict[int, Outcome[Embedding]] = {}
    async for index, outcome in client.generate_batch(contents(190), model="vit@1.0.0"):
        assert index not in found
        found[index] = outcome

    assert vectors(found) == {
        i: vector_of(item.text.encode() if isinstance(item, Text) else item.data)
        for i, item in enumerate(contents(190))
    }
    values = [outcome.value for outcome in found.values() if isinstance(outcome, Ok)]
    assert {value.key for value in values} == {"vit@1.0.0"}
    assert {value.timings for value in values} == {TIMINGS}


async def test_items_of_a_batch_fail_alone_wherever_they_fail(client: Client, world: World, tmp_path: Path) -> None:
    world.embedder.fails = {b"torn": TORN}
    items: list[bytes | Path | Text] = [
        b"good",
        b"torn",
        tmp_path / "absent",
        Text("fine"),
        Text("torn too"),
        b"x" * 5_000,
    ]

    found = {index: outcome async for index, outcome in client.generate_batch(items)}

    codes = {index: o.error.code if isinstance(o, Failed) else "ok" for index, o in found.items()}
    assert codes == {
        0: "ok", 1: "invalid_input", 2: "invalid_input", 3: "ok", 4: "invalid_input", 5: "limit_exceeded"
    }  # fmt: skip
    torn = found[1]
    assert isinstance(torn, Failed)
    assert (torn.error.field, torn.error.expected) == ("image", "a whole picture")


async def test_answers_come_while_the_source_still_waits_for_them(client: Client) -> None:
    answered = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"first"
        await answered.wait()
        yield b"second"

    seen = []
    async for index, _ in client.generate_batch(source()):
        seen.append(index)
        answered.set()
    assert seen == [0, 1]


async def test_more_items_than_a_stream_takes_are_all_answered(client: Client, world: World) -> None:
    assert world.limits.stream_items == 200

    found: dict[int, Outcome[Embedding]] = {}
    async for index, outcome in client.generate_batch(contents(450)):
        assert index not in found
        found[index] = outcome

    assert vectors(found) == {
        i: vector_of(item.text.encode() if isinstance(item, Text) else item.data)
        for i, item in enumerate(contents(450))
    }


@pytest.mark.parametrize(
    ("text", "code"),
    [("", "validation"), ("x" * 101, "limit_exceeded"), ("torn", "invalid_input"), ("\udce9", "invalid_input")],
    ids=["empty", "long", "torn", "no Unicode"],
)
async def test_an_only_text_that_fails_fails_alone(text: str, code: str, client: Client, world: World) -> None:
    world.embedder.fails = {b"torn": TORN}

    found = {index: outcome async for index, outcome in client.generate_batch([b"good", Text(text)])}

    assert {i: o.error.code if isinstance(o, Failed) else "ok" for i, o in found.items()} == {0: "ok", 1: code}


async def test_a_text_that_no_wire_takes_is_refused_before_it_is_sent(client: Client, world: World) -> None:
    with pytest.raises(InvalidInput, match="no Unicode"):
        await client.generate_embedding(text="caf\udce9")
    with pytest.raises(InvalidInput, match="no Unicode"):
        [each async for each in client.embed_with_progress(text="caf\udce9")]
    assert world.embedder.asked == []


@pytest.mark.parametrize(
    ("model", "error"), [("gone", ModelNotFound), ("vit@9.9.9", VersionNotFound), ("No!", ValidationFailed)]
)
async def test_a_model_that_cannot_serve_ends_a_batch_of_texts_as_well(
    model: str, error: type[ModelMoraError], client: Client
) -> None:
    with pytest.raises(error):
        [each async for each in client.generate_batch([Text("a")], model=model)]


async def test_an_unknown_model_ends_the_batch(client: Client) -> None:
    with pytest.raises(ModelNotFound, match="no model 'gone'"):
        [each async for each in client.generate_batch([b"x"], model="gone")]


async def test_nothing_in_nothing_out(client: Client, world: World) -> None:
    assert [each async for each in client.generate_batch([])] == []
    assert world.embedder.asked == []


async def test_a_batch_is_bulk_and_its_items_have_the_usual_time_unless_told(client: Client, world: World) -> None:
    before = time.monotonic()
    assert [each async for each in client.generate_batch([b"a"])]
    assert [each async for each in client.generate_batch([b"a"], timeout=50, priority="interactive", truncate=False)]
    after = time.monotonic()

    first, second = (asked.call for asked in world.embedder.asked)
    assert (first.priority, second.priority) == ("bulk", "interactive")
    assert before + 9.9 <= first.deadline <= after + 10.1
    assert before + 49.9 <= second.deadline <= after + 50.1


@pytest.mark.parametrize("item", [b"a", Text("a")])
async def test_a_deadline_of_the_batch_is_kept(item: bytes | Text, client: Client, world: World) -> None:
    world.embedder.hold = asyncio.Event()
    began = time.monotonic()

    async def read() -> list[str]:
        return [
            outcome.error.code if isinstance(outcome, Failed) else "ok"
            async for _, outcome in client.generate_batch([item], timeout=0.4)
        ]

    with pytest.raises(DeadlineExceeded):
        await read()
    assert time.monotonic() - began < 5
    await until(lambda: world.embedder.running == 0)


async def test_leaving_a_batch_early_frees_the_server(client: Client, world: World) -> None:
    world.embedder.holds = {b"slow": asyncio.Event()}
    items = [*contents(8), *[f"slow {i}".encode() for i in range(8)]]

    async with aclosing(client.generate_batch(items, window=64)) as answers:
        if client_speaks_grpc(client):
            await anext(answers)
        else:  # a group over HTTP is answered as a whole
            waiting = asyncio.ensure_future(anext(answers))
            await until(lambda: world.embedder.running == 8)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await until(lambda: world.embedder.running == 8)

    await until(lambda: world.embedder.running == 0)


async def test_a_server_that_restarts_in_the_middle_answers_the_rest(
    wire: str, serve: Serve, port: int, world: World
) -> None:
    gone = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        for number in range(60):
            if number == 30:
                await gone.wait()
            yield f"picture {number}".encode()

    found: dict[int, Outcome[Embedding]] = {}
    retry = Retry(initial_s=0.05, max_s=0.1)
    async with (
        Client(f"{wire}://127.0.0.1:{port}", retry=retry, timeout=20) as client,
        aclosing(client.generate_batch(source())) as answers,
    ):
        async with serve(port):
            while len(found) < 10:
                index, outcome = await anext(answers)
                found[index] = outcome
        gone.set()
        async with serve(port):
            async for index, outcome in answers:
                assert index not in found
                found[index] = outcome

    assert vectors(found) == {number: vector_of(f"picture {number}".encode()) for number in range(60)}


async def test_a_window_of_nothing_is_refused_and_a_closed_client_says_so(client: Client) -> None:
    with pytest.raises(ValidationFailed, match="window must be above 0"):
        [each async for each in client.generate_batch([b"x"], window=0)]
    await client.close()
    with pytest.raises(WrongState, match="closed"):
        [each async for each in client.generate_batch([b"x"])]


async def test_what_is_no_server_of_ours_ends_a_batch_instead_of_failing_each_text() -> None:
    with scripted_http(Script()) as url:
        async with Client(f"{url}/elsewhere") as client:
            with pytest.raises(ModelMoraError, match="answered 404 Not Found: not a ModelMora problem"):
                [each async for each in client.generate_batch([Text("a")])]


async def test_what_cannot_be_written_ends_the_stream_instead_of_waiting_for_ever(world: World, port: int) -> None:
    async def groups() -> AsyncGenerator[Group, None]:
        yield [(0, Text("a"))]
        yield [(1, Text("\udce9"))]

    transport = GrpcTransport(Address.parse(f"grpc://127.0.0.1:{port}"), channels=1, token=None)
    call = Call(request_id="r", deadline=math.inf)
    async with over_grpc(world, port), asyncio.timeout(10):
        with pytest.raises(InternalError, match="the items cannot be sent: UnicodeEncodeError") as caught:
            [each async for each in transport.batch(groups(), model=None, call=call)]
        await transport.close()

    assert isinstance(caught.value.__cause__, UnicodeEncodeError)


async def test_a_defect_of_a_whole_stream_carries_the_request_id() -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    script = Script(troubles=deque([fail, fail]))
    with scripted(script) as url:
        async with Client(url, retry=QUICK) as client:
            streams: list[AsyncIterator[object]] = [client.embed_with_progress(b"a"), client.generate_batch([b"a"])]
            for stream in streams:
                with pytest.raises(InternalError) as caught:
                    [each async for each in stream]
                assert caught.value.__notes__ == [f"request {script.requests[-1].headers['x-request-id']}"]

    assert len(script.requests) == 2


STEPS_OF_THE_SERVER = (Step("preprocessing", 1, 1), Step("loading", 1024, 2048), Step("inference", 3, 12))


async def test_progress_never_falls_and_ends_with_the_embedding(client: Client, world: World) -> None:
    world.embedder.hold = asyncio.Event()
    seen: list[Progress | Embedding] = []

    async for each in client.embed_with_progress(b"a picture", model="vit"):
        seen.append(each)
        if len(seen) == 1 and world.embedder.watch is None:
            await until(lambda: world.embedder.watch is not None)
        if len(seen) <= len(STEPS_OF_THE_SERVER):
            assert world.embedder.watch is not None
            world.embedder.watch(0, STEPS_OF_THE_SERVER[len(seen) - 1])
        else:
            world.embedder.hold.set()

    *steps, last = seen
    assert [(s.stage, s.percent, s.done, s.total) for s in steps if isinstance(s, Progress)] == [
        ("queued", 0.0, 0, 0),
        ("preprocessing", 10.0, 1, 1),
        ("loading", 35.0, 1024, 2048),
        ("inference", 70.0, 3, 12),
    ]
    assert isinstance(last, Embedding)
    assert np.asarray(last).tolist() == vector_of(b"a picture")
    assert (last.key, last.timings) == ("vit@2.0.0-rc.1", TIMINGS)


async def test_progress_of_a_text(client: Client, world: World) -> None:
    seen = [each async for each in client.embed_with_progress(text="a", truncate=True)]

    assert isinstance(seen[-1], Embedding)
    assert seen[-1].tolist() == vector_of(b"a")
    assert world.embedder.asked[0].call.truncate


@pytest.mark.parametrize("error", [TORN, ModelNotFound("no such model")])
async def test_what_fails_on_the_way_is_raised(error: ModelMoraError, client: Client, world: World) -> None:
    world.embedder.fails = {b"torn": error}

    with pytest.raises(type(error)) as caught:
        [each async for each in client.embed_with_progress(b"torn")]
    assert caught.value.detail == error.detail


async def test_what_may_pass_is_tried_again(client: Client, world: World) -> None:
    world.embedder.fails = {b"new": ModelLoading("soon", retry_after_s=0.01)}

    async def fetch() -> None:
        await until(lambda: len(world.embedder.asked) > 0)
        world.embedder.fails = {}

    fetching = asyncio.create_task(fetch())
    seen = [each async for each in client.embed_with_progress(b"new")]
    await fetching

    assert isinstance(seen[-1], Embedding)
    assert len(world.embedder.asked) == 2


async def test_leaving_progress_early_frees_the_server(client: Client, world: World) -> None:
    world.embedder.hold = asyncio.Event()

    async with aclosing(client.embed_with_progress(b"a")) as news:
        await anext(news)
        await until(lambda: world.embedder.running == 1)

    await until(lambda: world.embedder.running == 0)


async def test_exactly_one_of_picture_and_text_is_given(client: Client) -> None:
    with pytest.raises(ValidationFailed, match="exactly one"):
        [each async for each in client.embed_with_progress(b"a", text="a")]


def test_the_sync_client_has_both_streams() -> None:
    script = Script(bad=frozenset({b"bad"}))
    with scripted(script) as url, SyncClient(url) as client:
        found = dict(client.generate_batch(iter([b"a", b"bad", b"b"])))
        *steps, last = client.embed_with_progress(b"a")

    assert {index: type(outcome) for index, outcome in found.items()} == {0: Ok, 1: Failed, 2: Ok}
    assert [(step.stage, step.percent) for step in steps if isinstance(step, Progress)] == [*PROGRESS]
    assert isinstance(last, Embedding)


async def test_a_progress_that_begins_again_does_not_fall_back() -> None:
    script = Script(troubles=overloaded(2))
    with scripted(script) as url:
        async with Client(url, retry=QUICK) as client:
            seen = [each async for each in client.embed_with_progress(b"a")]

    percents = [each.percent for each in seen if isinstance(each, Progress)]
    assert percents == sorted(percents)
    assert len(script.requests) == 3


def client_speaks_grpc(client: Client) -> bool:
    return client._address.wire == "grpc"
