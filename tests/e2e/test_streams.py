"""Streams through real processes: bounded memory, progress of a model that is loaded first, callers who leave."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing

import grpc
import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from modelmora.client import Client, Embedding, Ok, Progress, Text
from modelmora.proto import inference_pb2, inference_pb2_grpc, types_pb2
from tests.e2e.serving import Server

COUNT = 300
BOUNDED = 100 * 2**20
"""The window of a stream (32 MiB) several times over, in its stages; all pictures together are 300 MB."""

SLOW = """
version: 1
models:
  - {name: noop, version: 1.0.0, type: embedding, provider: noop, source: "bundled:noop", default: true,
     config: {delay_ms: 250, image_size: 8}, batching: {max_batch: 1}}
"""


def pictures(count: int) -> Iterator[bytes]:
    """Noise of about a megabyte each; no two are the same, since bytes after the end of a PNG belong to no picture."""
    noise = np.random.default_rng(7).integers(0, 256, (590, 590, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG", compress_level=1)
    for number in range(count):
        yield buffer.getvalue() + number.to_bytes(4, "big")


@contextlib.contextmanager
def growth(server: Server) -> Iterator[Callable[[], int]]:
    """While it lasts the API worker is measured; the function gives by how many bytes it grew at most."""
    (api,) = server.workers("modelmora")
    before = psutil.Process(api.pid).memory_info().rss
    peak, over = before, threading.Event()

    def measure() -> None:
        nonlocal peak
        while not over.wait(0.02):
            peak = max(peak, api.memory_info().rss)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield lambda: peak - before
    finally:
        over.set()
        thread.join()


def over_grpc(server: Server, count: int) -> list[int]:
    """One call, fed as fast as it takes it; the indices answered with a vector."""

    def messages() -> Iterator[inference_pb2.BatchRequest]:
        for picture in pictures(count):
            yield inference_pb2.BatchRequest(items=[types_pb2.Item(image=picture)])

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answers = inference_pb2_grpc.ModelInferenceStub(channel).GenerateBatch(messages(), timeout=110)
        results = [each.result for answer in answers for each in answer.results]
    return [result.index for result in results if result.WhichOneof("outcome") == "embedding"]


def over_http(server: Server, count: int) -> list[int]:
    """One request, sent to its end before a line is read."""

    def form() -> Iterator[bytes]:
        for number, picture in enumerate(pictures(count)):
            yield (
                f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{number}.png"\r\n\r\n'.encode()
                + picture
                + b"\r\n"
            )
        yield b"--edge--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=edge"}
    answer = httpx.post(f"{server.url}/v1/embed/batch", content=form(), headers=headers, timeout=110)
    assert answer.status_code == 200, answer.text
    *lines, last = [json.loads(line) for line in answer.text.splitlines()]
    assert last == {"done": True, "items": count, "failed": 0}
    return [line["index"] for line in lines if line["filename"] == f"{line['index']}.png"]


@pytest.mark.parametrize("send", [over_grpc, over_http])
def test_hundreds_of_pictures_go_through_one_call_with_bounded_memory(
    send: Callable[[Server, int], list[int]], shipped: Server
) -> None:
    send(shipped, 64)  # the first ones make the threads and buffers that stay

    with growth(shipped) as grown:
        answered = send(shipped, COUNT)

    assert sorted(answered) == list(range(COUNT))
    assert grown() < BOUNDED, f"{grown() / 2**20:.0f} MiB"


@pytest.mark.parametrize("wire", ["grpc", "http"])
async def test_progress_of_a_model_that_is_loaded_first_never_falls(wire: str, shipped: Server) -> None:
    seen: list[Progress | Embedding] = []

    async with Client(shipped.grpc_url if wire == "grpc" else shipped.url, control_url=shipped.url) as client:
        assert (await client.unload("shapes-clip")).state == "unloaded"
        async for each in client.embed_with_progress(next(pictures(1)), timeout=60):
            seen.append(each)

    steps = [each for each in seen if isinstance(each, Progress)]
    assert isinstance(seen[-1], Embedding)
    assert len(steps) == len(seen) - 1
    assert [step.percent for step in steps] == sorted(step.percent for step in steps)
    assert {"queued", "preprocessing", "loading", "inference"} >= {step.stage for step in steps} >= {"loading"}


@pytest.fixture
def slow(start_server: Callable[..., Server]) -> Server:
    """Four items a second."""
    server = start_server(registry=SLOW)
    server.wait_ready()
    return server


def soon(server: Server) -> float:
    """Seconds until one more item, queued behind all there is, is answered."""
    began = time.monotonic()
    headers = {"x-modelmora-priority": "bulk"}
    answer = httpx.post(f"{server.url}/v1/embed/text", json={"texts": ["one more"]}, headers=headers, timeout=60)
    assert answer.status_code == 200
    return time.monotonic() - began


async def test_callers_who_leave_free_the_work_they_asked_for(slow: Server) -> None:
    async with Client(slow.grpc_url) as client, aclosing(client.generate_batch(texts(200))) as answers:
        for _ in range(3):
            _, outcome = await anext(answers)
            assert isinstance(outcome, Ok)
    assert soon(slow) < 5  # not the quarter of a minute that the window's items take

    for path, body in (("/v1/embed/text", {"texts": ["a"] * 60}), ("/v1/embeddings", {"input": ["a"] * 60})):
        leave_waiting(slow, path, json.dumps(body).encode(), kind="application/json")
        assert soon(slow) < 5, path
    for rest in (b"", b"--edge--\r\n"):  # while the body arrives, and after
        leave_waiting(
            slow, "/v1/embed/batch", files(60) + rest, kind="multipart/form-data; boundary=edge", more=not rest
        )
        assert soon(slow) < 5, rest


async def texts(count: int) -> AsyncIterator[Text]:
    for number in range(count):
        yield Text(f"text {number}")


def files(count: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    head = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return (head + buffer.getvalue() + b"\r\n") * count


def leave_waiting(server: Server, path: str, body: bytes, *, kind: str, more: bool = False) -> None:
    """A request over a connection that is closed once its first items are being worked on; `more` was to come."""
    length = len(body) + 1_000 * more
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n"
    with socket.create_connection(("127.0.0.1", server.http_port)) as connection:
        connection.sendall(f"{head}x-modelmora-priority: bulk\r\n\r\n".encode() + body)
        connection.settimeout(0.6)
        with contextlib.suppress(TimeoutError):
            connection.recv(1)
