"""Tensors through the client, over each wire, against the real doors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from modelmora.client import Array, Client, Retry, SyncClient, Tensor, tensor
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.faults import mismatch
from modelmora.domain.tensors import pack
from modelmora.errors import (
    CapabilityMissing,
    DeadlineExceeded,
    Fault,
    InvalidInput,
    ModelLoading,
    ModelNotFound,
    SchemaMismatch,
    ValidationFailed,
    WrongState,
)
from tests.doors.client_doors import connected
from tests.doors.client_script import Script
from tests.doors.client_servers import grpc_server
from tests.fakes import CATALOGUE, IRIS, IRIS_DESCRIBED, TIMINGS, World, until

ROWS = [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]]
FEATURES = Tensor(dtype="float32", shape=(2, 4), data=np.array(ROWS, "<f4").tobytes())
SCORES = np.array([[0.75, 0.25, 0], [0, 0.5, 0.125]], "<f4")


@pytest.fixture(params=["grpc", "http"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world() -> World:
    world = World(catalogue=Catalogue((*CATALOGUE.models, IRIS), CATALOGUE.groups))
    world.describer.known = {IRIS.key: IRIS_DESCRIBED}
    world.predictor.gives = {
        "scores": Tensor(dtype="float32", shape=(2, 3), data=SCORES.tobytes()),
        "class": Tensor(dtype="bytes", shape=(2,), data=pack([b"setosa", b"\xff"])),
    }
    return world


@pytest.fixture
async def client(wire: str, world: World) -> AsyncIterator[Client]:
    async with connected(wire, world) as client:
        yield client


@pytest.mark.parametrize(
    "features",
    [
        ROWS,
        [[np.float32(value) for value in row] for row in ROWS],
        [np.array(row, "<f4") for row in ROWS],
        np.array(ROWS, "<f4"),
        np.array(ROWS, ">f4"),
        np.array(ROWS, "<f4", order="F"),
        np.repeat(np.array(ROWS, "<f4"), 2, axis=1)[:, ::2],
        tensor(ROWS, "float32"),
        FEATURES,
    ],
    ids=["lists", "numpy's numbers", "arrays in a list", "array", "big-endian", "columns", "strided", "told", "tensor"],
)
async def test_inputs_arrive_however_they_are_given(client: Client, world: World, features: Any) -> None:
    if isinstance(features, list) and isinstance(features[0], list) and isinstance(features[0][0], np.float32):
        assert tensor(features).dtype == "float32"
    prediction = await client.predict({"features": features})

    assert world.predictor.asked[-1][1] == {"features": FEATURES}
    assert (prediction.key, prediction.timings) == ("iris@1.0.0", TIMINGS)
    assert prediction["scores"].tolist() == SCORES.tolist()
    assert np.array_equal(np.asarray(prediction["scores"]), SCORES)
    assert prediction["class"].tolist() == [b"setosa", b"\xff"]
    assert {name: len(labels) for name, labels in prediction.labels.items()} == {"scores": len(SCORES)}
    assert set(prediction.labels["scores"]) <= {"setosa", "versicolor", "virginica"}


async def test_only_the_outputs_named_are_answered(client: Client, world: World) -> None:
    prediction = await client.predict({"features": ROWS}, outputs=["scores"], model="iris", priority="bulk")
    assert [*prediction.outputs] == ["scores"]
    _, _, outputs, call = world.predictor.asked[0]
    assert (outputs, call.priority) == (("scores",), "bulk")


async def test_an_output_goes_in_again(client: Client, world: World) -> None:
    world.predictor.gives = {"features": FEATURES}
    first = await client.predict({"features": ROWS})
    await client.predict({"features": first["features"]})
    assert world.predictor.asked[1][1] == world.predictor.asked[0][1]


async def test_what_is_wrong_is_told_by_field(client: Client, world: World) -> None:
    faults = [
        Fault("schema_mismatch", "a text", field="inputs.features[0][3]", found="a text", expected="a number"),
        Fault("schema_mismatch", "is missing", field="inputs.more", found="nothing", expected="float32"),
    ]
    world.predictor.raises = mismatch(faults)
    with pytest.raises(SchemaMismatch) as caught:
        await client.predict({"features": ROWS})
    error = caught.value
    assert (error.field, error.found, error.expected) == ("inputs.features[0][3]", "a text", "a number")
    assert len(world.predictor.asked) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([[1.0], [1.0, 2.0]], "ragged"),
        ([1.0, [2.0]], "ragged"),
        ([1.0, "two"], "of no kind"),
        (None, "of no kind"),
        ({"a": 1.0}, "of no kind"),
        (np.array([1 + 2j]), "no such dtype"),
        (np.array(["2026-01-01"], dtype="datetime64[D]"), "no such dtype"),
        ([np.zeros(2), np.zeros(3)], "no array"),
        (np.array([object()]), "neither a text nor bytes"),
        (Tensor(dtype="complex", shape=(1,), data=b"1234"), "no such dtype"),  # type: ignore[arg-type]
        (Tensor(dtype="int8", shape=(-1,), data=b"1234"), "no shape"),
    ],
)
async def test_what_is_no_tensor_is_refused_before_it_is_sent(
    client: Client, world: World, given: Any, told: str
) -> None:
    with pytest.raises(ValidationFailed, match=told) as caught:
        await client.predict({"features": given})
    assert (caught.value.field or "").startswith("inputs.features")
    assert world.predictor.asked == []


async def test_names_are_texts(client: Client) -> None:
    with pytest.raises(ValidationFailed, match="outputs is no list"):
        await client.predict({"features": ROWS}, outputs="scores")
    with pytest.raises(ValidationFailed, match=r"inputs\[0\] is no text"):
        await client.predict({3: ROWS})  # type: ignore[dict-item]
    with pytest.raises(InvalidInput, match="no Unicode"):
        await client.predict({"\udce9": ROWS})


async def test_what_concerns_the_model_is_raised(client: Client) -> None:
    with pytest.raises(ModelNotFound):
        await client.predict({"features": ROWS}, model="gone")
    with pytest.raises(CapabilityMissing):
        await client.predict({"features": ROWS}, model="clip")


async def test_a_model_that_is_on_its_way_is_waited_for(client: Client, world: World) -> None:
    world.predictor.raises = ModelLoading("soon", retry_after_s=0.01)

    async def load() -> None:
        await until(lambda: len(world.predictor.asked) > 1)
        world.predictor.raises = None

    loading = asyncio.create_task(load())
    assert (await client.predict({"features": ROWS})).model == "iris"
    await loading


async def test_patience_has_an_end(wire: str, world: World) -> None:
    world.predictor.raises = ModelLoading("soon")
    async with connected(wire, world, retry=Retry(retries=1, initial_s=0.001)) as client:
        with pytest.raises(ModelLoading):
            await client.predict({"features": ROWS})
    assert len(world.predictor.asked) == 2


async def test_the_deadline_is_kept_and_who_leaves_frees_the_server(client: Client, world: World) -> None:
    world.predictor.hold = asyncio.Event()
    with pytest.raises(DeadlineExceeded):
        await client.predict({"features": ROWS}, timeout=0.3)
    world.predictor.entered.clear()
    waiting = asyncio.create_task(client.predict({"features": ROWS}))
    await asyncio.wait_for(world.predictor.entered.wait(), 10)
    world.predictor.cancelled.clear()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.wait_for(world.predictor.cancelled.wait(), 10)


async def test_a_closed_client_says_so(client: Client) -> None:
    await client.close()
    with pytest.raises(WrongState, match="closed"):
        await client.predict({"features": ROWS})


def test_the_sync_client_predicts() -> None:
    with grpc_server(Script()) as url, SyncClient(url) as client:
        inputs: dict[str, Any] = {"x": [[True, False]], "y": 3, "z": ["text", b"\0"]}
        prediction = client.predict(inputs)
    assert {name: one.tolist() for name, one in prediction.outputs.items()} == {
        "x": [[True, False]],
        "y": 3,
        "z": [b"text", b"\0"],
    }
    assert all(isinstance(one, Array) for one in prediction.outputs.values())
