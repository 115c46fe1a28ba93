"""The RPC `Classify`: the same semantics as `/v1/classify`, in messages and statuses."""

from __future__ import annotations

import asyncio
import math
import re
from typing import Any

import grpc
import pytest

from api.errors import STATUSES
from modelmora.errors import ModelLoading
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc, types_pb2
from tests.doors.test_grpc import TORN, failure, info, text, trailing
from tests.doors.test_http_classify import classifying, texts_of
from tests.fakes import STAGES, World


@pytest.fixture
def world() -> World:
    return classifying()


@pytest.fixture
def inference(channel: grpc.aio.Channel) -> Any:
    return inference_pb2_grpc.ModelInferenceStub(channel)


def picture(content: bytes = b"1", id_: str = "") -> types_pb2.Item:
    return types_pb2.Item(id=id_, image=content)


def request(*items: types_pb2.Item, **more: Any) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(items=items or [picture()], **more)


def labels_of(answer: pb.ClassifyResponse) -> list[list[str]]:
    return [[each.label for each in result.classes.classes] for result in answer.results]


async def test_pictures_get_the_classes_of_a_classifier_with_their_ids(inference: Any) -> None:
    answer = await inference.Classify(request(picture(b"1", "a"), picture(b"2", "b")))

    assert (answer.model, answer.version) == ("resnet", "1.0.0")
    assert [(r.index, r.id) for r in answer.results] == [(0, "a"), (1, "b")]
    assert labels_of(answer) == [["dog", "bird", "cat"]] * 2
    best = answer.results[0].classes.classes[0]
    assert (best.index, best.score) == (1, pytest.approx(math.exp(3) / sum(map(math.exp, (1, 2, 3)))))


async def test_pictures_get_the_callers_labels(world: World, inference: Any) -> None:
    answer = await inference.Classify(request(labels=["cat", "Größe"], templates=["a {}", "the {}"]))

    assert answer.model == "clip"
    assert sorted(labels_of(answer)[0]) == ["Größe", "cat"]
    assert texts_of(world) == ["a cat", "the cat", "a Größe", "the Größe"]


async def test_top_k_and_threshold_choose_and_zero_is_the_usual(inference: Any) -> None:
    labels = [f"label {number}" for number in range(9)]

    usual = await inference.Classify(request(labels=labels))
    two = await inference.Classify(request(labels=labels, top_k=2))
    none = await inference.Classify(request(labels=labels, threshold=1.0))

    assert [len(labels_of(answer)[0]) for answer in (usual, two, none)] == [5, 2, 0]
    assert none.results[0].WhichOneof("outcome") == "classes"


async def test_an_item_that_fails_leaves_its_neighbours_whole(world: World, inference: Any) -> None:
    world.classifier.fails = {b"torn": TORN}
    items = [picture(), picture(b"torn"), text("a text"), types_pb2.Item(), types_pb2.Item(object="s3://b/k")]

    answer = await inference.Classify(request(*items))

    codes = [r.error.code for r in answer.results]
    assert codes == ["", "invalid_input", "capability_missing", "validation", "capability_missing"]
    assert answer.results[1].error.expected == "a whole picture"


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (picture(b"torn"), grpc.StatusCode.INVALID_ARGUMENT),
        (picture(b"new"), grpc.StatusCode.UNAVAILABLE),
        (text("a text"), grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_a_request_of_one_item_fails_with_that_items_status(
    item: types_pb2.Item, code: grpc.StatusCode, world: World, inference: Any
) -> None:
    world.classifier.fails = {b"torn": TORN, b"new": ModelLoading("soon")}

    assert (await failure(inference.Classify(request(item)))).code() == code


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        (pb.ClassifyRequest(), "validation", "items"),
        (request(*[picture()] * 9), "limit_exceeded", "items"),
        (request(top_k=1_001), "validation", "top_k"),
        (request(threshold=math.nan), "validation", "threshold"),
        (request(threshold=-1), "validation", "threshold"),
        (request(labels=["a", "A"]), "validation", "labels[1]"),
        (request(labels=["a"], templates=["{} {}"]), "validation", "templates[0]"),
        (request(labels=["x"] * 1_001), "limit_exceeded", "labels"),
        (request(labels=["x" * 101]), "limit_exceeded", "labels[0]"),
        (request(model="clip"), "capability_missing", "labels"),
        (request(model="vit", labels=["a"]), "capability_missing", "model"),
        (request(model="resnet", labels=["a"]), "capability_missing", "labels"),
        (request(model="nothing"), "model_not_found", "model"),
    ],
)
async def test_a_request_that_cannot_be_served_is_refused(
    given: pb.ClassifyRequest, code: str, field: str, world: World, inference: Any
) -> None:
    caught = await failure(inference.Classify(given))

    assert (trailing(caught)["modelmora-code"], caught.code()) == (code, STATUSES[code].grpc)
    assert info(caught).metadata["field"] == field
    assert (world.embedder.asked, world.classifier.asked) == ([], [])


async def test_the_stages_are_in_the_trailing_metadata(inference: Any) -> None:
    call = inference.Classify(request(), metadata=(("x-request-id", "req-1"),))
    await call

    sent = dict(await call.trailing_metadata())
    assert re.fullmatch(STAGES, sent["server-timing"])
    assert sent["x-request-id"] == "req-1"


async def test_a_caller_who_leaves_is_noticed(world: World, inference: Any) -> None:
    world.classifier.hold = asyncio.Event()
    call = inference.Classify(request(), metadata=(("x-modelmora-priority", "bulk"),))
    async with asyncio.timeout(10):
        await world.classifier.entered.wait()
        assert (world.classifier.asked[0][2].face, world.classifier.asked[0][2].priority) == ("grpc", "bulk")

        call.cancel()

        await world.classifier.cancelled.wait()
