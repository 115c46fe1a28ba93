"""Pictures kept and searched on real servers: alone, over a restart, and over Kafka by a subscriber of its own."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from adapters.events.kafka import Cluster
from adapters.events.kafka_publisher import KafkaPublisher
from load.components.kafka import Kafka
from tests.collector import Seen, collecting
from tests.contracts.conftest import postgres_server
from tests.contracts.object_store import served
from tests.e2e.serving import ROOT, Server, environment, serve
from tests.e2e.stack import Stack, announce
from tests.pictures import digest, drawing
from tests.support import components, end, start, wait_until

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


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with components():
        kafka = Kafka(tmp_path_factory.mktemp("kafka"))
    kafka.start()
    (folder / "weed").mkdir()
    with postgres_server() as database, served(folder / "weed") as store, collecting() as collector:
        made = Stack(folder, database.url, store, kafka, collector)
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


def parts(spans: list[Seen], of: Seen) -> list[Seen]:
    return [one for one in spans if one.parent == of.id]


def the(spans: list[Seen], service: str, name: str) -> Seen:
    found = [one for one in spans if (one.service, one.name) == (service, name)]
    assert len(found) == 1, sorted({(one.service, one.name) for one in spans})
    return found[0]


@pytest.mark.slow
def test_one_trace_leads_from_an_upload_over_kafka_to_the_index(stack: Stack) -> None:
    trace = new_trace()
    files = [("files", ("traced.png", drawing("red", "square", size=123), "image/png"))]
    headers = {"traceparent": f"00-{trace}-{'1' * 16}-01"}
    made = httpx.post(f"{stack.server.url}/v1/images", files=files, data={"wait": "false"}, headers=headers)
    assert made.status_code == 202, made.text
    done = ("modelmora-api", "modelmora.v1.ModelInference/GenerateBatch")

    def complete() -> bool:
        spans = stack.collector.of(trace)
        ended = {(one.service, one.name) for one in spans}
        known = {one.id for one in spans} | {"1" * 16}
        return done in ended and all(one.parent in known for one in spans)

    wait_until(complete, within_s=60, what="the trace")
    spans = stack.collector.of(trace)
    ids = {one.id for one in spans} | {"1" * 16}
    assert all(one.parent in ids for one in spans), "each is a part of another that was written"
    upload_ = the(spans, "modelmora-api", "POST /v1/images")
    assert (upload_.parent, upload_.kind) == ("1" * 16, "server")
    assert upload_.told["http.response.status_code"] == 202
    assert {"INSERT pictures", "INSERT outbox", "objects put"} <= {one.name for one in parts(spans, upload_)}
    (sent,) = [one for one in spans if one.name == "send modelmora.images"][:1]
    assert (sent.parent, sent.kind, sent.told["messaging.system"]) == (upload_.id, "producer", "kafka")
    (taken,) = [one for one in spans if one.name == "process modelmora.images" and one.parent == sent.id]
    assert (taken.service, taken.kind) == ("modelmora-subscriber", "consumer")
    (work,) = parts(spans, taken)
    assert work.name == "ingest"
    assert {"objects get", "vectors upsert", "INSERT outbox"} <= {one.name for one in parts(spans, work)}
    asked = the(spans, "modelmora-subscriber", done[1])
    assert (asked.parent, asked.kind) == (work.id, "client")
    served_ = the(spans, *done)
    assert (served_.parent, served_.kind) == (asked.id, "server")
    computed(spans, served_)


def computed(spans: list[Seen], request: Seen) -> None:
    """What follows every request for one embedding."""
    trip = the(spans, "modelmora-api", "embed_image")
    assert trip.parent == request.id
    assert trip.told["modelmora.preprocess_ms"] > 0
    assert [one.name for one in parts(spans, trip)] == ["run embed_image"]
    run = the(spans, "modelmora-engine", "run embed_image")
    (batch,) = parts(spans, run)
    assert (batch.name, batch.told["modelmora.batch.items"]) == ("batch", 1)
    assert [one.name for one in parts(spans, batch)] == ["forward"]
    chain = [request, trip, run, batch, parts(spans, batch)[0]]
    assert all(a.start <= b.start and b.end <= a.end for a, b in itertools.pairwise(chain)), "each within the other"
    assert run.told["modelmora.model"] == "shapes-clip"


APPLICATION = """
import sys
from pathlib import Path
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from modelmora.client import SyncClient

provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=sys.argv[1] + "/v1/traces")))
trace.set_tracer_provider(provider)
with SyncClient(sys.argv[2]) as client, trace.get_tracer("shop").start_as_current_span("visit") as visit:
    client.generate_embedding(Path(sys.argv[3]))
    print(format(visit.get_span_context().trace_id, "032x"))
provider.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("face", "request_"),
    [("grpc", "modelmora.v1.ModelInference/GenerateEmbedding"), ("http", "POST /v1/embed/image")],
)
def test_one_trace_leads_from_an_application_to_the_forward(
    stack: Stack, tmp_path: Path, face: str, request_: str
) -> None:
    (tmp_path / "picture.png").write_bytes(drawing("blue", "square", size={"grpc": 131, "http": 132}[face]))
    url = stack.server.grpc_url if face == "grpc" else stack.server.url
    command = [sys.executable, "-c", APPLICATION, stack.collector.url, url, str(tmp_path / "picture.png")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr
    trace = ran.stdout.strip()
    whole = {"visit", request_, "embed_image", "run embed_image", "batch", "forward"}
    wait_until(lambda: whole <= {one.name for one in stack.collector.of(trace)}, within_s=30, what="the trace")
    spans = stack.collector.of(trace)
    visit = the(spans, "shop", "visit")
    (asked,) = parts(spans, visit)
    assert (asked.service, asked.kind) == ("shop", "client")
    served_ = the(spans, "modelmora-api", request_)
    assert (served_.parent, served_.kind) == (asked.id, "server")
    assert served_.told["modelmora.model"] == "shapes-clip"
    computed(spans, served_)


@pytest.mark.slow
def test_a_request_that_fails_is_written_though_nobody_drew_it_and_its_log_line_names_it(stack: Stack) -> None:
    trace = new_trace()
    headers = {"traceparent": f"00-{trace}-{'2' * 16}-00", "x-modelmora-timeout-ms": "1"}
    files = [("files", ("late.png", drawing("red", "circle", size=900), "image/png"))]
    answer = httpx.post(f"{stack.server.url}/v1/embed/image", files=files, headers=headers)
    assert answer.status_code == 504, answer.text
    name = "POST /v1/embed/image"
    wait_until(lambda: name in {one.name for one in stack.collector.of(trace)}, within_s=30, what="the request")
    spans = stack.collector.of(trace)
    request = the(spans, "modelmora-api", name)
    assert request.failed
    assert (request.parent, request.told["error.type"]) == ("2" * 16, "deadline_exceeded")
    line = next(line for line in stack.server.log.read_text().splitlines() if trace in line)
    assert json.loads(line)["trace_id"] == trace


def new_trace() -> str:
    return f"{random.getrandbits(127) + 1:032x}"


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
