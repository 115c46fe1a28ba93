"""GenerateBatch and GenerateEmbeddingStream: any number of items, and how far each is."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest

from modelmora.domain.progress import Step
from modelmora.errors import InvalidInput, ModelLoading
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc, types_pb2
from tests.doors.test_grpc import TORN, failure, request, text, trailing
from tests.doors.test_http_errors import UUID7
from tests.fakes import STAGES, World, until, vector_of


@pytest.fixture
def inference(channel: grpc.aio.Channel) -> Any:
    return inference_pb2_grpc.ModelInferenceStub(channel)


def message(*contents: str | bytes, **more: Any) -> pb.BatchRequest:
    items = [text(c, f"id-{c}") if isinstance(c, str) else types_pb2.Item(image=c) for c in contents]
    return pb.BatchRequest(items=items, **more)


async def sent(messages: Sequence[pb.BatchRequest]) -> AsyncIterator[pb.BatchRequest]:
    for each in messages:
        yield each


async def results(call: Any) -> list[pb.BatchResult]:
    """All results in the order of the items."""
    found = [result async for response in call for result in response.results]
    found.sort(key=lambda each: each.result.index)
    assert [each.result.index for each in found] == list(range(len(found)))
    return found


def codes(found: Sequence[pb.BatchResult]) -> list[str]:
    return [each.result.error.code or "ok" for each in found]


async def test_many_pictures_in_one_call_come_back_by_index_and_id(inference: Any) -> None:
    messages = [message(*[f"{m} {i}" for i in range(5)]) for m in range(30)]

    found = await results(inference.GenerateBatch(sent(messages)))

    contents = [item.text for each in messages for item in each.items]
    assert [each.result.id for each in found] == [f"id-{content}" for content in contents]
    assert [np.frombuffer(each.result.embedding.data, "<f4").tolist() for each in found] == [
        vector_of(content.encode()) for content in contents
    ]
    assert {(each.model, each.version) for each in found} == {("clip", "1.0.0")}
    assert all(re.fullmatch(STAGES, each.server_timing) for each in found)


async def test_results_come_while_the_input_is_still_open(inference: Any) -> None:
    call = inference.GenerateBatch()

    for number in range(3):
        await call.write(message(f"text {number}"))
        answer = await asyncio.wait_for(call.read(), 10)
        assert [each.result.index for each in answer.results] == [number]
    await call.done_writing()

    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_slow_item_delays_nobody_and_half_closed_input_gets_all_results(world: World, inference: Any) -> None:
    world.embedder.holds = {b"slow": asyncio.Event()}
    call = inference.GenerateBatch(sent([message("slow", "a"), message("b")]))
    order: list[int] = []

    async for answer in call:
        order += [each.result.index for each in answer.results]
        if len(order) == 2:
            world.embedder.holds[b"slow"].set()

    assert sorted(order) == [0, 1, 2]
    assert order[-1] == 0


async def test_an_empty_stream_answers_an_empty_stream(inference: Any) -> None:
    assert await results(inference.GenerateBatch(sent([]))) == []
    assert await results(inference.GenerateBatch(sent([message()]))) == []


async def test_items_fail_alone(world: World, inference: Any) -> None:
    world.embedder.fails = {b"torn": TORN}
    empty = pb.BatchRequest(items=[types_pb2.Item(id="e"), types_pb2.Item(object="s3://b/k")])

    found = await results(inference.GenerateBatch(sent([message("a", "torn", b"x" * 4097), empty, message("b")])))

    assert codes(found) == ["ok", "invalid_input", "limit_exceeded", "validation", "capability_missing", "ok"]
    assert found[1].result.error.expected == "a whole picture"


async def test_a_message_that_names_another_model_switches_from_there_on(world: World, inference: Any) -> None:
    messages = [message("a"), message("b", model="vit@1.0.0"), message("c", truncate=True), message("d", model="gone")]

    found = await results(inference.GenerateBatch(sent([*messages, message("e"), message("f", model="clip")])))

    assert codes(found) == ["ok", "ok", "ok", "model_not_found", "model_not_found", "ok"]
    assert [f"{each.model}@{each.version}" for each in found[:3]] == ["clip@1.0.0", "vit@1.0.0", "vit@1.0.0"]
    assert [asked.call.truncate for asked in world.embedder.asked] == [False, False, True, False]


@pytest.mark.parametrize(("model", "code"), [("gone", "model_not_found"), ("No!", "validation")])
async def test_a_first_message_for_an_unknown_model_fails_the_call(
    model: str, code: str, world: World, inference: Any
) -> None:
    caught = await failure(results(inference.GenerateBatch(sent([message("a", model=model)]))))

    assert trailing(caught)["modelmora-code"] == code
    assert world.embedder.asked == []


async def test_who_reads_only_after_having_sent_everything_is_served(inference: Any) -> None:
    call = inference.GenerateBatch()
    for number in range(150):
        await asyncio.wait_for(call.write(message(f"text {number}")), 10)
    await call.done_writing()

    assert codes(await results(call)) == ["ok"] * 150


async def test_no_more_is_begun_than_the_window_takes(world: World, inference: Any) -> None:
    world.embedder.hold = asyncio.Event()
    reading = asyncio.create_task(results(inference.GenerateBatch(sent([message(f"t{i}") for i in range(150)]))))
    await until(lambda: world.embedder.running == 16)

    world.embedder.hold.set()

    assert codes(await reading) == ["ok"] * 150
    assert world.embedder.most == 16


async def test_results_that_complete_together_share_messages(world: World, inference: Any) -> None:
    world.embedder.hold = asyncio.Event()
    call = inference.GenerateBatch(sent([message(*[f"t{i}" for i in range(16)])]))
    await until(lambda: world.embedder.running == 16)

    world.embedder.hold.set()
    sizes = [len(answer.results) async for answer in call]

    assert sum(sizes) == 16
    assert len(sizes) < 8


async def test_too_many_items_fail_the_call_after_the_others_are_answered(inference: Any) -> None:
    call = inference.GenerateBatch(sent([message(*[f"{m} {i}" for i in range(50)]) for m in range(5)]))
    answered: list[int] = []

    async def read() -> None:
        async for answer in call:
            answered.extend(each.result.index for each in answer.results)

    caught = await failure(read())

    assert (caught.code(), trailing(caught)["modelmora-code"]) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "limit_exceeded",
    )
    assert sorted(answered) == list(range(200))


async def test_a_stream_is_bulk_unless_told_otherwise(world: World, inference: Any) -> None:
    metadata = (("x-modelmora-priority", "interactive"), ("x-request-id", "req-1"))
    await results(inference.GenerateBatch(sent([message("a")])))
    call = inference.GenerateBatch(sent([message("b")]), metadata=metadata)
    await results(call)

    first, second = (asked.call for asked in world.embedder.asked)
    assert (first.priority, first.face, second.priority, second.request_id) == ("bulk", "grpc", "interactive", "req-1")
    assert UUID7.fullmatch(first.request_id)
    assert dict(await call.trailing_metadata())["x-request-id"] == "req-1"


@pytest.mark.parametrize(("name", "given"), [("x-modelmora-priority", "urgent"), ("x-modelmora-timeout-ms", "soon")])
async def test_metadata_of_no_sense_is_refused(name: str, given: str, inference: Any) -> None:
    caught = await failure(results(inference.GenerateBatch(sent([message("a")]), metadata=((name, given),))))

    assert caught.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_deadline_is_that_of_the_call_else_the_usual_one_of_each_item(world: World, inference: Any) -> None:
    before = time.monotonic()
    await results(inference.GenerateBatch(sent([message("a")]), timeout=50))
    await results(inference.GenerateBatch(sent([message("a")])))
    after = time.monotonic()

    for asked, seconds in zip(world.embedder.asked, (50, 10), strict=True):
        assert before + seconds - 0.1 <= asked.call.deadline <= after + seconds + 0.1


async def test_a_deadline_that_passes_frees_the_work(world: World, inference: Any) -> None:
    world.embedder.hold = asyncio.Event()

    caught = await failure(results(inference.GenerateBatch(sent([message("a")]), timeout=0.3)))

    assert caught.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: world.embedder.cancelled.is_set() and world.embedder.running == 0)


async def test_a_caller_who_leaves_mid_stream_frees_the_work(world: World, inference: Any) -> None:
    world.embedder.holds = {b"slow": asyncio.Event()}
    call = inference.GenerateBatch()
    await call.write(message("a", "slow 1", "slow 2"))
    await call.read()
    await until(lambda: world.embedder.running == 2)

    call.cancel()

    await until(lambda: world.embedder.running == 0)


async def test_a_message_over_the_limit_ends_the_stream_and_the_server_goes_on(inference: Any) -> None:
    caught = await failure(results(inference.GenerateBatch(sent([message(b"x" * (2**20 + 1))]))))

    assert caught.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert codes(await results(inference.GenerateBatch(sent([message("a")])))) == ["ok"]


STEPS = (Step("preprocessing", 1, 1), Step("loading", 1024, 2048), Step("inference", 3, 12))


async def test_stages_and_percentages_come_before_the_result(world: World, inference: Any) -> None:
    world.embedder.hold = asyncio.Event()
    call = inference.GenerateEmbeddingStream(request(text("a", "t1"), model="vit@1.0.0"))
    seen = [await call.read()]
    await until(world.embedder.entered.is_set)
    assert world.embedder.watch is not None
    for step in STEPS:
        world.embedder.watch(0, step)
        seen.append(await call.read())

    world.embedder.hold.set()
    last = await call.read()

    assert [(s.stage, s.percent, s.done, s.total) for s in seen] == [
        ("queued", 0.0, 0, 0),
        ("preprocessing", 10.0, 1, 1),
        ("loading", 35.0, 1024, 2048),
        ("inference", 70.0, 3, 12),
    ]
    assert not any(step.HasField("result") for step in seen)
    assert (last.stage, last.percent, last.result.id, last.model, last.version) == ("done", 100.0, "t1", "vit", "1.0.0")
    assert np.frombuffer(last.result.embedding.data, "<f4").tolist() == vector_of(b"a")
    assert await call.read() is grpc.aio.EOF


async def test_each_of_many_items_is_told_of_and_fails_alone(world: World, inference: Any) -> None:
    world.embedder.fails = {b"torn": TORN}
    world.embedder.steps = STEPS

    told = [step async for step in inference.GenerateEmbeddingStream(request(text("a"), text("torn"), text("b")))]

    done = {step.index: step.result for step in told if step.stage == "done"}
    assert {index: result.error.code for index, result in done.items()} == {0: "", 1: "invalid_input", 2: ""}
    for index in range(3):
        percents = [step.percent for step in told if step.index == index]
        assert percents == sorted(percents)
        assert percents[-1] == 100.0


@pytest.mark.parametrize(
    ("error", "code"),
    [(TORN, grpc.StatusCode.INVALID_ARGUMENT), (ModelLoading("soon", retry_after_s=3), grpc.StatusCode.UNAVAILABLE)],
)
async def test_a_request_of_one_item_that_fails_ends_with_its_status(
    error: InvalidInput, code: grpc.StatusCode, world: World, inference: Any
) -> None:
    world.embedder.fails = {b"torn": error}
    call = inference.GenerateEmbeddingStream(request(text("torn")))

    async def read() -> None:
        async for step in call:
            assert step.stage != "done"

    caught = await failure(read())

    assert (caught.code(), trailing(caught)["modelmora-code"]) == (code, error.code)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (pb.EmbeddingRequest(), "validation"),
        (request(model="gone"), "model_not_found"),
        (request(*[text("a")] * 9), "limit_exceeded"),
    ],
)
async def test_a_request_that_cannot_be_served_is_refused(
    given: pb.EmbeddingRequest, code: str, world: World, inference: Any
) -> None:
    caught = await failure(inference.GenerateEmbeddingStream(given).read())

    assert trailing(caught)["modelmora-code"] == code
    assert world.embedder.asked == []


async def test_one_who_leaves_while_it_loads_frees_the_work(world: World, inference: Any) -> None:
    world.embedder.hold = asyncio.Event()
    call = inference.GenerateEmbeddingStream(request(text("a")))
    await call.read()
    await until(world.embedder.entered.is_set)

    call.cancel()

    await until(lambda: world.embedder.running == 0)


async def test_progress_is_interactive_and_carries_the_request(world: World, inference: Any) -> None:
    call = inference.GenerateEmbeddingStream(request(text("a"), truncate=True), metadata=(("x-request-id", "req-1"),))
    assert len([step async for step in call]) >= 1

    asked = world.embedder.asked[0].call
    assert (asked.priority, asked.truncate, asked.request_id) == ("interactive", True, "req-1")
    assert dict(await call.trailing_metadata())["x-request-id"] == "req-1"
