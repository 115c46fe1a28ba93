"""The gRPC face: the same semantics as HTTP, in statuses, details and trailing metadata."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from api.errors import STATUSES
from api.grpc.server import GrpcServer
from modelmora.domain.inference import Image, Text
from modelmora.errors import DependencyUnavailable, InvalidInput, ModelMoraError, OutOfMemory, Overloaded, leaves
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc, management_pb2, management_pb2_grpc, types_pb2
from tests.doors.test_http_errors import UUID7
from tests.fakes import CLIP, VIT, World, holding, vector_of, worker

TORN = InvalidInput("the picture is cut off", field="image", found="4 bytes", expected="a whole picture")


@pytest.fixture
def inference(channel: grpc.aio.Channel) -> Any:
    return inference_pb2_grpc.ModelInferenceStub(channel)


@pytest.fixture
def management(channel: grpc.aio.Channel) -> Any:
    return management_pb2_grpc.ModelManagementStub(channel)


def text(content: str, id_: str = "") -> types_pb2.Item:
    return types_pb2.Item(id=id_, text=content)


def request(*items: types_pb2.Item, **more: Any) -> pb.EmbeddingRequest:
    return pb.EmbeddingRequest(items=items or [text("a"), text("b")], **more)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def trailing(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    return dict(error.trailing_metadata() or ())


def info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo in the rich status."""
    status = status_pb2.Status.FromString(trailing(error)["grpc-status-details-bin"])
    found = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(found)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return found


def vectors(answer: pb.EmbeddingResponse) -> list[list[float]]:
    return [np.frombuffer(result.embedding.data, "<f4").tolist() for result in answer.results]


async def test_pictures_and_texts_may_be_mixed_and_keep_order_and_ids(world: World, inference: Any) -> None:
    picture = types_pb2.Item(id="p", image=b"a picture")

    answer = await inference.GenerateEmbedding(request(text("one", "t1"), picture, text("two", "t2")))

    assert (answer.model, answer.version) == ("clip", "1.0.0")
    assert [(r.index, r.id) for r in answer.results] == [(0, "t1"), (1, "p"), (2, "t2")]
    assert vectors(answer) == [vector_of(c) for c in (b"one", b"a picture", b"two")]
    assert {tuple(r.embedding.shape) for r in answer.results} == {(4,)}
    assert {r.embedding.dtype for r in answer.results} == {types_pb2.DTYPE_FLOAT32}
    assert {(a.task, a.items) for a in world.embedder.asked} == {
        ("embed_text", (Text("one"), Text("two"))),
        ("embed_image", (Image(b"a picture"),)),
    }


async def test_an_item_that_fails_leaves_its_neighbours_whole(world: World, inference: Any) -> None:
    world.embedder.fails = {b"torn": TORN}
    items = [text("one"), text("torn"), types_pb2.Item(id="e"), types_pb2.Item(object="s3://b/k"), text("x" * 101)]

    answer = await inference.GenerateEmbedding(request(*items))

    errors = [r.error for r in answer.results]
    assert [e.code for e in errors] == ["", "invalid_input", "validation", "capability_missing", "limit_exceeded"]
    assert (errors[1].field, errors[1].found, errors[1].expected) == ("image", "4 bytes", "a whole picture")
    assert [r.WhichOneof("outcome") for r in answer.results] == ["embedding"] + ["error"] * 4
    assert world.embedder.asked[0].items == (Text("one"), Text("torn"))


async def test_an_empty_text_fails_alone(inference: Any) -> None:
    answer = await inference.GenerateEmbedding(request(text(" "), text("b")))

    assert [r.error.code for r in answer.results] == ["validation", ""]


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (text("torn"), grpc.StatusCode.INVALID_ARGUMENT),
        (types_pb2.Item(id="empty"), grpc.StatusCode.INVALID_ARGUMENT),
        (types_pb2.Item(object="s3://b/k"), grpc.StatusCode.FAILED_PRECONDITION),
        (text("x" * 101), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_a_request_of_one_item_fails_with_that_items_status(
    item: types_pb2.Item, code: grpc.StatusCode, world: World, inference: Any
) -> None:
    world.embedder.fails = {b"torn": TORN}

    assert (await failure(inference.GenerateEmbedding(request(item)))).code() == code


async def test_the_stages_are_in_the_trailing_metadata(inference: Any) -> None:
    call = inference.GenerateEmbedding(request())
    await call

    sent = dict(await call.trailing_metadata())
    assert sent["server-timing"] == "queue;dur=1.00, preprocess;dur=2.00, inference;dur=3.00, total;dur=0.00"
    assert UUID7.fullmatch(sent["x-request-id"])


@pytest.mark.parametrize("error", [leaf for leaf in leaves() if leaf.code != "cancelled"], ids=lambda e: e.code)
async def test_every_error_gives_the_tables_status_with_its_code(
    error: type[ModelMoraError], world: World, inference: Any
) -> None:
    world.embedder.raises = error("what went wrong", field="f", found="7", expected="6", retry_after_s=2.5)

    caught = await failure(inference.GenerateEmbedding(request(), metadata=(("x-request-id", "req-1"),)))

    assert (caught.code(), caught.details()) == (STATUSES[error.code].grpc, "what went wrong")
    sent = trailing(caught)
    assert (sent["modelmora-code"], sent["x-request-id"], sent["retry-after-s"]) == (error.code, "req-1", "2.5")
    assert (info(caught).reason, info(caught).domain) == (error.code.upper(), "modelmora")
    assert dict(info(caught).metadata) == {
        "code": error.code,
        "request_id": "req-1",
        "field": "f",
        "found": "7",
        "expected": "6",
    }


async def test_what_may_pass_says_when_to_come_back(world: World, inference: Any) -> None:
    world.embedder.raises = Overloaded("full")
    full = await failure(inference.GenerateEmbedding(request()))
    world.embedder.raises = OutOfMemory("too large")
    too_large = await failure(inference.GenerateEmbedding(request()))

    assert trailing(full)["retry-after-s"] == "1"
    assert "retry-after-s" not in trailing(too_large)


async def test_words_of_every_language_arrive(world: World, inference: Any) -> None:
    world.embedder.raises = InvalidInput("das Bild ist zerrissen: 図", found="図")

    caught = await failure(inference.GenerateEmbedding(request()))

    assert caught.details() == "das Bild ist zerrissen: 図"
    assert info(caught).metadata["found"] == "図"


async def test_a_defect_shows_nothing_of_the_inside(world: World, inference: Any) -> None:
    world.embedder.raises = RuntimeError("secret")

    caught = await failure(inference.GenerateEmbedding(request()))

    assert (caught.code(), trailing(caught)["modelmora-code"]) == (grpc.StatusCode.INTERNAL, "internal")
    assert "secret" not in repr(caught)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (pb.EmbeddingRequest(), "validation"),
        (request(model="nothing"), "model_not_found"),
        (request(model="clip@9.0.0"), "version_not_found"),
        (request(model="No!"), "validation"),
        (request(model="sam"), "capability_missing"),
        (request(*[text("a")] * 9), "limit_exceeded"),
    ],
)
async def test_a_request_that_cannot_be_served_is_refused(
    given: pb.EmbeddingRequest, code: str, world: World, inference: Any
) -> None:
    caught = await failure(inference.GenerateEmbedding(given))

    assert (trailing(caught)["modelmora-code"], caught.code()) == (code, STATUSES[code].grpc)
    assert world.embedder.asked == []


async def test_request_id_priority_and_truncate_travel_with_the_call(world: World, inference: Any) -> None:
    metadata = (("x-request-id", "req-1"), ("x-modelmora-priority", "bulk"))
    await inference.GenerateEmbedding(request(truncate=True), metadata=metadata)
    await inference.GenerateEmbedding(request(), metadata=(("x-request-id", "no id"),))

    first, second = (asked.call for asked in world.embedder.asked)
    assert (first.request_id, first.priority, first.truncate, first.face) == ("req-1", "bulk", True, "grpc")
    assert (second.priority, second.truncate) == ("interactive", False)
    assert UUID7.fullmatch(second.request_id)


@pytest.mark.parametrize(("name", "given"), [("x-modelmora-priority", "urgent"), ("x-modelmora-timeout-ms", "soon")])
async def test_metadata_of_no_sense_is_refused(name: str, given: str, world: World, inference: Any) -> None:
    caught = await failure(inference.GenerateEmbedding(request(), metadata=((name, given),)))

    assert (caught.code(), info(caught).metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, name)
    assert world.embedder.asked == []


async def test_the_deadline_is_grpcs_own_else_the_metadatas_else_the_default(world: World, inference: Any) -> None:
    before = time.monotonic()
    await inference.GenerateEmbedding(request(), timeout=5)
    await inference.GenerateEmbedding(request(), metadata=(("x-modelmora-timeout-ms", "2000"),))
    await inference.GenerateEmbedding(request())

    after = time.monotonic()
    for asked, seconds in zip(world.embedder.asked, (5, 2, 10), strict=True):
        assert before + seconds - 0.1 <= asked.call.deadline <= after + seconds + 0.1  # gRPC's clock is another


async def test_a_deadline_that_passes_reaches_the_embedder(world: World, inference: Any) -> None:
    world.embedder.hold = asyncio.Event()

    caught = await failure(inference.GenerateEmbedding(request(), timeout=0.2))

    assert caught.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        await world.embedder.cancelled.wait()


async def test_a_caller_who_leaves_is_noticed_by_the_embedder(world: World, inference: Any) -> None:
    world.embedder.hold = asyncio.Event()
    call = inference.GenerateEmbedding(request())
    async with asyncio.timeout(10):
        await world.embedder.entered.wait()

        call.cancel()

        await world.embedder.cancelled.wait()


async def test_models_are_listed_and_looked_up(world: World, management: Any) -> None:
    world.host.views = [worker("default-1-100", holding(CLIP), holding(VIT, "failed", error="no folder"))]

    every = await management.ListModels(management_pb2.ListModelsRequest())
    some = await management.ListModels(management_pb2.ListModelsRequest(type="segmentation"))
    one = await management.GetModel(management_pb2.GetModelRequest(model="vit"))

    assert [(m.name, m.version, m.state) for m in every.models] == [
        ("clip", "1.0.0", "loaded"),
        ("vit", "1.0.0", "unloaded"),
        ("vit", "2.0.0-rc.1", "failed"),
        ("sam", "1.0.0", "unloaded"),
    ]
    assert [m.name for m in some.models] == ["sam"]
    assert (one.provider, one.source, one.group, one.error) == ("noop", "hub:somebody/vit", "default", "no folder")
    assert (every.models[0].bytes, list(every.models[0].workers), every.models[0].default) == (
        2**20,
        ["default-1-100"],
        True,
    )


async def test_a_model_is_loaded_warmed_and_unloaded(world: World, management: Any) -> None:
    before = time.monotonic()
    loaded = await management.LoadModel(management_pb2.LoadModelRequest(model="vit"), timeout=5)
    warm = await management.WarmupModel(management_pb2.WarmupModelRequest(model="vit@1.0.0"))
    gone = await management.UnloadModel(management_pb2.UnloadModelRequest(model="vit"))

    assert [(r.model, r.version, r.state, r.bytes) for r in (loaded, warm, gone)] == [
        ("vit", "2.0.0-rc.1", "loaded", 2**20),
        ("vit", "1.0.0", "loaded", 2**20),
        ("vit", "2.0.0-rc.1", "unloaded", 0),
    ]
    assert list(loaded.workers) == ["default-1-100"]
    assert loaded.ms == pytest.approx(12.34)
    assert world.host.changes == [("load", VIT.key), ("warmup", "vit@1.0.0"), ("unload", VIT.key)]
    after = time.monotonic()
    for deadline, seconds in zip(world.host.deadlines, (5, 10, 10), strict=True):
        assert before + seconds - 0.1 <= deadline <= after + seconds + 0.1


async def test_management_fails_as_inference_does(world: World, management: Any) -> None:
    world.host.troubles[VIT.key] = DependencyUnavailable("no runner", retry_after_s=5)

    load = await failure(management.LoadModel(management_pb2.LoadModelRequest(model="vit")))
    missing = await failure(management.GetModel(management_pb2.GetModelRequest(model="clipp")))
    nameless = await failure(management.GetModel(management_pb2.GetModelRequest()))
    kind = await failure(management.ListModels(management_pb2.ListModelsRequest(type="audio")))

    assert (load.code(), trailing(load)["retry-after-s"]) == (grpc.StatusCode.UNAVAILABLE, "5")
    assert "did you mean 'clip'?" in (missing.details() or "")
    assert [trailing(e)["modelmora-code"] for e in (load, missing, nameless, kind)] == [
        "dependency_unavailable",
        "model_not_found",
        "validation",
        "validation",
    ]


async def test_a_message_over_the_limit_is_refused_and_the_server_goes_on(inference: Any) -> None:
    large = types_pb2.Item(image=b"x" * (2**20 + 1))

    assert (await failure(inference.GenerateEmbedding(request(large)))).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len((await inference.GenerateEmbedding(request())).results) == 2


async def test_reflection_lists_the_services(channel: grpc.aio.Channel) -> None:
    stub = cast(Any, reflection_pb2_grpc.ServerReflectionStub)(channel)

    async def questions() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async for answer in stub.ServerReflectionInfo(questions()):
        names = {service.name for service in answer.list_services_response.service}

    assert names == {
        "modelmora.v1.ModelInference",
        "modelmora.v1.ModelManagement",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize("service", ["", "modelmora.v1.ModelInference", "modelmora.v1.ModelManagement"])
async def test_health_turns_at_the_drain_and_calls_go_on(
    service: str, grpc_server: GrpcServer, channel: grpc.aio.Channel, inference: Any
) -> None:
    health = cast(Any, health_pb2_grpc.HealthStub(channel))
    asked = health_pb2.HealthCheckRequest(service=service)
    watched = health.Watch(asked)

    before = [(await health.Check(asked)).status, (await watched.read()).status]
    await grpc_server.drain()
    after = [(await health.Check(asked)).status, (await watched.read()).status]
    watched.cancel()

    assert before == [health_pb2.HealthCheckResponse.SERVING] * 2
    assert after == [health_pb2.HealthCheckResponse.NOT_SERVING] * 2
    assert len((await inference.GenerateEmbedding(request())).results) == 2


async def test_health_of_an_unknown_service_is_not_found(channel: grpc.aio.Channel) -> None:
    health = cast(Any, health_pb2_grpc.HealthStub(channel))

    caught = await failure(health.Check(health_pb2.HealthCheckRequest(service="nobody")))

    assert caught.code() == grpc.StatusCode.NOT_FOUND


async def test_stopping_lets_running_calls_finish(world: World, grpc_server: GrpcServer, inference: Any) -> None:
    world.embedder.hold = asyncio.Event()
    call = inference.GenerateEmbedding(request())
    async with asyncio.timeout(10):
        await world.embedder.entered.wait()
        stopping = asyncio.create_task(grpc_server.stop(10))
        world.embedder.hold.set()

        assert len((await call).results) == 2
        await stopping


async def test_a_taken_port_is_told_with_the_setting_to_change(world: World, grpc_server: GrpcServer) -> None:
    second = GrpcServer(
        world.application(), host="127.0.0.1", port=grpc_server.port, max_message_bytes=2**20, share=False
    )

    with pytest.raises(DependencyUnavailable, match=r"the port is taken; set MODELMORA_GRPC_PORT"):
        await second.start()
