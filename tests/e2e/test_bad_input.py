"""Rubbish through both faces: each a clear 4xx for that item alone, never a 500, never a dead worker."""

from __future__ import annotations

import asyncio
import base64
import io
import random
import string
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any, cast

import grpc
import httpx
import pytest
from PIL import Image

from modelmora.proto import inference_pb2, inference_pb2_grpc
from tests.e2e.serving import ROOT, Server

JPEG = sorted((ROOT / "docs" / "pictures").glob("*.jpg"))[0].read_bytes()
MUTANTS = 200
BELOW = range(400, 500)


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, format_, **options)
    return data.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes whose header announces 50,000 x 50,000 pixels."""
    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


PICTURE = Image.radial_gradient("L").resize((90, 60)).convert("RGB")
BAD_PICTURES = {
    "empty": (b"", 400, "invalid_input"),
    "truncated": (JPEG[: len(JPEG) // 2], 400, "invalid_input"),
    "text": (b"no picture at all", 415, "unsupported_media"),
    "pdf": (b"%PDF-1.7 ...", 415, "unsupported_media"),
    "bomb": (bomb(), 413, "limit_exceeded"),
}
GOOD_PICTURES = {
    "exif-rotated": encoded(
        PICTURE, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
    "cmyk": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "16-bit": encoded(Image.linear_gradient("L").convert("I;16"), "PNG"),
    "palette": encoded(PICTURE.convert("P"), "GIF"),
    "animated": encoded(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(90)]),
    "rgba": encoded(PICTURE.convert("RGBA"), "PNG"),
    "1x1": encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
    "20,000 wide": encoded(Image.new("RGB", (20_000, 20), "blue"), "PNG"),
}


def post_pictures(server: Server, *pictures: bytes) -> httpx.Response:
    files = [("files", (f"{i}.jpg", picture)) for i, picture in enumerate(pictures)]
    return httpx.post(f"{server.url}/v1/embed/image", files=files, timeout=30)


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_fails_clearly_alone_and_beside_a_good_one(shipped: Server, name: str) -> None:
    picture, status, code = BAD_PICTURES[name]
    alone = post_pictures(shipped, picture)
    assert (alone.status_code, alone.json()["code"]) == (status, code)
    rows = post_pictures(shipped, JPEG, picture, JPEG).json()["data"]
    assert rows[1]["error"]["code"] == code
    assert rows[0]["embedding"] == pytest.approx(rows[2]["embedding"], abs=1e-5)


@pytest.mark.parametrize("name", GOOD_PICTURES)
def test_an_odd_picture_gets_its_vector(shipped: Server, name: str) -> None:
    answer = post_pictures(shipped, GOOD_PICTURES[name])
    assert answer.status_code == 200, answer.text


BAD_BODIES: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "not json": ("/v1/embed/text", {"content": b"{"}, 400, "invalid_input"),
    "no object": ("/v1/embed/text", {"json": [1]}, 422, "validation"),
    "no texts": ("/v1/embed/text", {"json": {}}, 422, "validation"),
    "empty list": ("/v1/embed/text", {"json": {"texts": []}}, 422, "validation"),
    "no string": ("/v1/embed/text", {"json": {"texts": [1]}}, 422, "validation"),
    "empty text": ("/v1/embed/text", {"json": {"texts": [""]}}, 422, "validation"),
    "lone surrogate": ("/v1/embed/text", {"content": b'{"texts": ["\\ud800"]}'}, 400, "invalid_input"),
    "too many words": ("/v1/embed/text", {"json": {"texts": ["red " * 100]}}, 422, "validation"),
    "too long": ("/v1/embed/text", {"json": {"texts": ["x" * 2001]}}, 413, "limit_exceeded"),
    "too many": ("/v1/embed/text", {"json": {"texts": ["x"] * 257}}, 413, "limit_exceeded"),
    "unknown model": ("/v1/embed/text", {"json": {"texts": ["x"], "model": "no-such"}}, 404, "model_not_found"),
    "unknown version": (
        "/v1/embed/text",
        {"json": {"texts": ["x"], "model": "shapes-clip@9.0.0"}},
        404,
        "version_not_found",
    ),
    "no model name": ("/v1/embed/text", {"json": {"texts": ["x"], "model": "../etc"}}, 422, "validation"),
    "wrong type": (
        "/v1/embed/text",
        {"content": b"x", "headers": {"content-type": "text/plain"}},
        415,
        "unsupported_media",
    ),
    "no form": ("/v1/embed/image", {"json": {}}, 415, "unsupported_media"),
    "no files": ("/v1/embed/image", {"files": {"pictures": b"x"}}, 422, "validation"),
    "broken form": (
        "/v1/embed/image",
        {"content": b"rubbish", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        400,
        "invalid_input",
    ),
    "no boundary": (
        "/v1/embed/image",
        {"content": b"rubbish", "headers": {"content-type": "multipart/form-data"}},
        400,
        "invalid_input",
    ),
    "no base64": ("/v1/embeddings", {"json": {"input": "data:image/png;base64,@@"}}, 400, "invalid_input"),
    "no input": ("/v1/embeddings", {"json": {"model": "shapes-clip"}}, 422, "validation"),
    "token ids": ("/v1/embeddings", {"json": {"input": [[1, 2]]}}, 422, "validation"),
    "bad timeout": (
        "/v1/embed/text",
        {"json": {"texts": ["x"]}, "headers": {"x-modelmora-timeout-ms": "soon"}},
        422,
        "validation",
    ),
    "no such route": ("/v1/embed/sound", {"json": {}}, 404, "invalid_input"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_request_says_what_is_wrong(shipped: Server, name: str) -> None:
    path, request, status, code = BAD_BODIES[name]
    answer = httpx.post(f"{shipped.url}{path}", timeout=30, **request)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_a_body_over_the_limit_is_refused_whether_its_length_is_told_or_not(shipped: Server) -> None:
    size = 65 * 2**20

    def chunks() -> Iterator[bytes]:
        for _ in range(65):
            yield bytes(2**20)

    headers = {"content-type": "application/octet-stream"}
    for content in (bytes(size), chunks()):
        try:
            answer = httpx.post(f"{shipped.url}/v1/embed/image", content=content, headers=headers, timeout=60)
        except httpx.WriteError:  # the server closed while we still sent: its answer is lost with the connection
            continue
        assert (answer.status_code, answer.json()["code"]) == (413, "limit_exceeded")


def test_twenty_thousand_letters_are_refused_at_once(shipped: Server) -> None:
    letters = "".join(random.Random(1).choices(string.ascii_letters, k=20_000))
    started = time.monotonic()
    answer = httpx.post(f"{shipped.url}/v1/embed/text", json={"texts": [letters]})
    assert (answer.status_code, answer.json()["code"]) == (413, "limit_exceeded")
    assert time.monotonic() - started < 1.0


def test_embeddings_are_all_or_nothing_unless_partial_is_asked_for(shipped: Server) -> None:
    uri = "data:image/jpeg;base64," + base64.b64encode(b"no picture").decode()
    body: dict[str, Any] = {"input": ["a red circle", uri, "a blue star", uri]}
    whole = httpx.post(f"{shipped.url}/v1/embeddings", json=body)
    assert whole.status_code == 415
    assert [error["index"] for error in whole.json()["errors"]] == [1, 3]
    assert whole.json()["error"]["code"] == "unsupported_media"
    part = httpx.post(f"{shipped.url}/v1/embeddings", json={**body, "partial": True})
    assert part.status_code == 200
    assert ["error" in row for row in part.json()["data"]] == [False, True, False, True]


def mutants() -> list[bytes]:
    """Seeded: bytes flipped, cut, doubled, swapped, in files of every format."""
    rng = random.Random(7)
    sources = [
        JPEG,
        encoded(PICTURE, "PNG"),
        encoded(PICTURE, "WEBP"),
        encoded(PICTURE, "GIF"),
        encoded(PICTURE, "TIFF"),
    ]
    made = []
    for number in range(MUTANTS):
        data = bytearray(sources[number % len(sources)])
        for _ in range(rng.randint(1, 12)):
            place = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[place] = rng.randrange(256)
                case 1:
                    del data[place : place + rng.randint(1, 40)]
                case 2:
                    data[place:place] = data[max(0, place - 20) : place]
                case 3:
                    data[place : place + 4] = rng.randbytes(4)
            data = data or bytearray(b"\0")
        made.append(bytes(data))
    return made


async def test_two_hundred_mutated_files_harm_nobody_on_either_face(shipped: Server) -> None:
    runners = {p.pid for p in shipped.engines()}
    expected = post_pictures(shipped, JPEG).json()["data"][0]["embedding"]
    limits = httpx.Limits(max_connections=16)
    async with (
        httpx.AsyncClient(base_url=shipped.url, timeout=60, limits=limits) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{shipped.grpc_port}") as channel,
    ):
        stub = cast("inference_pb2_grpc.ModelInferenceAsyncStub", inference_pb2_grpc.ModelInferenceStub(channel))

        async def over_http(mutant: bytes) -> int:
            return (await client.post("/v1/embed/image", files={"files": ("m.jpg", mutant)})).status_code

        async def over_grpc(mutant: bytes) -> str:
            request = inference_pb2.EmbeddingRequest()
            request.items.add(image=mutant)
            request.items.add(image=JPEG)
            answer = await stub.GenerateEmbedding(request, timeout=60)
            assert answer.results[1].WhichOneof("outcome") == "embedding"
            return str(answer.results[0].error.code)

        made = mutants()
        statuses = await asyncio.gather(*(over_http(mutant) for mutant in made))
        codes = await asyncio.gather(*(over_grpc(mutant) for mutant in made))
    assert all(status == 200 or status in BELOW for status in statuses), set(statuses)
    assert set(codes) <= {"", "invalid_input", "unsupported_media", "limit_exceeded"}
    assert any(status != 200 for status in statuses)
    assert [bool(code) for code in codes] == [status != 200 for status in statuses]
    assert {p.pid for p in shipped.engines()} == runners
    assert post_pictures(shipped, JPEG).json()["data"][0]["embedding"] == pytest.approx(expected, abs=1e-5)
