"""Embedding through the client, over each wire, against servers that misbehave."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelmora.client import Client, Failed, Image, Ok, Retry, Text, unwrap
from modelmora.domain.inference import Timings
from modelmora.errors import (
    Cancelled,
    DeadlineExceeded,
    DependencyUnavailable,
    InternalError,
    InvalidInput,
    ModelMoraError,
    ModelNotFound,
    Overloaded,
    WrongState,
)
from tests.doors.client_script import Script, Seen, overloaded, vector_of
from tests.doors.client_servers import killed_server, server

QUICK = Retry(initial_s=0.001, max_s=0.01)


@pytest.fixture(params=["grpc", "http"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def client(wire: str, script: Script) -> AsyncIterator[Client]:
    with server(wire, script) as url:
        async with Client(url, retry=QUICK, timeout=10) as client:
            yield client


async def test_a_picture_comes_back_as_its_vector(client: Client) -> None:
    embedding = await client.generate_embedding(b"a picture", model="shapes-clip@2.0.0")
    assert embedding.data == vector_of(b"a picture")
    assert (embedding.key, embedding.dimension) == ("shapes-clip@2.0.0", 4)
    assert embedding.timings == Timings(queue_ms=1.5, preprocess_ms=2, inference_ms=30.25)
    assert embedding.total_ms == 35


async def test_a_path_and_a_text_are_sent_too(client: Client, tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"the bytes of a cat")
    assert (await client.generate_embedding(tmp_path / "cat.jpg")).data == vector_of(b"the bytes of a cat")
    assert (await client.generate_embedding(text="a red circle")).data == vector_of(b"a red circle")


async def test_each_of_many_callers_gets_its_own_embedding(client: Client) -> None:
    contents = [f"picture {i}".encode() for i in range(64)]
    embeddings = await asyncio.gather(*(client.generate_embedding(content) for content in contents))
    assert [embedding.data for embedding in embeddings] == [vector_of(content) for content in contents]


async def test_many_items_go_out_in_few_requests_and_keep_their_order(client: Client, script: Script) -> None:
    items = [Text(f"text {i}") if i % 3 else Image(f"picture {i}".encode()) for i in range(80)]
    outcomes = await client.generate_embeddings(items)
    contents = [item.text.encode() if isinstance(item, Text) else item.data for item in items]
    assert [unwrap(outcome).data for outcome in outcomes] == [vector_of(content) for content in contents]
    assert len(script.requests) <= 6


async def test_one_bad_item_of_many_fails_alone_and_says_why(client: Client, script: Script, tmp_path: Path) -> None:
    script.bad = frozenset({b"bad"})
    outcomes = await client.generate_embeddings([b"good", b"bad", tmp_path / "not there", b"fine"])
    good, bad, absent, fine = outcomes
    assert isinstance(good, Ok)
    assert isinstance(fine, Ok)
    assert isinstance(bad, Failed)
    assert bad.error.code == "invalid_input"
    assert (bad.error.field, bad.error.found, bad.error.expected) == ("image", "12 bytes", "a whole picture")
    assert isinstance(absent, Failed)
    assert "not there: No such file" in absent.error.detail
    assert sorted(script.embedded) == [b"bad", b"fine", b"good"]


async def test_a_single_bad_item_is_raised_and_not_sent_again(client: Client, script: Script) -> None:
    script.bad = frozenset({b"bad"})
    with pytest.raises(InvalidInput, match="cut off"):
        await client.generate_embedding(b"bad")
    assert len(script.requests) == 1


async def test_an_overloaded_server_is_asked_again_under_the_same_request_id(client: Client, script: Script) -> None:
    script.troubles = overloaded(2)
    assert (await client.generate_embedding(b"x")).data == vector_of(b"x")
    assert len(script.requests) == 3
    assert len({seen.headers["x-request-id"] for seen in script.requests}) == 1


async def test_the_server_says_how_long_to_wait(client: Client, script: Script) -> None:
    script.troubles = overloaded(1, retry_after_s=0.3)
    began = time.monotonic()
    await client.generate_embedding(b"x")
    assert time.monotonic() - began >= 0.3


async def test_a_wait_beyond_the_deadline_is_not_begun(client: Client, script: Script) -> None:
    script.troubles = overloaded(1, retry_after_s=30)
    began = time.monotonic()
    with pytest.raises(Overloaded) as caught:
        await client.generate_embedding(b"x")
    assert caught.value.retry_after_s == 30
    assert time.monotonic() - began < 5


async def test_an_unknown_model_is_not_asked_for_again(client: Client, script: Script) -> None:
    script.troubles = deque([ModelNotFound("no model 'x'")])
    with pytest.raises(ModelNotFound, match="no model 'x'"):
        await client.generate_embedding(b"x", model="x")
    assert len(script.requests) == 1


async def test_a_slow_server_meets_the_deadline(client: Client, script: Script) -> None:
    with held(script):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await client.generate_embedding(b"x", timeout=0.2)
        assert 0.2 <= time.monotonic() - began < 3


async def test_a_server_that_breaks_its_own_promise_is_an_internal_error(client: Client, script: Script) -> None:
    script.declared = 512
    with pytest.raises(InternalError, match="declared 512 float32 components and sent 16 bytes") as caught:
        await client.generate_embedding(b"x")
    assert caught.value.__notes__ == [f"request {script.requests[0].headers['x-request-id']}"]


async def test_priority_deadline_and_truncation_travel_along(wire: str, script: Script) -> None:
    with server(wire, script) as url:
        async with Client(url, token="secret", timeout=10) as client:
            await client.generate_embedding(text="x", truncate=True)
            [_ async for _ in client.embed_many([Text("x")])]
    one, many = script.requests
    assert one.truncate
    assert (one.headers["x-modelmora-priority"], many.headers["x-modelmora-priority"]) == ("interactive", "bulk")
    assert one.headers["authorization"] == "Bearer secret"
    assert wire == "grpc" or 9_000 < int(one.headers["x-modelmora-timeout-ms"]) <= 10_000


async def test_a_refused_connection_names_the_server(wire: str) -> None:
    async with Client(f"{wire}://127.0.0.1:{free_port()}", retry=Retry(retries=1, initial_s=0.001)) as client:
        with pytest.raises(DependencyUnavailable, match=r"no answer from .*127\.0\.0\.1") as caught:
            await client.generate_embedding(b"x")
    assert caught.value.field == "url"


async def test_a_server_that_comes_up_later_is_waited_for(wire: str, script: Script) -> None:
    port, tried = free_port(), asyncio.Event()

    class Noting(Retry):
        def decide(self, attempt: int, error: ModelMoraError, *, remaining_s: float, rand: float) -> float | None:
            tried.set()
            return super().decide(attempt, error, remaining_s=remaining_s, rand=rand)

    async with Client(f"{wire}://127.0.0.1:{port}", retry=Noting(initial_s=0.01, max_s=0.1), timeout=20) as client:
        waiting = asyncio.create_task(client.generate_embedding(b"x"))
        await tried.wait()
        with server(wire, script, port=port):
            assert (await waiting).data == vector_of(b"x")


async def test_a_server_killed_in_the_middle_is_asked_again_when_it_is_back(wire: str, script: Script) -> None:
    port = free_port()
    async with Client(f"{wire}://127.0.0.1:{port}", retry=QUICK, timeout=20) as client:
        with killed_server(wire, port=port) as kill:
            waiting = asyncio.create_task(client.generate_embedding(b"x"))
            await asyncio.to_thread(kill)
            with server(wire, script, port=port):
                assert (await waiting).data == vector_of(b"x")


async def test_only_what_failed_for_a_passing_reason_is_sent_again(client: Client, script: Script) -> None:
    script.bad = frozenset({b"bad"})
    script.troubles = overloaded(1)
    outcomes = await client.generate_embeddings([b"good", b"bad"])
    assert [type(outcome) for outcome in outcomes] == [Ok, Failed]
    assert len(script.requests) == 2


async def test_a_closed_client_says_so(client: Client) -> None:
    await client.generate_embedding(b"x")
    await client.close()
    await client.close()
    with pytest.raises(WrongState, match="closed"):
        await client.generate_embedding(b"x")
    with pytest.raises(WrongState, match="closed"):
        await client.models()


async def test_a_caller_who_leaves_is_cancelled_at_once(client: Client, script: Script) -> None:
    with held(script) as reached:
        waiting = asyncio.create_task(client.generate_embedding(b"x"))
        await asyncio.to_thread(reached.wait, 10)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_calls_that_run_while_the_client_is_closed_end_as_cancelled(wire: str, script: Script) -> None:
    with held(script) as reached, server(wire, script) as url:
        client = Client(url, retry=QUICK)
        waiting = asyncio.create_task(client.generate_embedding(b"x"))
        await asyncio.to_thread(reached.wait, 10)
        await client.close()
        with pytest.raises(Cancelled, match="closed"):
            await waiting


async def test_grpc_calls_go_over_several_connections_in_turn(script: Script) -> None:
    with server("grpc", script) as url:
        async with Client(url, channels=3) as client:
            for _ in range(6):
                await client.generate_embedding(b"x")
    peers = [seen.peer for seen in script.requests]
    assert peers[:3] == peers[3:]
    assert len(set(peers)) == 3


async def test_a_grpc_client_at_an_http_port_fails_with_an_error_of_ours(script: Script) -> None:
    with server("http", script) as url:
        async with Client(url.replace("http://", "grpc://"), retry=Retry(retries=0)) as client:
            with pytest.raises(ModelMoraError):
                await client.generate_embedding(b"x", timeout=10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class held:
    """While it lasts, requests are taken and not answered; gives the event that one was taken."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._reached, self._release = threading.Event(), threading.Event()

    def __enter__(self) -> threading.Event:
        self._script.before = self._hold
        return self._reached

    def __exit__(self, *_: object) -> None:
        self._release.set()

    def _hold(self, seen: Seen) -> None:
        self._reached.set()
        self._release.wait(10)
