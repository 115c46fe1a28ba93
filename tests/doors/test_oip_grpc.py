"""`inference.GRPCInferenceService`: the same over gRPC, in the protocol's own messages."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from api.grpc.server import GrpcServer
from api.oip import stream
from api.oip.stream import spread
from modelmora.domain.inference import Image, Text
from modelmora.domain.tensors import pack, unpack
from modelmora.errors import Cancelled, InvalidInput, Overloaded, SchemaMismatch
from modelmora.proto import open_inference_pb2 as pb
from modelmora.proto import open_inference_pb2_grpc
from tests.architecture.tree import ROOT
from tests.doors.open_inference import LABEL, ROWS, Y, tensor_world
from tests.fakes import CLIP, STAGES, VIT, World, holding, until, vector_of, worker

Input = pb.ModelInferRequest.InferInputTensor
Contents = pb.InferTensorContents
Wanted = pb.ModelInferRequest.InferRequestedOutputTensor


@pytest.fixture
def world() -> World:
    return tensor_world()


@pytest.fixture
def service(channel: grpc.aio.Channel) -> Any:
    return open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def pictures(*contents: bytes, model: str = "clip", **more: Any) -> pb.ModelInferRequest:
    told = Input(name="image", datatype="BYTES", shape=[len(contents)])
    return pb.ModelInferRequest(model_name=model, inputs=[told], raw_input_contents=[pack(contents)], **more)


def typed(name: str, datatype: str, shape: list[int], **contents: Any) -> Input:
    return Input(name=name, datatype=datatype, shape=shape, contents=Contents(**contents))


def net(*inputs: Input, raw: tuple[bytes, ...] = (), **more: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name="net", inputs=inputs, raw_input_contents=raw, **more)


X = Input(name="x", datatype="FP32", shape=[2, 3])
MISSING = "model_not_found"


async def refused(call: Any, status: str, code: str) -> str:
    """The message, which is all that clients of the protocol show."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailing = dict(caught.value.trailing_metadata() or ())
    assert (caught.value.code().name, trailing["modelmora-code"]) == (status, code), caught.value.details()
    return caught.value.details() or ""


async def test_the_server_says_that_it_lives_what_it_is_and_what_it_can(world: World, service: Any) -> None:
    assert (await service.ServerLive(pb.ServerLiveRequest())).live
    assert (await service.ServerReady(pb.ServerReadyRequest())).ready
    told = await service.ServerMetadata(pb.ServerMetadataRequest())
    assert (told.name, told.version) == ("modelmora", "9.9.9")
    assert "binary_tensor_data" in told.extensions

    world.host.views = []

    assert not (await service.ServerReady(pb.ServerReadyRequest())).ready


async def test_reflection_and_health_know_the_service(channel: grpc.aio.Channel, grpc_server: GrpcServer) -> None:
    name = "inference.GRPCInferenceService"
    stub: Any = reflection_pb2_grpc.ServerReflectionStub  # its types are unfinished
    asked = iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)])
    answers = [answer async for answer in stub(channel).ServerReflectionInfo(asked)]
    health: Any = health_pb2_grpc.HealthStub(channel)

    assert answers[0].WhichOneof("message_response") == "file_descriptor_response"
    assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == 1


async def test_a_model_says_what_it_takes_and_gives(service: Any) -> None:
    clip = await service.ModelMetadata(pb.ModelMetadataRequest(name="clip"))
    vit = await service.ModelMetadata(pb.ModelMetadataRequest(name="vit", version="1.0.0"))
    told = await service.ModelMetadata(pb.ModelMetadataRequest(name="net@1.2.0"))

    assert [(one.name, one.datatype, list(one.shape)) for one in clip.inputs] == [
        ("image", "BYTES", [-1]),
        ("text", "BYTES", [-1]),
    ]
    assert [(one.name, one.datatype, list(one.shape)) for one in clip.outputs] == [("embedding", "FP32", [-1, 4])]
    assert list(vit.versions) == ["1.0.0", "2.0.0-rc.1"]
    assert told.platform == "onnxruntime_onnx"
    assert [(one.name, list(one.shape)) for one in told.inputs] == [("x", [-1, 3]), ("mask", [-1, -1])]


async def test_the_configuration_is_told_in_tritons_message(service: Any) -> None:
    config = (await service.ModelConfig(pb.ModelConfigRequest(name="net"))).config

    assert (config.name, config.backend, config.max_batch_size) == ("net", "onnx", 32)
    assert [(one.name, one.data_type, list(one.dims), one.optional) for one in config.input] == [
        ("x", pb.TYPE_FP32, [3], False),
        ("mask", pb.TYPE_BOOL, [-1], True),
    ]
    assert [(one.name, one.data_type) for one in config.output] == [("y", pb.TYPE_FP64), ("label", pb.TYPE_STRING)]


async def test_a_model_is_ready_while_a_worker_holds_it(world: World, service: Any) -> None:
    world.host.views = [worker("default-1-100", holding(CLIP), holding(VIT, "loading"))]

    ready = [
        (await service.ModelReady(pb.ModelReadyRequest(name=name))).ready for name in ("clip", "vit", "clip@1.0.0")
    ]

    assert ready == [True, False, True]


async def test_an_unknown_model_or_version_is_named_with_what_there_is(service: Any) -> None:
    unknown, strange = pb.ModelReadyRequest(name="clipp"), pb.ModelMetadataRequest(name="clip", version="9.0.0")

    assert "did you mean 'clip'" in await refused(service.ModelReady(unknown), "NOT_FOUND", "model_not_found")
    assert "it has 1.0.0" in await refused(service.ModelMetadata(strange), "NOT_FOUND", "version_not_found")
    nameless = service.ModelInfer(pictures(b"a", model=""))
    assert "model is not a name" in await refused(nameless, "INVALID_ARGUMENT", "validation")


async def test_pictures_become_vectors_in_raw_form(world: World, service: Any) -> None:
    call = service.ModelInfer(pictures(b"one", b"two", id="42", model_version="1.0.0"))
    answer, trailing = await call, dict(await call.trailing_metadata())

    assert (answer.model_name, answer.model_version, answer.id) == ("clip", "1.0.0", "42")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("embedding", "FP32", [2, 4])
    vectors = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(2, 4)
    assert vectors.tolist() == [vector_of(b"one"), vector_of(b"two")]
    assert re.fullmatch(STAGES, str(trailing["server-timing"]))
    assert world.embedder.asked[0].items == (Image(b"one"), Image(b"two"))
    assert world.embedder.asked[0].call.face == "grpc"


async def test_texts_may_be_typed_contents(world: World, service: Any) -> None:
    told = typed("text", "BYTES", [2, 1], bytes_contents=["ein Häschen".encode(), b"two"])
    parameters = {"truncate": pb.InferParameter(bool_param=True), "mine": pb.InferParameter(string_param="x")}

    answer = await service.ModelInfer(pb.ModelInferRequest(model_name="clip", inputs=[told], parameters=parameters))

    assert list(answer.outputs[0].shape) == [2, 4]
    assert world.embedder.asked[0].items == (Text("ein Häschen"), Text("two"))
    assert world.embedder.asked[0].call.truncate


async def test_the_first_item_that_fails_fails_the_call_and_is_named(world: World, service: Any) -> None:
    world.embedder.fails = {b"torn": InvalidInput("the picture is cut off", field="image", found="4 bytes")}

    said = await refused(service.ModelInfer(pictures(b"whole", b"torn")), "INVALID_ARGUMENT", "invalid_input")

    assert said == "image[1]: the picture is cut off (image[1], found 4 bytes)"


async def test_tensors_go_through_a_model_in_the_order_asked_for(world: World, service: Any) -> None:
    wanted = [Wanted(name="label"), Wanted(name="y")]

    answer = await service.ModelInfer(net(X, raw=(ROWS.tobytes(),), outputs=wanted))

    assert [(one.name, one.datatype) for one in answer.outputs] == [("label", "BYTES"), ("y", "FP64")]
    assert unpack(answer.raw_output_contents[0]) == [b"cat", "häschen".encode()]
    assert answer.raw_output_contents[1] == Y.data
    assert world.predictor.asked[0][1]["x"].data == ROWS.tobytes()


@pytest.mark.parametrize(
    ("datatype", "contents", "dtype"),
    [
        ("BOOL", {"bool_contents": [True, False]}, "?"),
        ("INT8", {"int_contents": [-128, 127]}, "<i1"),
        ("INT16", {"int_contents": [-5, 300]}, "<i2"),
        ("INT32", {"int_contents": [-5, 70_000]}, "<i4"),
        ("INT64", {"int64_contents": [-(2**63), 2**63 - 1]}, "<i8"),
        ("UINT8", {"uint_contents": [0, 255]}, "<u1"),
        ("UINT16", {"uint_contents": [0, 65_535]}, "<u2"),
        ("UINT32", {"uint_contents": [0, 2**32 - 1]}, "<u4"),
        ("UINT64", {"uint64_contents": [0, 2**64 - 1]}, "<u8"),
        ("FP32", {"fp32_contents": [0.5, float("nan")]}, "<f4"),
        ("FP64", {"fp64_contents": [0.1, 1e300]}, "<f8"),
    ],
)
async def test_typed_contents_of_every_datatype_are_taken(
    datatype: str, contents: dict[str, list[Any]], dtype: str, world: World, service: Any
) -> None:
    (values,) = contents.values()

    await service.ModelInfer(net(typed("x", datatype, [2], **contents)))

    assert world.predictor.asked[0][1]["x"].data == np.array(values, dtype).tobytes()


@pytest.mark.parametrize(
    ("inputs", "raw", "said"),
    [
        ([], (), "there are no inputs"),
        ([X], (), "0 elements"),
        ([X, X], (b"", b""), "FP32 [2, 3] has 24"),
        ([X], (ROWS.tobytes(), b""), "found 2, expected 1"),
        ([X], (ROWS.tobytes()[:-1],), "found 23 bytes, expected 24 bytes"),
        ([Input(name="x", datatype="FP32", shape=[-1, 3])], (b"",), "no list of sizes"),
        ([Input(name="x", datatype="BF16", shape=[1])], (b"12",), "BF16 is not taken"),
        ([Input(name="", datatype="FP32", shape=[1])], (b"1234",), "has no name"),
        ([typed("x", "FP16", [1], fp32_contents=[1.0])], (), "FP16 has no contents of its own"),
        ([typed("x", "FP32", [1], fp64_contents=[1.0])], (), "expected fp32_contents"),
        ([typed("x", "INT8", [1], int_contents=[128])], (), "out of the range of int8"),
        ([typed("x", "UINT8", [1], uint_contents=[256])], (), "out of the range of uint8"),
        ([typed("x", "BYTES", [2], bytes_contents=[b"a"])], (), "found 1 elements, expected 2 elements"),
        ([typed("x", "FP32", [1], fp32_contents=[1.0])], (b"1234",), "comes twice"),
    ],
)
async def test_what_cannot_be_understood_is_refused(
    inputs: list[Input], raw: tuple[bytes, ...], said: str, world: World, service: Any
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.ModelInfer(net(*inputs, raw=raw))

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert said in str(caught.value.details())
    assert world.predictor.asked == []


async def test_long_contents_are_read_like_short_ones(world: World, service: Any) -> None:
    rows = np.arange(60_000, dtype="<f4")

    await service.ModelInfer(net(typed("x", "FP32", [20_000, 3], fp32_contents=rows.tolist())))
    many = net(*(Input(name=f"x{i}", datatype="FP32", shape=[0]) for i in range(4_097)))

    assert world.predictor.asked[0][1]["x"].data == rows.tobytes()
    assert "at most 4096" in await refused(service.ModelInfer(many), "RESOURCE_EXHAUSTED", "limit_exceeded")


async def test_shared_memory_and_classification_are_refused_by_name(service: Any) -> None:
    region = Input(name="x", datatype="FP32", shape=[1], parameters={"shared_memory_region": pb.InferParameter()})
    best = Wanted(name="y", parameters={"classification": pb.InferParameter(int64_param=3)})

    shared = service.ModelInfer(net(region, raw=(b"1234",)))
    classified = service.ModelInfer(net(X, raw=(ROWS.tobytes(),), outputs=[best]))

    assert "there is no shared memory" in await refused(shared, "INVALID_ARGUMENT", "validation")
    assert "/v1/classify" in await refused(classified, "INVALID_ARGUMENT", "validation")


@pytest.mark.parametrize("column", ["column", "柱"])
async def test_everything_wrong_is_in_the_message_which_fits_a_header(column: str, world: World, service: Any) -> None:
    faults = [SchemaMismatch(f"{column} {i} is wrong").as_fault() for i in range(1_000)]
    world.predictor.raises = SchemaMismatch("much is wrong", faults=faults)

    said = await refused(service.ModelInfer(net(X, raw=(ROWS.tobytes(),))), "INVALID_ARGUMENT", "schema_mismatch")

    assert said.startswith(f"much is wrong; also: {column} 0 is wrong; {column} 1 is wrong")
    assert 990 < len(said.encode()) <= 1_000


async def test_the_deadline_is_grpcs_or_the_parameters(world: World, service: Any) -> None:
    request = net(X, raw=(ROWS.tobytes(),), parameters={"timeout": pb.InferParameter(int64_param=500_000)})

    await service.ModelInfer(request, timeout=30, metadata=(("x-modelmora-priority", "bulk"),))
    await service.ModelInfer(net(X, raw=(ROWS.tobytes(),)), timeout=3)

    calls = [asked[3] for asked in world.predictor.asked]
    assert calls[0].deadline <= time.monotonic() + 0.5
    assert calls[0].priority == "bulk"
    assert calls[1].deadline <= time.monotonic() + 3.2  # what gRPC tells of it is coarse


async def test_a_caller_who_leaves_frees_the_work(world: World, service: Any) -> None:
    world.predictor.hold = asyncio.Event()
    call = service.ModelInfer(net(X, raw=(ROWS.tobytes(),)))
    await until(world.predictor.entered.is_set)

    call.cancel()

    await until(world.predictor.cancelled.is_set)


async def test_a_stream_answers_each_inference_and_its_failures_with_its_id(world: World, service: Any) -> None:
    world.embedder.fails = {b"torn": Overloaded("the queue is full")}
    world.embedder.holds = {b"slow": asyncio.Event()}
    asked = [
        pictures(b"slow", id="slow"),
        pictures(b"torn", id="torn"),
        net(X, raw=(ROWS.tobytes(),), id="net"),
        pictures(b"a", model="none", id="none"),
        net(id="empty"),
    ]
    call = service.ModelStreamInfer()
    for request in asked:
        await call.write(request)

    quick = [await call.read() for _ in range(4)]
    world.embedder.holds[b"slow"].set()
    slow = await call.read()
    await call.done_writing()

    answers = {one.infer_response.id: one for one in quick}
    assert answers["torn"].error_message == "image[0]: the queue is full (image[0])"
    assert answers["net"].error_message == ""
    assert list(answers["net"].infer_response.raw_output_contents) == [Y.data, LABEL.data]
    assert "no model 'none'" in answers["none"].error_message
    assert "there are no inputs" in answers["empty"].error_message
    assert np.frombuffer(slow.infer_response.raw_output_contents[0], "<f4").tolist() == vector_of(b"slow")
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK
    assert world.embedder.asked[0].call.priority == "bulk"
    assert world.embedder.asked[0].call.deadline <= time.monotonic() + world.limits.timeout_ms / 1e3


async def test_a_stream_reads_no_further_than_its_window(world: World, service: Any) -> None:
    world.embedder.hold = asyncio.Event()
    sent = 0

    async def requests() -> AsyncIterator[pb.ModelInferRequest]:
        nonlocal sent
        for _ in range(100):
            yield pictures(*[b"x" * 4_000] * 8)
            sent += 1

    call = service.ModelStreamInfer(requests())
    await until(lambda: world.embedder.running == 16)
    held = sent
    world.embedder.hold.set()
    answers = [answer async for answer in call]

    assert len(answers) == sent == 100
    assert held < 100
    assert world.embedder.most == 16


async def test_leaving_a_stream_frees_all_its_work(world: World, service: Any) -> None:
    world.embedder.hold = asyncio.Event()
    call = service.ModelStreamInfer()
    for name in (b"a", b"b"):
        await call.write(pictures(name))
    await until(lambda: world.embedder.running == 2)

    call.cancel()

    await until(lambda: world.embedder.running == 0)
    assert world.embedder.cancelled.is_set()


async def test_a_stream_whose_caller_cannot_be_written_to_ends_with_its_work() -> None:
    stuck, dropped = asyncio.Event(), asyncio.Event()

    async def requests() -> AsyncIterator[str]:
        yield "stuck"
        yield "done"

    async def answer(request: str) -> str:
        if request == "done":
            return request
        try:
            await stuck.wait()
        except asyncio.CancelledError:
            dropped.set()
            raise
        return request

    async def write(_: str) -> None:
        raise RuntimeError("the RPC is over")

    with pytest.raises(Cancelled, match="the caller left"):
        await spread(requests(), answer, write, size=len)

    assert dropped.is_set()


@pytest.mark.parametrize(
    ("sizes", "begun"),
    [([1] * 20, 16), ([40, 24, 1], 2), ([60, 5], 1), ([100, 1], 1), ([30, 30, 4, 1], 3)],
    ids=["by number", "full", "too full", "one alone", "three"],
)
async def test_a_stream_is_read_while_there_is_room_by_number_and_by_bytes(
    sizes: list[int], begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WINDOW_BYTES", 64)
    under_way, gate, written = list[int](), asyncio.Event(), list[int]()

    async def requests() -> AsyncIterator[int]:
        for size in sizes:
            yield size

    async def answer(size: int) -> int:
        under_way.append(size)
        await gate.wait()
        return size

    async def write(size: int) -> None:
        written.append(size)

    spreading = asyncio.create_task(spread(requests(), answer, write, size=lambda size: size))
    await until(lambda: len(under_way) >= begun)
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(50)))
    held = len(under_way)
    gate.set()
    await spreading

    assert held == begun
    assert sorted(written) == sorted(sizes)


async def test_without_room_or_a_model_tensors_are_not_looked_at(world: World, service: Any) -> None:
    wrong = Input(name="x", datatype="FP8", shape=[2, 3])

    await refused(service.ModelInfer(pb.ModelInferRequest(model_name="nobody", inputs=[wrong])), "NOT_FOUND", MISSING)
    world.capacity.most = 0
    await refused(service.ModelInfer(net(wrong)), "UNAVAILABLE", "overloaded")


async def test_a_shape_of_too_many_axes_is_told_by_its_field(service: Any) -> None:
    deep = Input(name="x", datatype="FP32", shape=[1] * 1_000_000)

    said = await refused(service.ModelInfer(net(deep, raw=(bytes(4),))), "INVALID_ARGUMENT", "validation")

    assert "inputs[0].shape, found 1000000 axes, expected at most 32" in said


async def test_the_index_tells_every_model_and_its_state(world: World, service: Any) -> None:
    everything = await service.RepositoryIndex(pb.RepositoryIndexRequest())
    ready = await service.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))

    assert {(one.name, one.version, one.state) for one in everything.models} >= {
        ("clip", "1.0.0", "READY"),
        ("net", "1.2.0", "UNAVAILABLE"),
    }
    assert [one.name for one in ready.models] == ["clip"]


async def test_models_are_loaded_and_unloaded(world: World, service: Any) -> None:
    unload = {"unload_dependents": pb.ModelRepositoryParameter(bool_param=True)}

    await service.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="vit"))
    await service.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="vit", parameters=unload))

    assert world.host.changes == [("load", VIT.key), ("unload", VIT.key)]
    config = {"config": pb.ModelRepositoryParameter(string_param="{}")}
    changed = service.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="vit", parameters=config))
    assert "as the registry declares it" in await refused(changed, "INVALID_ARGUMENT", "validation")


NUMBERS = """
import importlib, json, sys

def told(message):
    for field in message.fields:
        of = field.message_type or field.enum_type
        yield field.full_name, [field.number, field.type, field.is_repeated, of.full_name if of else ""]
    for inner in message.nested_types:
        yield from told(inner)

facts = {}
for name in sys.argv[1:]:
    file = importlib.import_module(name).DESCRIPTOR
    for message in file.message_types_by_name.values():
        facts |= dict(told(message))
    for enum in file.enum_types_by_name.values():
        facts |= {f"{enum.full_name}.{value.name}": value.number for value in enum.values}
    for service in file.services_by_name.values():
        facts |= {
            rpc.full_name: [rpc.input_type.full_name, rpc.output_type.full_name]
            + [rpc.client_streaming, rpc.server_streaming]
            for rpc in service.methods
        }
print(json.dumps(facts))
"""


def numbers(*modules: str) -> dict[str, Any]:
    """Every number of a protocol, read in a process of its own: two modules of one protocol do not fit into one."""
    command = [sys.executable, "-c", NUMBERS, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return dict(json.loads(done.stdout))


def test_every_name_and_number_is_that_of_the_official_client() -> None:
    ours = numbers("modelmora.proto.open_inference_pb2")
    theirs = numbers("tritonclient.grpc.service_pb2", "tritonclient.grpc.model_config_pb2")

    assert len(ours) > 120
    assert {name: theirs.get(name) for name in ours} == ours
