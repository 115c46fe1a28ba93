"""A subscriber: it embeds through the real gRPC door, says how it is, and says what it cannot be set up for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY
from starlette.types import ASGIApp

from adapters.events.memory import MemoryBus
from api.grpc.server import GrpcServer
from modelmora.client import Client, Retry
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.inference import Call, Image
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome, unwrap
from modelmora.errors import DependencyUnavailable, InvalidInput, ModelMoraError, ModelNotFound, VersionNotFound
from modelmora.ports import Delivery, Kept
from modelmora.usecases.pictures.ingest import Outage
from modelmora.usecases.probes import Probes
from subscribers.consumer import Consumer, Pace
from subscribers.health import SubscriberHealth
from subscribers.remote import RemoteEmbed
from tests.architecture.tree import ROOT
from tests.event_line import KEY, Line
from tests.fakes import CATALOGUE, CLIP, World, until, vector_of

NEXT = replace(CLIP, version="9.0.0", default=False)


@pytest.fixture
async def client(grpc_server: GrpcServer) -> AsyncIterator[Client]:
    async with Client(f"grpc://127.0.0.1:{grpc_server.port}", retry=Retry(retries=0)) as client:
        yield client


def asking(client: Client, *more: ModelSpec) -> RemoteEmbed:
    """Who knows of `more` models than the server."""
    return RemoteEmbed(client, lambda: replace(CATALOGUE, models=(*CATALOGUE.models, *more)))


def call(within_s: float = 20.0) -> Call:
    return Call(request_id="r-1", deadline=time.monotonic() + within_s, priority="bulk")


async def test_pictures_are_embedded_in_one_stream_and_answered_in_order(client: Client, world: World) -> None:
    world.embedder.fails = {b"torn": InvalidInput("cannot be decoded")}
    items: list[Outcome[Image]] = [Ok(Image(b"a")), Failed(ModelNotFound("x")), Ok(Image(b"torn")), Ok(Image(b"b"))]
    answer = await asking(client)(CLIP.key, items, call=call())
    assert answer.model == CLIP
    assert [isinstance(outcome, Ok) for outcome in answer.outcomes] == [True, False, False, True]
    assert [memoryview(unwrap(answer.outcomes[place]).vector.data).cast("f").tolist() for place in (0, 3)] == [
        vector_of(b"a"),
        vector_of(b"b"),
    ]
    torn = answer.outcomes[2]
    assert isinstance(torn, Failed)
    assert torn.error.code == "invalid_input"
    assert {asked.call.priority for asked in world.embedder.asked} == {"bulk"}


async def test_a_version_that_the_server_does_not_have_yet_is_nobody_s_fault(client: Client) -> None:
    with pytest.raises(VersionNotFound):
        await asking(client, NEXT)(NEXT.key, [Ok(Image(b"a")), Ok(Image(b"b"))], call=call())


async def test_nothing_is_asked_for_pictures_that_could_not_be_had(client: Client, world: World) -> None:
    answer = await asking(client)(CLIP.key, [Failed(InvalidInput("no bytes"))], call=call())
    assert isinstance(answer.outcomes[0], Failed)
    assert world.embedder.asked == []


async def test_an_announced_picture_is_indexed_by_whoever_asks_the_server_for_its_vector(client: Client) -> None:
    line = Line()
    line.embed = asking(client)
    line.rise()
    await line.ingest(line.coming("a", "b"))
    assert line.indexed() == ["a", "b"]
    assert line.database.states("a") == {KEY: "indexed"}


async def test_a_server_that_is_away_is_an_outage(client: Client, grpc_server: GrpcServer) -> None:
    await grpc_server.stop(0)
    line = Line()
    line.embed = asking(client)
    line.rise()
    with pytest.raises(Outage, match=r"127\.0\.0\.1"):
        await line.ingest(line.coming("a"))
    assert [way.attempts for way in line.database.store.of("a")] == [0]


async def test_a_model_that_is_known_here_and_not_there_yet_refuses_no_picture(client: Client) -> None:
    line = Line(NEXT)
    line.embed = asking(client, NEXT)
    line.rise()
    line.world.catalogue = Catalogue((replace(NEXT, default=True),))
    await line.ingest(line.coming("a"))
    assert line.database.states("a") == {NEXT.key: "retry_wait"}


class Setting:
    """A consumer over a bus, and its health page."""

    def __init__(self, serve: Callable[[ASGIApp], httpx.AsyncClient]) -> None:
        self.bus, self.trouble, self.broker = MemoryBus(), None, None
        self.subscription = self.bus.subscribe(["t"])
        self.now = 0.0
        self.consumer = Consumer(self.subscription, self.ingest, pace=Pace(), clock=lambda: self.now, draw=lambda: -1.0)
        self.down: ModelMoraError | None = None
        self.health = SubscriberHealth(
            self.consumer, self.lag, Probes({"objects": self.ping}, clock=count(step=100).__next__)
        )
        self.http = serve(self.health.app())
        self.task: asyncio.Task[None] | None = None

    trouble: ModelMoraError | None
    broker: ModelMoraError | None

    async def ingest(self, deliveries: Sequence[Delivery], *, last: bool = False) -> None:
        if self.trouble is not None:
            raise self.trouble

    async def lag(self) -> Mapping[tuple[str, int], int]:
        if self.broker is not None:
            raise self.broker
        return await self.subscription.lag()

    async def ping(self) -> float:
        if self.down is not None:
            raise self.down
        return 1.0

    async def start(self) -> None:
        self.task = asyncio.create_task(self.consumer.run())
        await until(lambda: self.consumer.state().running)

    async def publish(self, count: int) -> None:
        await self.bus.publish([Kept(number=n, topic="t", key=b"%d" % n, value=b"") for n in range(count)])

    async def close(self) -> None:
        await self.consumer.stop(within_s=5)
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task


@pytest.fixture
async def setting(serve: Callable[[ASGIApp], httpx.AsyncClient]) -> AsyncIterator[Setting]:
    made = Setting(serve)
    yield made
    await made.close()


async def test_one_that_takes_events_in_is_alive_and_ready(setting: Setting) -> None:
    assert (await setting.http.get("/livez")).status_code == 503
    await setting.start()
    for path in ("/livez", "/readyz"):
        assert (await setting.http.get(path)).status_code == 200
    told = (await setting.http.get("/health")).json()
    assert (told["status"], told["lag"], told["dependencies"]["objects"]["status"]) == ("ok", 0, "ok")
    assert told["consumer"]["running"] is True


async def test_one_that_nothing_goes_through_is_not_ready_and_says_why(setting: Setting) -> None:
    setting.trouble = DependencyUnavailable("the store of objects is away")
    await setting.start()
    await setting.publish(3)
    await until(lambda: setting.consumer.state().why != "")
    ready = await setting.http.get("/readyz")
    assert (ready.status_code, ready.json()["why"]) == (503, "the store of objects is away")
    assert (await setting.http.get("/livez")).status_code == 200, "a restart would not help"
    told = (await setting.http.get("/health")).json()
    assert (told["status"], told["lag"], told["consumer"]["in_flight"]) == ("degraded", 3, 3)
    setting.trouble = None
    await until(lambda: setting.consumer.state().done == 3)
    assert (await setting.http.get("/readyz")).status_code == 200


async def test_a_store_that_is_away_is_told_of_before_anybody_needs_it(setting: Setting) -> None:
    await setting.start()
    setting.down = DependencyUnavailable("no answer")
    told = (await setting.http.get("/health")).json()
    (objects,) = told["dependencies"].values()
    assert (objects["status"], objects["error"]) == ("down", "no answer")
    assert told["status"] == "degraded"


async def test_one_that_drains_takes_no_traffic(setting: Setting) -> None:
    await setting.start()
    setting.health.draining = True
    assert (await setting.http.get("/readyz")).status_code == 503
    assert (await setting.http.get("/livez")).status_code == 200


async def test_a_loop_that_stands_still_is_not_alive(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    forever = asyncio.Event()

    async def receive(**_: object) -> list[Delivery]:
        await forever.wait()
        await asyncio.sleep(0)
        return []

    monkeypatch.setattr(setting.subscription, "receive", receive)
    await setting.start()
    setting.now += 61
    assert (await setting.http.get("/livez")).status_code == 503
    forever.set()


async def test_what_is_behind_is_measured(setting: Setting) -> None:
    setting.trouble = DependencyUnavailable("away")
    await setting.start()
    await setting.publish(5)
    await until(lambda: setting.consumer.state().in_flight == 5)
    page = (await setting.http.get("/metrics")).text
    assert "modelmora_consumer_lag 5.0" in page
    assert "modelmora_consumer_in_flight 5.0" in page
    assert REGISTRY.get_sample_value("modelmora_consumer_paused") == 0
    setting.broker = DependencyUnavailable("away")
    assert (await setting.http.get("/metrics")).status_code == 200
    assert (await setting.http.get("/health")).json()["lag"] is None
    setting.trouble = None
    await until(lambda: setting.consumer.state().done == 5)


@pytest.mark.parametrize("url", ["memory://", "null://"])
def test_where_events_stay_in_the_api_worker_it_says_so_in_one_sentence(tmp_path: Path, url: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELMORA_")}
    told = {"MODELMORA_EVENTS_URL": url, "MODELMORA_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "subscribers"]
    done = subprocess.run(command, cwd=ROOT, env=kept | told, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 2
    (said,) = done.stderr.strip().splitlines()
    assert "MODELMORA_EVENTS_URL" in said
    assert "Kafka" in said
    assert list(tmp_path.iterdir()) == []
