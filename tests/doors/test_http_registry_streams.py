"""Files in and out over real sockets: callers who leave, fall silent or do not read, and files that are damaged."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from api.http import registry_streams
from tests.doors.client_doors import over_http
from tests.fakes import World, until
from tests.support import reserve_port

WEIGHTS = os.urandom(3 * 2**20 + 17)
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
UPLOAD = f"/api/v1/artifacts/{DIGEST}"
DOWNLOAD = "/api/v1/models/birds/versions/1.0.0/files/model/weights.safetensors"


@dataclass
class Served:
    """A server on a port, and what it keeps."""

    world: World
    port: int
    http: httpx.AsyncClient

    @property
    def place(self) -> Path:
        return self.world.kept.folder / "objects" / "sha256" / DIGEST[:2] / DIGEST

    def left(self) -> list[str]:
        """Everything that lies in the folder of the object store."""
        return sorted(file.name for file in (self.world.kept.folder / "objects").rglob("*") if file.is_file())

    def coming(self) -> bool:
        """Whether some of an upload has arrived."""
        return any((self.world.kept.folder / "objects" / "uploads").glob("*"))

    def held_open(self) -> list[str]:
        """The files of the object store that this process has open."""
        inside = str(self.world.kept.folder / "objects")
        return [file.path for file in psutil.Process().open_files() if file.path.startswith(inside)]


@pytest.fixture
async def served(world: World) -> AsyncIterator[Served]:
    port = reserve_port()
    async with over_http(world, port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
        yield Served(world, port, http)


async def begun(served: Served, *headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An upload whose body is still to come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    lines = (f"PUT {UPLOAD} HTTP/1.1", "host: modelmora.test", *headers, "", "")
    writer.write("\r\n".join(lines).encode())
    return reader, writer


async def test_a_file_goes_in_and_out_whole(served: Served) -> None:
    sent = await served.http.put(UPLOAD, content=WEIGHTS)
    await served.world.kept.registered(content=WEIGHTS)

    assert (sent.status_code, (await served.http.get(DOWNLOAD)).content) == (201, WEIGHTS)
    assert (await served.http.head(UPLOAD)).headers["content-length"] == str(len(WEIGHTS))
    assert served.held_open() == []


@pytest.mark.parametrize("chunked", [False, True], ids=["a length", "chunks"])
async def test_an_upload_that_is_cut_leaves_nothing_behind(chunked: bool, served: Served) -> None:
    how = "transfer-encoding: chunked" if chunked else f"content-length: {len(WEIGHTS)}"
    _, writer = await begun(served, how)
    half = WEIGHTS[: 2**20]
    writer.write(f"{len(half):x}\r\n".encode() + half + b"\r\n" if chunked else half)
    await writer.drain()
    await until(served.coming)

    writer.transport.abort()

    await until(lambda: served.left() == [])
    assert served.held_open() == []
    assert (await served.http.put(UPLOAD, content=WEIGHTS)).status_code == 201


async def test_an_upload_that_falls_silent_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_streams, "SILENCE_S", 0.2)
    reader, writer = await begun(served, f"content-length: {len(WEIGHTS)}")
    writer.write(WEIGHTS[: 2**20])

    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.read(2000)

    assert head.startswith(b"HTTP/1.1 504")
    assert b'"code":"deadline_exceeded"' in body
    assert served.left() == []
    writer.close()


async def test_other_bytes_than_announced_are_not_kept(served: Served) -> None:
    answer = await served.http.put(UPLOAD, content=WEIGHTS[:-1] + b"x")

    assert (answer.status_code, answer.json()["code"], served.left()) == (422, "validation", [])


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [flip, lambda content: b"x" + content[1:], lambda content: content[:-1], lambda content: content[: 2**21],
     lambda content: content + b"x", lambda content: content + bytes(2**20)],
    ids=["the last bit", "the first byte", "cut by a byte", "cut", "longer by a byte", "longer"],
)  # fmt: skip
async def test_a_damaged_file_does_not_arrive_whole(
    damage: object, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    await served.world.kept.registered(content=WEIGHTS)
    assert callable(damage)
    served.place.write_bytes(damage(WEIGHTS))

    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        await served.http.get(DOWNLOAD)

    assert "event=download_broken" in (logged := capsys.readouterr().out)
    assert "code=artifact_corrupt" in logged
    assert served.held_open() == []
    assert (await served.http.get("/livez")).status_code == 200


async def test_a_store_that_goes_away_in_mid_download_breaks_the_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served.world.kept.registered(content=WEIGHTS)
    real = served.world.kept.objects.get

    async def failing(sha256: str) -> AsyncIterator[bytes]:
        seen = 0
        async for chunk in real(sha256):
            yield chunk
            seen += 1
            if seen == 2:
                raise RuntimeError("a defect")

    monkeypatch.setattr(served.world.kept.objects, "get", failing)
    with pytest.raises(httpx.RemoteProtocolError):
        await served.http.get(DOWNLOAD)


async def reading(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A download of which nothing but the beginning is read; the file is larger than what sockets hold."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
    writer.write(f"GET {DOWNLOAD} HTTP/1.1\r\nhost: modelmora.test\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    return reader, writer


LARGE = bytes(32 * 2**20)


async def test_a_reader_who_leaves_lets_the_file_go(served: Served) -> None:
    await served.world.kept.registered(content=LARGE)
    _, writer = await reading(served)
    assert served.held_open()

    writer.transport.abort()

    await until(lambda: served.held_open() == [])


async def test_a_reader_who_does_not_read_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_streams, "SILENCE_S", 0.2)
    await served.world.kept.registered(content=LARGE)
    reader, writer = await reading(served)

    await until(lambda: served.held_open() == [])

    received = 0
    while chunk := await reader.read(2**20):
        received += len(chunk)
    assert received < len(LARGE)
    writer.close()
