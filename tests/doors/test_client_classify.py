"""Classes through the client, over each wire, against the real doors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from modelmora.client import Class, Client, Failed, Ok, SyncClient, Text, unwrap
from modelmora.domain.inference import Text as EmbeddedText
from modelmora.errors import CapabilityMissing, InvalidInput, ModelNotFound, Overloaded, ValidationFailed, WrongState
from tests.doors.client_doors import connected
from tests.doors.client_script import Script
from tests.doors.client_servers import grpc_server
from tests.doors.test_http_classify import classifying
from tests.fakes import TIMINGS, World, until

TORN = InvalidInput("the picture is cut off", field="image", found="4 bytes", expected="a whole picture")


@pytest.fixture(params=["grpc", "http"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world() -> World:
    return classifying()


@pytest.fixture
async def client(wire: str, world: World) -> AsyncIterator[Client]:
    async with connected(wire, world) as client:
        yield client


async def test_a_classifier_tells_the_likeliest_of_its_own_labels(client: Client) -> None:
    (outcome,) = await client.classify([b"a picture"], top_k=2)

    whole = math.exp(1) + math.exp(3) + math.exp(2)
    found = unwrap(outcome)
    assert [(one.index, one.label) for one in found.classes] == [(1, "dog"), (2, "bird")]
    assert [one.score for one in found.classes] == pytest.approx([math.exp(3) / whole, math.exp(2) / whole])
    assert found.best == found.classes[0]
    assert (found.key, found.timings) == ("resnet@1.0.0", TIMINGS)


async def test_a_threshold_may_leave_no_class(client: Client) -> None:
    found = unwrap((await client.classify([b"a"], threshold=0.99))[0])
    assert (found.classes, found.best) == ((), None)


async def test_labels_of_ones_own_reach_the_model_as_they_are(client: Client, world: World) -> None:
    labels = ["a cat, sleeping", '"quoted"', '["listed"]', "[x", " é ", "true"]

    found = unwrap((await client.classify([b"a"], labels=labels, templates=["{}", "[{}]"], top_k=10))[0])

    assert sorted(one.label for one in found.classes) == sorted(labels)
    assert [found.classes[0].label] == [labels[found.classes[0].index]]
    texts = [i.text for a in world.embedder.asked for i in a.items if isinstance(i, EmbeddedText)]
    assert set(texts) == {f"{label}" for label in labels} | {f"[{label}]" for label in labels}
    assert found.model == "clip"


@pytest.mark.parametrize("label", ['["listed"]', '"quoted"', "plain"])
async def test_an_only_label_reaches_the_model_as_it_is(client: Client, label: str) -> None:
    found = unwrap((await client.classify([b"a"], labels=[label], model="clip@1.0.0"))[0])
    assert [(one.index, one.label) for one in found.classes] == [(0, label)]


async def test_an_item_that_fails_leaves_the_others_whole(client: Client, world: World, tmp_path: Path) -> None:
    world.classifier.fails = {b"torn": TORN}

    good, torn, absent, fine = await client.classify([b"good", b"torn", tmp_path / "absent", b"fine"])

    assert isinstance(good, Ok)
    assert isinstance(fine, Ok)
    assert isinstance(torn, Failed)
    assert (torn.error.field, torn.error.expected) == ("image", "a whole picture")
    assert isinstance(absent, Failed)
    assert "absent: No such file" in absent.error.detail


async def test_an_only_picture_that_fails_fails_as_one_of_many_would(client: Client, world: World) -> None:
    world.classifier.fails = {b"torn": TORN}
    (torn,) = await client.classify([b"torn"])
    assert isinstance(torn, Failed)
    assert torn.error.code == "invalid_input"


async def test_more_pictures_than_one_request_takes_keep_their_order(wire: str, world: World) -> None:
    world.limits = replace(world.limits, items=32)
    world.classifier.fails = {b"picture 40": TORN}
    async with connected(wire, world) as client:
        outcomes = await client.classify([f"picture {i}".encode() for i in range(70)])
    assert [index for index, outcome in enumerate(outcomes) if isinstance(outcome, Failed)] == [40]
    assert sorted(len(images) for _, images, _ in world.classifier.asked) == [6, 32, 32]


async def test_what_failed_for_a_passing_reason_is_asked_again_alone(client: Client, world: World) -> None:
    world.classifier.fails = {b"busy": Overloaded("the queue is full", retry_after_s=0.01)}

    async def recover() -> None:
        await until(lambda: len(world.classifier.asked) > 1)
        world.classifier.fails = {}

    recovering = asyncio.create_task(recover())
    outcomes = await client.classify([b"one", b"busy"])
    await recovering

    assert [type(outcome) for outcome in outcomes] == [Ok, Ok]
    first, *again = [[image.data for image in images] for _, images, _ in world.classifier.asked]
    assert first == [b"one", b"busy"]
    assert again
    assert all(images == [b"busy"] for images in again)


async def test_a_model_that_is_not_there_fails_every_picture(client: Client, world: World) -> None:
    outcomes = await client.classify([b"a", b"b"], model="gone")
    assert [type(outcome.error) for outcome in outcomes if isinstance(outcome, Failed)] == [ModelNotFound] * 2
    (unable,) = await client.classify([b"a"], model="sam")
    assert isinstance(unable, Failed)
    assert isinstance(unable.error, CapabilityMissing)


async def test_one_thing_in_place_of_a_list_is_refused_before_its_letters_are_read(client: Client) -> None:
    with pytest.raises(ValidationFailed, match="pictures is no list"):
        await client.classify("cat.jpg", labels=["a"])  # a str is a Sequence
    with pytest.raises(ValidationFailed, match="labels is no list"):
        await client.classify([b"a"], labels="cat,dog")
    with pytest.raises(ValidationFailed, match=r"labels\[1\] is no text"):
        await client.classify([b"a"], labels=["a", 3])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match=r"templates\[0\] is no Unicode"):
        await client.classify([b"a"], labels=["a"], templates=["\udce9{}"])
    with pytest.raises(ValidationFailed, match="top_k"):
        await client.classify([b"a"], top_k=0)
    with pytest.raises(ValidationFailed, match="threshold a number"):
        await client.classify([b"a"], threshold="high")  # type: ignore[arg-type]


async def test_a_text_is_no_picture(client: Client) -> None:
    text, picture = await client.classify([Text("a cat"), b"a"])  # type: ignore[list-item]
    assert isinstance(text, Failed)
    assert "takes pictures" in text.error.detail
    assert isinstance(picture, Ok)


async def test_priority_and_deadline_travel_along(client: Client, world: World) -> None:
    await client.classify([b"a"], priority="bulk", timeout=3)
    call = world.classifier.asked[0][2]
    assert call.priority == "bulk"


@pytest.mark.parametrize("truncate", [False, True])
async def test_labels_are_cut_only_when_that_is_asked_for(client: Client, world: World, truncate: bool) -> None:
    await client.classify([b"1"], labels=["cat", "dog"], truncate=truncate)

    assert [asked.call.truncate for asked in world.embedder.asked if asked.task == "embed_text"] == [truncate]


async def test_no_pictures_no_classes_and_no_request(client: Client, world: World) -> None:
    assert await client.classify([]) == []
    assert world.classifier.asked == []
    await client.close()
    with pytest.raises(WrongState, match="closed"):
        await client.classify([b"a"])


def test_the_sync_client_classifies() -> None:
    script = Script(bad=frozenset({b"bad"}))
    with grpc_server(script) as url, SyncClient(url) as client:
        good, bad = client.classify([b"a", b"bad"], labels=["cat", "dog"])
    assert unwrap(good).classes == (Class(0, "cat", 0.75), Class(1, "dog", 0.25))
    assert isinstance(bad, Failed)
