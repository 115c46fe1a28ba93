"""The RPC `Predict`: tensors as messages, the same refusals as over HTTP."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.tensors import Tensor, pack
from modelmora.errors import Fault, SchemaMismatch
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc, types_pb2
from tests.fakes import CATALOGUE, IRIS, IRIS_DESCRIBED, STAGES, World, until

FEATURES = np.array([[5.1, 3.5, 1.4, 0.2]], "<f4")
DTYPES = {
    types_pb2.DTYPE_UNSPECIFIED: "float32",
    types_pb2.DTYPE_FLOAT32: "float32",
    types_pb2.DTYPE_FLOAT16: "float16",
    types_pb2.DTYPE_FLOAT64: "float64",
    types_pb2.DTYPE_UINT8: "uint8",
    types_pb2.DTYPE_UINT16: "uint16",
    types_pb2.DTYPE_UINT32: "uint32",
    types_pb2.DTYPE_UINT64: "uint64",
    types_pb2.DTYPE_INT8: "int8",
    types_pb2.DTYPE_INT16: "int16",
    types_pb2.DTYPE_INT32: "int32",
    types_pb2.DTYPE_INT64: "int64",
    types_pb2.DTYPE_BOOL: "bool",
    types_pb2.DTYPE_BYTES: "bytes",
}


@pytest.fixture
def world() -> World:
    world = World(catalogue=Catalogue((*CATALOGUE.models, IRIS), CATALOGUE.groups))
    world.describer.known = {IRIS.key: IRIS_DESCRIBED}
    world.predictor.gives = {
        "scores": Tensor(dtype="float32", shape=(1, 3), data=np.zeros((1, 3), "<f4").tobytes()),
        "class": Tensor(dtype="bytes", shape=(1,), data=pack([b"setosa"])),
    }
    return world


@pytest.fixture
def inference(channel: grpc.aio.Channel) -> Any:
    return inference_pb2_grpc.ModelInferenceStub(channel)


def named(name: str, array: Any = FEATURES, dtype: Any = types_pb2.DTYPE_FLOAT32) -> pb.NamedTensor:
    return pb.NamedTensor(
        name=name, tensor=types_pb2.Vector(data=array.tobytes(), dtype=dtype, shape=list(array.shape))
    )


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def error_of(error: grpc.aio.AioRpcError) -> types_pb2.ItemError:
    metadata: dict[str, Any] = dict(error.trailing_metadata() or ())
    return types_pb2.ItemError.FromString(metadata["modelmora-error-bin"])


async def test_tensors_go_in_and_outputs_come_back(world: World, inference: Any) -> None:
    answer = await inference.Predict(pb.PredictRequest(inputs=[named("features")]))

    assert (answer.model, answer.version) == ("iris", "1.0.0")
    assert [(one.name, one.tensor.dtype, list(one.tensor.shape)) for one in answer.outputs] == [
        ("scores", types_pb2.DTYPE_FLOAT32, [1, 3]),
        ("class", types_pb2.DTYPE_BYTES, [1]),
    ]
    assert answer.outputs[1].tensor.data == pack([b"setosa"])
    assert [list(one.labels) for one in answer.outputs] == [["setosa"], []]
    assert world.predictor.asked[0][1] == {"features": Tensor(dtype="float32", shape=(1, 4), data=FEATURES.tobytes())}


async def test_every_dtype_of_the_protocol_has_its_name(world: World, inference: Any) -> None:
    assert set(DTYPES) == set(types_pb2.DType.values())

    for value, name in DTYPES.items():
        await inference.Predict(pb.PredictRequest(inputs=[named("features", dtype=value)]))
        assert world.predictor.asked[-1][1]["features"].dtype == name


async def test_the_timings_are_in_the_trailing_metadata(inference: Any) -> None:
    call = inference.Predict(pb.PredictRequest(inputs=[named("features")]), metadata=(("x-request-id", "r-1"),))
    await call

    trailing = dict(await call.trailing_metadata())
    assert trailing["x-request-id"] == "r-1"
    assert re.fullmatch(STAGES, trailing["server-timing"])


async def test_only_the_outputs_asked_for_come_back(world: World, inference: Any) -> None:
    answer = await inference.Predict(pb.PredictRequest(inputs=[named("features")], outputs=["class"]))

    assert [one.name for one in answer.outputs] == ["class"]
    assert world.predictor.asked[0][2] == ("class",)


@pytest.mark.parametrize(
    ("inputs", "place", "found", "expected"),
    [
        ([named("a"), named("b"), named("a")], "inputs[2]", "a", "each input once"),
        (
            [named("a", dtype=99)],
            "inputs[0].tensor.dtype",
            "99",
            "bool, uint8, uint16, uint32, uint64, int8, int16, int32, int64, float16, float32, float64, bytes",
        ),
    ],
    ids=["twice", "no dtype"],
)
async def test_inputs_that_make_no_sense_are_told_by_their_place(
    inputs: list[pb.NamedTensor], place: str, found: str, expected: str, inference: Any
) -> None:
    error = await failure(inference.Predict(pb.PredictRequest(inputs=inputs)))

    told = error_of(error)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (told.code, told.field, told.found, told.expected) == ("schema_mismatch", place, found, expected)


async def test_what_the_schema_finds_names_the_field(world: World, inference: Any) -> None:
    world.predictor.raises = SchemaMismatch(
        "a row too long", field="inputs.features", found="(1, 5)", expected="(batch, 4)"
    )

    told = error_of(await failure(inference.Predict(pb.PredictRequest(inputs=[named("features")]))))

    assert (told.field, told.found, told.expected) == ("inputs.features", "(1, 5)", "(batch, 4)")


async def test_every_fault_is_in_the_details_as_far_as_there_is_room(world: World, inference: Any) -> None:
    faults = [
        Fault("schema_mismatch", f"row {row} is out of range: " + "x" * 400, field=f"inputs.features[{row}]")
        for row in range(40)
    ]
    world.predictor.raises = SchemaMismatch("y" * 20_000, field="inputs.features", found="z" * 5_000, faults=faults)

    error = await failure(inference.Predict(pb.PredictRequest(inputs=[named("features")])))

    metadata: dict[str, Any] = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    told = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(told)
    places = [violation.field for violation in told.field_violations]
    assert places[:2] == ["inputs.features[0]", "inputs.features[1]"]
    assert 3 < len(places) < 40
    assert (error.code(), len(error.details() or "")) == (grpc.StatusCode.INVALID_ARGUMENT, 1_000)


async def test_a_model_that_takes_no_tensors_says_what_it_can(inference: Any) -> None:
    error = await failure(inference.Predict(pb.PredictRequest(model="clip", inputs=[named("features")])))

    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "it can embed pictures and embed texts" in str(error.details())


async def test_a_cancelled_call_frees_the_work(world: World, inference: Any) -> None:
    world.predictor.hold = asyncio.Event()
    call = inference.Predict(pb.PredictRequest(inputs=[named("features")]))

    asking = asyncio.ensure_future(call)
    await world.predictor.entered.wait()
    call.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    await until(world.predictor.cancelled.is_set)


async def test_a_tensor_of_too_many_axes_is_refused_before_it_is_read(inference: Any) -> None:
    deep = pb.NamedTensor(name="features", tensor=types_pb2.Vector(shape=[1] * 100_000))

    told = error_of(await failure(inference.Predict(pb.PredictRequest(inputs=[deep]))))

    assert (told.code, told.field) == ("schema_mismatch", "inputs[0].tensor.shape")
    assert (told.found, told.expected) == ("100000 axes", "at most 32")


async def test_without_room_tensors_are_not_looked_at(world: World, inference: Any) -> None:
    world.capacity.most = 0
    wrong = pb.NamedTensor(name="features", tensor=types_pb2.Vector(shape=[1] * 100))

    assert error_of(await failure(inference.Predict(pb.PredictRequest(inputs=[wrong])))).code == "overloaded"
