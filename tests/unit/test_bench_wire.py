"""What the benchmark's callers send, and how they read what comes back."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterable
from email.parser import BytesParser
from email.policy import HTTP

import numpy as np
import pytest
from PIL import Image

from load.bench import answers, zipf
from load.bench.connection import BrokenOff, Connection
from load.bench.payloads import drawn, is_bad, mixed, picture_json, picture_uploads, text_requests
from load.bench.pictures import unique


@pytest.fixture
def jpeg() -> bytes:
    sink = io.BytesIO()
    Image.effect_noise((64, 48), 80).convert("RGB").save(sink, "JPEG", quality=85)
    return sink.getvalue()


def split(parts: Iterable[bytes]) -> tuple[str, bytes]:
    """Head and body of a request."""
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    return head.decode(), body


def test_no_two_requests_carry_the_same_bytes_but_the_same_picture(jpeg: bytes) -> None:
    one, other = unique(jpeg, 1), unique(jpeg, 2)
    assert one != other
    assert len(one) == len(other) == len(jpeg) + 12
    with Image.open(io.BytesIO(one)) as mine, Image.open(io.BytesIO(jpeg)) as original:
        assert mine.tobytes() == original.tobytes()
        assert mine.info["comment"] == b"00000001"


def test_an_upload_is_a_multipart_form_of_the_length_it_says(jpeg: bytes) -> None:
    request = picture_uploads("/v1/embed/image", [jpeg], file_field="files", fields={"model": "clip"})
    head, body = split(request(7))
    assert head.startswith("POST /v1/embed/image HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}" in head
    kind = next(line for line in head.splitlines() if line.startswith("Content-Type"))
    form = BytesParser(policy=HTTP).parsebytes(kind.encode() + b"\r\n\r\n" + body)
    fields = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}
    assert fields["model"].get_payload() == "clip"
    assert fields["files"].get_payload(decode=True) == unique(jpeg, 7)


def test_a_text_request_stays_under_a_hundred_bytes_and_never_repeats() -> None:
    request = text_requests("/v1/embed/text", "noop")
    bodies = {split(request(number))[1] for number in range(100)}
    assert len(bodies) == 100
    assert {len(body) for body in bodies} == {len(b'{"texts":["text 00000000"],"model":"noop"}')}


def test_a_picture_in_json_is_the_same_picture_in_bytes_of_its_own(jpeg: bytes) -> None:
    request = picture_json("/predict", [jpeg], before=b'{"image":"', after=b'"}')
    head, body = split(request(7))
    assert f"Content-Length: {len(body)}" in head
    assert base64.b64decode(json.loads(body)["image"], validate=True) == unique(jpeg, 7)


def test_bad_requests_stand_among_good_ones_in_a_fixed_rhythm() -> None:
    good, bad = text_requests("/", "noop"), text_requests("/", "noop", word="evil")
    bodies = [split(mixed(good, bad, every=10)(number))[1] for number in range(20)]
    assert [b"evil" in body for body in bodies] == [is_bad(number, 10) for number in range(20)]
    assert sum(is_bad(number, 10) for number in range(1000)) == 100
    assert not any(is_bad(number, 0) for number in range(100))


def test_each_request_names_the_model_that_is_drawn_for_it() -> None:
    names = ["zoo-0", "zoo-1", "zoo-2"]
    request = drawn([text_requests("/", name) for name in names], names)
    models = [json.loads(split(request(number))[1])["model"] for number in range(200)]
    assert models == [names[zipf.draw(number, 3)] for number in range(200)]


def test_the_first_model_is_asked_for_twice_as_often_as_the_second() -> None:
    draws = [zipf.draw(number, 6) for number in range(60_000)]
    counts = [draws.count(model) for model in range(6)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] / counts[1] == pytest.approx(2.0, rel=0.05)
    assert counts[0] / counts[5] == pytest.approx(6.0, rel=0.1)


def test_each_party_answers_in_its_own_way() -> None:
    assert answers.reader("litserve-tuned")(b'{"embedding": [0.6, 0.8]}') == pytest.approx([0.6, 0.8])
    assert answers.reader("bentoml")(b"[[0.6, 0.8]]") == pytest.approx([0.6, 0.8])
    with pytest.raises(ValueError, match="no embedding"):
        answers.reader("litserve")(b'{"detail": "Internal server error"}')


def test_our_answer_is_read_in_base64_and_as_numbers() -> None:
    data = base64.b64encode(np.array([0.6, 0.8], dtype="<f4").tobytes())
    assert answers.ours(b'{"data":[{"index":0,"embedding":"' + data + b'"}]}') == pytest.approx([0.6, 0.8])
    assert answers.ours(b'{"data":[{"index":0,"embedding":[0.6,0.8]}]}') == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b'{"data":[]}',
        b'{"data":[{"index":0,"error":{"code":"internal"}}]}',
        b'{"data":[{"embedding":[0,0]}]}',
    ],
)
def test_an_answer_without_an_embedding_is_no_answer(body: bytes) -> None:
    with pytest.raises(ValueError, match="embedding"):
        answers.ours(body)


def test_vectors_of_different_sizes_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="not of one model"):
        answers.cosine(answers.checked([1.0, 0.0]), answers.checked([1.0, 0.0, 0.0]))
    assert answers.cosine(answers.checked([1.0, 0.0]), answers.checked([2.0, 0.0])) == pytest.approx(1.0)


class Wire(asyncio.Transport):
    """The far end of a connection, without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.written += b"".join(list_of_data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def connection(wire: Wire) -> Connection:
    connection = Connection("127.0.0.1", 1)
    connection.connection_made(wire)
    return connection


async def exchange(connection: Connection, *received: bytes) -> tuple[int, bytes]:
    """Sends a request and lets the answer arrive in these pieces."""
    asked = asyncio.ensure_future(connection.exchange([b"GET ", b"/"]))
    await asyncio.sleep(0)
    for piece in received:
        connection.data_received(piece)
    return await asked


async def test_an_answer_is_put_together_from_its_pieces(connection: Connection, wire: Wire) -> None:
    got = await exchange(connection, b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 4\r\n\r\nab", b"cd")
    assert got == (200, b"abcd")
    assert wire.written == b"GET /"


async def test_a_chunked_answer_is_read_too(connection: Connection) -> None:
    chunked = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    assert await exchange(connection, chunked) == (503, b"ab")


async def test_a_connection_serves_one_request_after_another(connection: Connection, wire: Wire) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    assert await exchange(connection, answer + b"a") == (200, b"a")
    assert await exchange(connection, answer + b"b") == (200, b"b")
    assert not wire.closed


async def test_a_connection_the_server_wants_closed_is_closed(connection: Connection, wire: Wire) -> None:
    await exchange(connection, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert wire.closed


async def test_a_connection_lost_while_an_answer_is_due_is_a_failure(connection: Connection) -> None:
    asked = asyncio.ensure_future(connection.exchange([b"GET /"]))
    await asyncio.sleep(0)
    connection.connection_lost(None)
    with pytest.raises(BrokenOff, match="closed the connection"):
        await asked


async def test_an_answer_that_is_not_http_is_a_failure(connection: Connection, wire: Wire) -> None:
    with pytest.raises(BrokenOff, match="not HTTP"):
        await exchange(connection, b"SSH-2.0-OpenSSH\r\n")
    assert wire.closed
