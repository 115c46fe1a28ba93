"""The RPC `Compare`: the same outcomes as over HTTP, as messages."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import grpc
import numpy as np
import pytest

from modelmora.errors import InvalidInput
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc, types_pb2
from tests.fakes import STAGES, World, until, vector_of

TORN = InvalidInput("the picture is cut off", field="image", found="4 bytes", expected="a whole picture")


@pytest.fixture
def inference(channel: grpc.aio.Channel) -> Any:
    return inference_pb2_grpc.ModelInferenceStub(channel)


def text(content: str, id_: str = "") -> types_pb2.Item:
    return types_pb2.Item(id=id_, text=content)


def matrix(vector: types_pb2.Vector) -> Any:
    assert vector.dtype == types_pb2.DTYPE_FLOAT32
    return np.frombuffer(vector.data, "<f4").reshape(list(vector.shape))


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_each_model_answers_with_vectors_measures_and_similarities(inference: Any) -> None:
    picture = types_pb2.Item(id="p", image=b"a picture")

    answer = await inference.Compare(pb.CompareRequest(models=["vit", "clip"], items=[picture, text("a", "t")]))

    assert [(one.model, one.version, one.dimension) for one in answer.comparisons] == [
        ("vit", "2.0.0-rc.1", 4),
        ("clip", "1.0.0", 4),
    ]
    clip = answer.comparisons[1]
    assert clip.bytes == 2**20
    assert [(r.index, r.id) for r in clip.results] == [(0, "p"), (1, "t")]
    vectors = np.array([np.frombuffer(r.embedding.data, "<f4") for r in clip.results])
    assert vectors.tolist() == [vector_of(b"a picture"), vector_of(b"a")]
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert matrix(clip.similarities) == pytest.approx(units @ units.T, abs=1e-6)
    assert re.fullmatch(STAGES, clip.server_timing)


async def test_the_timings_of_the_whole_are_in_the_trailing_metadata(inference: Any) -> None:
    call = inference.Compare(pb.CompareRequest(models=["clip"], items=[text("a")]))
    await call

    assert re.fullmatch(STAGES, dict(await call.trailing_metadata())["server-timing"])


async def test_a_model_or_an_item_that_fails_leaves_the_others_whole(world: World, inference: Any) -> None:
    world.embedder.fails = {b"torn": TORN}

    answer = await inference.Compare(
        pb.CompareRequest(models=["cliff", "clip"], items=[text("a", "x"), text("torn", "y"), types_pb2.Item()])
    )

    unknown, clip = answer.comparisons
    assert (unknown.model, unknown.error.code, len(unknown.results)) == ("cliff", "model_not_found", 0)
    assert [(r.id, r.error.code) for r in clip.results] == [("x", ""), ("y", "invalid_input"), ("", "validation")]
    assert np.isnan(matrix(clip.similarities)).tolist() == [[False, True, True], [True] * 3, [True] * 3]
    assert not clip.HasField("error")


@pytest.mark.parametrize(
    ("models", "contents", "code"),
    [
        (["nothing"], ["a", "b"], grpc.StatusCode.NOT_FOUND),
        (["clip"], ["torn"], grpc.StatusCode.INVALID_ARGUMENT),
        ([], ["a"], grpc.StatusCode.INVALID_ARGUMENT),
        (["clip", "vit", "clip"], ["a"], grpc.StatusCode.INVALID_ARGUMENT),
        ([f"m{i}" for i in range(17)], ["a"], grpc.StatusCode.RESOURCE_EXHAUSTED),
        (["clip"], [], grpc.StatusCode.INVALID_ARGUMENT),
        (["clip"], ["a"] * 9, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_what_fails_as_a_whole_has_its_status(
    models: list[str], contents: list[str], code: grpc.StatusCode, world: World, inference: Any
) -> None:
    world.embedder.fails = {b"torn": TORN}

    error = await failure(inference.Compare(pb.CompareRequest(models=models, items=[text(c) for c in contents])))

    assert error.code() == code


async def test_a_cancelled_call_frees_the_work_of_every_model(world: World, inference: Any) -> None:
    world.embedder.hold = asyncio.Event()
    call = inference.Compare(pb.CompareRequest(models=["clip", "vit"], items=[text("a")]))

    asking = asyncio.ensure_future(call)
    await until(lambda: world.embedder.running == 2)
    call.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    await until(lambda: world.embedder.running == 0)
