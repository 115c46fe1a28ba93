"""Pictures kept and searched on real servers: alone, over a restart, and over Kafka by a subscriber of its own."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from minio import Minio

from adapters.events.kafka import Cluster
from adapters.events.kafka_publisher import KafkaPublisher
from load.components.kafka import Kafka
from modelmora.domain.events.codec import to_kept_parts
from modelmora.domain.events.images import registered
from modelmora.ids import new_id
from tests.contracts.conftest import postgres_server
from tests.contracts.object_store import served
from tests.e2e.serving import ROOT, Server, environment, serve
from tests.pictures import digest, drawing, picture
from tests.support import components, end, reserve_port, start, wait_until

pytestmark = pytest.mark.timeout(300)
SHAPES = [(colour, shape) for colour in ("red", "green", "blue") for shape in ("circle", "square")]


def upload(server: Server, *pictures: tuple[str, bytes], **form: str) -> httpx.Response:
    files = [("files", (name, data, "image/png")) for name, data in pictures]
    return httpx.post(f"{server.url}/v1/images", files=files, data=form, timeout=60)


def search(server: Server, **asked: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{server.url}/v1/search", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`bentoml serve` as README's first command starts it, with six drawings."""
    server = serve(tmp_path_factory.mktemp("gallery"))
    try:
        server.wait_ready()
        made = upload(server, *((f"{c} {s}.png", drawing(c, s, size=160)) for c, s in SHAPES), tags='["drawn"]')
        assert made.status_code == 200, made.text
        assert {item["state"] for item in made.json()["data"]} == {"indexed"}
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize(("colour", "shape"), SHAPES)
def test_drawings_are_found_by_words_as_soon_as_they_were_uploaded(gallery: Server, colour: str, shape: str) -> None:
    assert search(gallery, text=f"a {colour} {shape}", limit=3)[0]["filename"] == f"{colour} {shape}.png"


def test_a_picture_uploaded_synchronously_is_found_by_the_next_search(gallery: Server) -> None:
    for size in (97, 98, 99):
        one = upload(gallery, (f"{size}.png", drawing("orange", "circle", size=size)))
        assert one.status_code == 201, one.text
        found = search(gallery, id=one.json()["data"][0]["id"], limit=5)
        assert one.json()["data"][0]["id"] not in {each["id"] for each in found}
        direct = search(gallery, text="an orange circle", limit=10)
        assert one.json()["data"][0]["id"] in {each["id"] for each in direct}


def test_a_duplicate_is_the_picture_that_is_there(gallery: Server) -> None:
    again = upload(gallery, ("other name.png", drawing("red", "circle", size=160)))
    assert again.status_code == 200
    item = again.json()["data"][0]
    assert item["duplicate"] is True
    assert item["filename"] == "red circle.png"


def test_hostile_names_and_metadata_come_back_as_they_are_and_are_searchable(gallery: Server) -> None:
    hostile = '"><img src=x onerror=alert(1)>.png'
    told = {"note": "<script>alert('x')</script>", "n": 3}
    made = upload(gallery, (hostile, drawing("purple", "square")), metadata=json.dumps(told), tags='["<b>"]')
    assert made.status_code == 201, made.text
    (found,) = search(gallery, text="a square", filter={"metadata": {"note": told["note"]}, "tags": {"any": ["<b>"]}})
    assert found["metadata"] == told
    shown = httpx.get(f"{gallery.url}/v1/images/{found['id']}/content")
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert shown.headers["content-type"] == "image/png"


def test_what_was_deleted_is_gone_everywhere(gallery: Server) -> None:
    data = drawing("black", "square", size=77)
    id_ = upload(gallery, ("gone.png", data)).json()["data"][0]["id"]
    assert httpx.delete(f"{gallery.url}/v1/images/{id_}").status_code == 204
    assert httpx.get(f"{gallery.url}/v1/images/{id_}").status_code == 404
    assert httpx.get(f"{gallery.url}/v1/images/{id_}/thumbnail").status_code == 404
    assert id_ not in {each["id"] for each in search(gallery, text="a black square", limit=50)}
    folder = gallery.log.parent / "data" / "objects"
    assert not list(folder.rglob(f"{digest(data)}*"))
    assert upload(gallery, ("back.png", data)).json()["data"][0]["id"] != id_


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"text": "x", "filter": {"colour": "red"}}, 422),
        ({"vector": [1.0, 2.0]}, 422),
        ({}, 422),
        ({"id": "nobody"}, 404),
        ({"text": "x", "model": "nobody"}, 404),
        ({"text": "x", "cursor": "rubbish"}, 422),
    ],
)
def test_questions_that_cannot_be_asked_are_told_why(gallery: Server, asked: dict[str, Any], status: int) -> None:
    answer = httpx.post(f"{gallery.url}/v1/search", json=asked)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]


def test_a_search_before_anything_is_indexed_finds_nothing(gallery: Server) -> None:
    assert search(gallery, text="anything", collection="empty") == []


def test_what_was_acknowledged_survives_a_kill(start_server: Callable[..., Server]) -> None:
    server = start_server()
    server.wait_ready()
    made = upload(server, ("red circle.png", drawing("red", "circle")))
    assert made.status_code == 201
    for process in server.family():
        with contextlib.suppress(Exception):
            process.kill()
    folder = server.log.parent
    again = serve(folder)
    try:
        again.wait_ready()
        assert search(again, text="a red circle")[0]["id"] == made.json()["data"][0]["id"]
    finally:
        again.stop()


class Stack:
    """An API worker and a subscriber over PostgreSQL, S3, Kafka, and the API worker's vectors."""

    def __init__(self, folder: Path, database: str, store: Any, kafka: Kafka) -> None:
        self.folder, self.store, self.kafka = folder, store, kafka
        self.env = {
            "MODELMORA_DATABASE_URL": f"postgresql+asyncpg://{database}/postgres",
            "MODELMORA_OBJECTS_URL": f"s3+http://{store.access_key}:{store.secret_key}@{store.endpoint}/pictures",
            "MODELMORA_EVENTS_URL": f"kafka://{kafka.brokers}",
            "MODELMORA_INGEST_BUCKETS": "incoming",
        }
        self.client = Minio(store.endpoint, store.access_key, store.secret_key, secure=False)
        for bucket in ("pictures", "incoming"):
            self.client.make_bucket(bucket)
        self.server = serve(folder / "api", env=self.env)
        self.port = reserve_port()
        self.subscriber: Any = None

    def subscribe(self) -> None:
        variables = environment(self.folder / "api", self.server.http_port, self.server.grpc_port, self.env)
        variables |= {
            "MODELMORA_SUBSCRIBER_PORT": str(self.port),
            "MODELMORA_SUBSCRIBER_API": self.server.grpc_url,
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "subscribers"]
        self.subscriber = start(command, log=self.folder / "subscriber.log", cwd=ROOT, env=variables)

    def probe(self, path: str) -> httpx.Response | None:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=2)
        return None

    def ready(self) -> bool:
        assert self.subscriber.poll() is None, (self.folder / "subscriber.log").read_text()[-3000:]
        answer = self.probe("/readyz")
        return answer is not None and answer.status_code == 200

    def put(self, name: str, data: bytes) -> str:
        self.client.put_object("incoming", name, io.BytesIO(data), len(data))
        return f"s3://incoming/{name}"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with components():
        kafka = Kafka(tmp_path_factory.mktemp("kafka"))
    kafka.start()
    (folder / "weed").mkdir()
    with postgres_server() as database, served(folder / "weed") as store:
        made = Stack(folder, database.url, store, kafka)
        try:
            made.server.wait_ready()
            made.subscribe()
            wait_until(made.ready, within_s=90, what="the subscriber")
            yield made
        finally:
            made.server.stop()
            if made.subscriber is not None:
                end(made.subscriber)
            kafka.stop()


async def announce(stack: Stack, *named: tuple[str, bytes]) -> list[str]:
    """As a producer who is not us does it."""
    producer = AIOKafkaProducer(bootstrap_servers=stack.kafka.brokers)
    await producer.start()
    ids = []
    try:
        for name, data in named:
            now, id_ = datetime.now(UTC), new_id()
            record = picture(id_, object=stack.put(name, data), sha256=digest(data), filename=name, created_at=now)
            event = registered(record, source="/camera", id_=new_id(), time=now, topic="modelmora.images")
            key, value, headers = to_kept_parts(event)
            await producer.send_and_wait("modelmora.images", value, key=key, headers=list(headers))
            ids.append(id_)
    finally:
        await producer.stop()
    return ids


def state(stack: Stack, id_: str) -> str:
    answer = httpx.get(f"{stack.server.url}/v1/images/{id_}")
    return str(answer.json().get("state")) if answer.status_code == 200 else str(answer.status_code)


@pytest.mark.slow
async def test_announced_pictures_are_fetched_embedded_and_found(stack: Stack) -> None:
    named = [(f"{c} {s}.png", drawing(c, s, size=160)) for c, s in SHAPES]
    ids = await announce(stack, *named)
    wait_until(lambda: all(state(stack, id_) == "indexed" for id_ in ids), within_s=60, what="six pictures")
    for (name, _), id_ in zip(named, ids, strict=True):
        best = search(stack.server, text=f"a {name.removesuffix('.png')}", limit=1)[0]
        assert (best["filename"], best["id"]) == (name, id_)
    again = await announce(stack, *named[:1])
    wait_until(lambda: lag(stack) == 0, within_s=30, what="no lag")
    assert state(stack, again[0]) == "404", "the same bytes are the picture that is there"


def lag(stack: Stack) -> int | None:
    answer = stack.probe("/health")
    return None if answer is None else answer.json()["lag"]


@pytest.mark.slow
async def test_an_upload_that_does_not_wait_is_indexed_by_the_subscriber(stack: Stack) -> None:
    made = upload(stack.server, ("later.png", drawing("yellow", "square", size=120)), wait="false")
    assert made.status_code == 202, made.text
    id_ = made.json()["data"][0]["id"]
    wait_until(lambda: state(stack, id_) == "indexed", within_s=60, what="the picture")


@pytest.mark.slow
async def test_rubbish_becomes_dead_letters_with_its_reason_and_holds_up_nobody(stack: Stack) -> None:
    cluster = Cluster(stack.kafka.brokers)
    publisher = KafkaPublisher(cluster)
    producer = AIOKafkaProducer(bootstrap_servers=cluster.brokers)
    await producer.start()
    try:
        unknown = {"specversion": "1.0", "id": "1", "source": "/x", "type": "com.modelmora.image.registered.v99"}
        for value in (b"\x00 no json", b'{"no": "event"}', json.dumps({**unknown, "data": {}}).encode()):
            await producer.send_and_wait("modelmora.images", value)
    finally:
        await producer.stop()
        await publisher.close()
    (missing,) = await announce(stack, ("no picture.png", b"plain text"))
    (fine,) = await announce(stack, ("fine.png", drawing("red", "square", size=50)))
    wait_until(lambda: state(stack, fine) == "indexed", within_s=60, what="the picture behind the rubbish")
    wait_until(lambda: state(stack, missing) == "failed", within_s=60, what="the verdict")
    assert {"invalid_input", "validation", "unsupported_media"} <= codes_of_letters(stack)


def codes_of_letters(stack: Stack) -> set[str]:
    letters = httpx.get(f"{stack.server.url}/api/v1/dead-letters").json()
    return {letter["code"] for letter in letters["data"]}


@pytest.mark.slow
async def test_a_killed_subscriber_loses_nothing_and_a_stopped_one_finishes(stack: Stack) -> None:
    ids = await announce(stack, *((f"{n}.png", drawing("blue", "circle", size=60 + n)) for n in range(40)))
    stack.subscriber.kill()
    stack.subscriber.wait()
    stack.subscribe()
    wait_until(lambda: all(state(stack, id_) == "indexed" for id_ in ids), within_s=90, what="forty pictures")
    wait_until(stack.ready, within_s=60, what="the subscriber")
    began = time.monotonic()
    stack.subscriber.send_signal(signal.SIGTERM)
    assert stack.subscriber.wait(30) == 0
    assert time.monotonic() - began < 30
    stack.subscribe()
    wait_until(stack.ready, within_s=90, what="the subscriber")


def test_a_subscriber_without_kafka_says_so_in_one_sentence(tmp_path: Path) -> None:
    variables = environment(tmp_path, 1, 2, {"PYTHONPATH": str(ROOT)})
    log = tmp_path / "log"
    refused = start([sys.executable, "-m", "subscribers"], log=log, cwd=ROOT, env=variables)
    assert refused.wait(60) == 2
    assert "MODELMORA_EVENTS_URL" in log.read_text()
