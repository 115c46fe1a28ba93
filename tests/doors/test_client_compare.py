"""Several models side by side through the client, over each wire, against the real doors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from modelmora.client import Client, Comparison, Failed, Image, Ok, Outcome, Retry, SyncClient, Text, unwrap
from modelmora.domain.inference import Content
from modelmora.errors import (
    CapabilityMissing,
    InvalidInput,
    ModelLoading,
    ModelNotFound,
    Overloaded,
    ValidationFailed,
    WrongState,
)
from tests.doors.client_doors import connected
from tests.doors.client_script import Script
from tests.doors.client_servers import grpc_server
from tests.fakes import TIMINGS, World, bytes_of, until, vector_of

TORN = InvalidInput("the picture is cut off", field="image", found="4 bytes", expected="a whole picture")
MIXED = (Text("a"), Image(b"one"), Text('["b"]'), Image(b"two"), Text('"c"'))


@pytest.fixture(params=["grpc", "http"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(wire: str, world: World) -> AsyncIterator[Client]:
    async with connected(wire, world) as client:
        yield client


def cosines(items: Sequence[Content]) -> np.ndarray:
    vectors = np.array([vector_of(bytes_of(item)) for item in items])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found: np.ndarray = units @ units.T
    return found


def codes(outcomes: Sequence[Outcome[Comparison]]) -> list[str]:
    return [outcome.error.code if isinstance(outcome, Failed) else "ok" for outcome in outcomes]


@pytest.mark.parametrize(
    "items", [MIXED, MIXED[1::2], MIXED[::2], MIXED[:1]], ids=["mixed", "pictures", "texts", "one"]
)
async def test_each_model_is_measured_over_the_items_in_their_order(client: Client, items: tuple[Content, ...]) -> None:
    clip, vit = [unwrap(outcome) for outcome in await client.compare(["clip", "vit@1.0.0"], items)]

    assert (clip.key, vit.key) == ("clip@1.0.0", "vit@1.0.0")
    assert (clip.dimension, clip.bytes, vit.bytes) == (4, 2**20, 0)
    assert clip.timings == TIMINGS
    assert [unwrap(result).tolist() for result in clip.results] == [vector_of(bytes_of(item)) for item in items]
    assert unwrap(vit.results[0]).key == "vit@1.0.0"
    assert np.asarray(clip.similarities) == pytest.approx(cosines(items), abs=1e-6)


@pytest.mark.parametrize("items", [(Text("a"),), (Image(b"1"), Text("a"))], ids=["texts", "with a picture"])
@pytest.mark.parametrize("truncate", [False, True])
async def test_texts_are_cut_only_when_that_is_asked_for(
    client: Client, world: World, items: tuple[Content, ...], truncate: bool
) -> None:
    sent = [each.data if isinstance(each, Image) else each for each in items]
    await client.compare(["clip"], sent, truncate=truncate)

    assert {asked.call.truncate for asked in world.embedder.asked} == {truncate}


async def test_items_that_fail_leave_a_gap_each(client: Client, world: World, tmp_path: Path) -> None:
    world.embedder.fails = {b"torn": TORN}
    items: list[Text | Path | bytes] = [Text("a"), tmp_path / "absent", b"torn", b"one"]

    (outcome,) = await client.compare(["clip"], items)

    found = unwrap(outcome)
    assert [type(result) for result in found.results] == [Ok, Failed, Failed, Ok]
    similarities = np.asarray(found.similarities)
    assert similarities.shape == (4, 4)
    assert np.isnan(similarities[1:3]).all()
    assert np.isnan(similarities[:, 1:3]).all()
    assert similarities[np.ix_([0, 3], [0, 3])] == pytest.approx(cosines([Text("a"), Image(b"one")]), abs=1e-6)


async def test_a_model_that_fails_leaves_the_others_whole(client: Client) -> None:
    outcomes = await client.compare(["gone", "clip", "sam"], [b"a"])
    assert codes(outcomes) == ["model_not_found", "ok", "capability_missing"]
    (gone,) = await client.compare(["gone"], [b"a", b"b"])
    assert isinstance(gone, Failed)
    assert isinstance(gone.error, ModelNotFound)


async def test_an_only_item_of_an_only_model_fails_as_the_model(client: Client, world: World) -> None:
    world.embedder.fails = {b"torn": TORN}
    (outcome,) = await client.compare(["clip"], [b"torn"])
    assert isinstance(outcome, Failed)
    assert outcome.error.field == "image"


async def test_only_models_that_are_on_their_way_are_asked_again(client: Client, world: World) -> None:
    world.embedder.fails = {b"": ModelLoading("soon", retry_after_s=0.01)}  # every item of every model

    async def load() -> None:
        await until(lambda: len(world.embedder.asked) > 2)
        world.embedder.fails = {}

    loading = asyncio.create_task(load())
    outcomes = await client.compare(["gone", "clip", "vit"], [b"a", b"b"])
    await loading
    assert codes(outcomes) == ["model_not_found", "ok", "ok"]
    assert [unwrap(outcome).model for outcome in outcomes[1:]] == ["clip", "vit"]


async def test_a_model_that_stays_busy_fails_with_the_reason(wire: str, world: World) -> None:
    world.embedder.fails = {b"busy": Overloaded("the queue is full")}
    async with connected(wire, world, retry=Retry(retries=1, initial_s=0.001)) as client:
        assert codes(await client.compare(["clip", "vit"], [b"busy", b"busy too"])) == ["overloaded", "overloaded"]
        asked = len(world.embedder.asked)
        (partly,) = await client.compare(["clip"], [b"busy", b"a"])
    assert [type(result) for result in unwrap(partly).results] == [Failed, Ok]
    assert len(world.embedder.asked) == asked + 1


async def test_what_is_wrong_with_the_request_is_told_of_each_model(client: Client) -> None:
    outcomes = await client.compare(["clip", "clip@1.0.0"], [b"a"])
    assert codes(outcomes) == ["validation", "validation"]


async def test_what_cannot_be_compared_is_refused_before_it_is_sent(
    client: Client, world: World, tmp_path: Path
) -> None:
    with pytest.raises(ValidationFailed, match="models is no list"):
        await client.compare("clip", [b"a"])
    with pytest.raises(ValidationFailed, match="items is no list"):
        await client.compare(["clip"], b"a")  # type: ignore[arg-type]
    with pytest.raises(ValidationFailed, match="no models"):
        await client.compare([], [b"a"])
    with pytest.raises(ValidationFailed, match="no items"):
        await client.compare(["clip"], [])
    with pytest.raises(InvalidInput, match="absent: No such file"):
        await client.compare(["clip"], [tmp_path / "absent"])
    assert world.embedder.asked == []
    await client.close()
    with pytest.raises(WrongState, match="closed"):
        await client.compare(["clip"], [b"a"])


async def test_a_model_that_takes_no_texts_says_so_of_each(client: Client, world: World) -> None:
    world.embedder.fails = {b"a": CapabilityMissing("vit takes no texts")}
    (outcome,) = await client.compare(["vit"], [Text("a"), b"one"])
    text, picture = unwrap(outcome).results
    assert isinstance(text, Failed)
    assert isinstance(text.error, CapabilityMissing)
    assert isinstance(picture, Ok)


def test_the_sync_client_compares() -> None:
    with grpc_server(Script()) as url, SyncClient(url) as client:
        one, absent = client.compare(["shapes-clip", "absent"], [b"a", Text("b")])
    assert unwrap(one).similarities.tolist() == [[1.0, 0.5], [0.5, 1.0]]
    assert isinstance(absent, Failed)
