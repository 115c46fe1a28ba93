"""`embed_many`: streams of any length with bounded memory and failures inside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from modelmora.client import Client, Failed, Ok, Retry, SyncClient, unwrap
from modelmora.errors import ValidationFailed, WrongState
from tests.doors.client_script import Script, Seen, overloaded, vector_of
from tests.doors.client_servers import grpc_server

QUICK = Retry(initial_s=0.001, max_s=0.01)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    with grpc_server(script) as url:
        yield url


def contents(count: int) -> list[bytes]:
    return [f"picture {i}".encode() for i in range(count)]


async def test_results_come_in_the_order_of_the_items_with_failures_in_their_place(url: str, script: Script) -> None:
    script.bad = frozenset({b"picture 3"})
    async with Client(url) as client:
        answers = [answer async for answer in client.embed_many(contents(40), concurrency=8)]
    assert [index for index, _ in answers] == list(range(40))
    assert [index for index, outcome in answers if isinstance(outcome, Failed)] == [3]
    assert all(
        outcome.value.data == vector_of(content)
        for content, (_, outcome) in zip(contents(40), answers, strict=True)
        if isinstance(outcome, Ok)
    )


async def test_a_slow_one_delays_nobody_when_order_does_not_matter(url: str, script: Script) -> None:
    others_are_done = threading.Event()

    def hold_the_first(seen: Seen) -> None:
        if seen.items == (b"picture 0",):
            others_are_done.wait(10)

    script.before = hold_the_first
    order = []
    async with Client(url) as client:
        async for index, _ in client.embed_many(contents(20), concurrency=4, ordered=False):
            order.append(index)
            if len(order) == 19:
                others_are_done.set()
    assert order[-1] == 0
    assert sorted(order) == list(range(20))


async def test_an_async_source_is_answered_while_it_still_waits_for_more(url: str) -> None:
    first_answer = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"first"
        await first_answer.wait()
        yield b"second"

    seen = []
    async with Client(url) as client:
        async for _, outcome in client.embed_many(source(), concurrency=8):
            seen.append(unwrap(outcome).data)
            first_answer.set()
    assert seen == [vector_of(b"first"), vector_of(b"second")]


async def test_no_more_items_are_taken_than_may_run_at_once(url: str) -> None:
    taken = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        for content in contents(100):
            taken += 1
            yield content

    async with Client(url) as client:
        handed_out = 0
        async for _ in client.embed_many(source(), concurrency=5):
            handed_out += 1
            assert taken <= handed_out + 5
    assert handed_out == 100


async def test_each_item_is_tried_again_on_its_own(url: str, script: Script) -> None:
    script.troubles = overloaded(5)
    async with Client(url, retry=QUICK) as client:
        outcomes = [outcome async for _, outcome in client.embed_many(contents(10))]
    assert all(isinstance(outcome, Ok) for outcome in outcomes)
    assert len(script.requests) == 15


async def test_leaving_early_leaves_nothing_running(url: str, script: Script) -> None:
    async with Client(url) as client:
        async with aclosing(client.embed_many(contents(1000), concurrency=4)) as answers:
            async for index, _ in answers:
                if index == 3:
                    break
        assert not [task for task in asyncio.all_tasks() if "Flow" in repr(task)]
    assert len(script.requests) <= 9


async def test_a_source_that_fails_ends_the_stream_with_its_own_error(url: str) -> None:
    def source() -> Iterator[bytes]:
        yield b"fine"
        raise LookupError("the list is gone")

    async with Client(url) as client:
        with pytest.raises(LookupError, match="the list is gone"):
            [answer async for answer in client.embed_many(source())]


async def test_a_concurrency_of_nothing_is_refused(url: str) -> None:
    async with Client(url) as client:
        with pytest.raises(ValidationFailed, match="concurrency must be above 0"):
            [answer async for answer in client.embed_many([b"x"], concurrency=0)]


def test_the_sync_client_does_the_same_without_an_event_loop(url: str, script: Script, tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"cat")
    script.bad = frozenset({b"picture 1"})
    with SyncClient(url) as client:
        assert client.generate_embedding(tmp_path / "cat.jpg", model="a").data == vector_of(b"cat")
        assert [type(outcome) for outcome in client.generate_embeddings(contents(3))] == [Ok, Failed, Ok]
        assert [index for index, _ in client.embed_many(iter(contents(30)), concurrency=3)] == list(range(30))


def test_the_sync_client_serves_several_threads(url: str) -> None:
    found: dict[bytes, bytes] = {}
    with SyncClient(url) as client:

        def ask(content: bytes) -> None:
            found[content] = client.generate_embedding(content).data

        threads = [threading.Thread(target=ask, args=(content,)) for content in contents(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {content: vector_of(content) for content in contents(16)}


def test_a_stream_of_the_sync_client_may_be_left_early(url: str) -> None:
    with SyncClient(url) as client:
        for index, _ in client.embed_many(contents(100), concurrency=2):
            if index == 2:
                break
        assert client.generate_embedding(b"x").data == vector_of(b"x")


def test_a_closed_sync_client_says_so_and_leaves_no_thread(url: str) -> None:
    client = SyncClient(url)
    client.generate_embedding(b"x")
    client.close()
    client.close()
    with pytest.raises(WrongState, match="closed"):
        client.generate_embedding(b"x")
    assert not [thread for thread in threading.enumerate() if thread.name == "modelmora-client"]
