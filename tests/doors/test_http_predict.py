"""`/v1/predict`: tensors as JSON in every way they may come, and what is wrong with them told by field."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.types import ASGIApp

from api.core import Core
from api.http.app import create_app
from api.http.predict import FORGIVEN, SMALL
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.tensors import Tensor, pack
from modelmora.errors import Fault, ModelLoading, Overloaded, SchemaMismatch
from tests.doors.conversation import Conversation
from tests.fakes import CATALOGUE, IRIS, IRIS_DESCRIBED, STAGES, World

ROWS = [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]]
FEATURES = Tensor(dtype="float32", shape=(2, 4), data=np.array(ROWS, "<f4").tobytes())
SCORES = np.array([[0.75, 0.25, 0], [0, 0.5, 0.125]], "<f4")


@pytest.fixture
def world() -> World:
    world = World(catalogue=Catalogue((*CATALOGUE.models, IRIS), CATALOGUE.groups))
    world.describer.known = {IRIS.key: IRIS_DESCRIBED}
    world.predictor.gives = {
        "scores": Tensor(dtype="float32", shape=(2, 3), data=SCORES.tobytes()),
        "class": Tensor(dtype="int64", shape=(2,), data=np.array([0, 1], "<i8").tobytes()),
    }
    return world


async def predict(http: httpx.AsyncClient, inputs: Any, **more: Any) -> httpx.Response:
    return await http.post("/v1/predict", json={"inputs": inputs, **more})


def given(world: World) -> Any:
    """The tensors that reached the runners."""
    return world.predictor.asked[-1][1]


async def test_nested_lists_go_in_and_outputs_come_back_with_their_labels(
    world: World, http: httpx.AsyncClient
) -> None:
    answer = await predict(http, {"features": ROWS})

    assert answer.status_code == 200
    assert answer.json() == {
        "model": "iris",
        "version": "1.0.0",
        "outputs": {
            "scores": {
                "dtype": "float32",
                "shape": [2, 3],
                "data": SCORES.tolist(),
                "labels": ["setosa", "versicolor"],
            },
            "class": {"dtype": "int64", "shape": [2], "data": [0, 1]},
        },
    }
    assert given(world) == {"features": FEATURES}


async def test_the_answer_says_how_long_each_stage_took(http: httpx.AsyncClient) -> None:
    answer = await predict(http, {"features": ROWS})

    assert re.fullmatch(STAGES, answer.headers["server-timing"])


@pytest.mark.parametrize(
    "features",
    [
        {"dtype": "float32", "shape": [2, 4], "data": [*ROWS[0], *ROWS[1]]},
        {"shape": [2, 4], "data": base64.b64encode(FEATURES.data).decode()},
    ],
    ids=["flat", "base64"],
)
async def test_a_tensor_that_says_its_shape_is_the_same(features: Any, world: World, http: httpx.AsyncClient) -> None:
    answer = await predict(http, {"features": features})

    assert answer.status_code == 200
    assert given(world) == {"features": FEATURES}


async def test_a_large_table_is_read_as_well(
    world: World, core: Core, serve: Callable[[ASGIApp], httpx.AsyncClient]
) -> None:
    rows = np.random.default_rng(0).random((5_000, 4)).astype("<f4")
    http = serve(create_app(core, max_body_bytes=2**20))

    answer = await http.post("/v1/predict", content=json.dumps({"inputs": {"features": rows.tolist()}}))

    assert answer.status_code == 200
    assert int(answer.request.headers["content-length"]) > SMALL
    assert given(world)["features"].data == rows.tobytes()


async def test_base64_may_be_asked_for(http: httpx.AsyncClient) -> None:
    answer = await predict(http, {"features": ROWS}, encoding_format="base64")

    scores = answer.json()["outputs"]["scores"]
    assert base64.b64decode(scores["data"]) == SCORES.tobytes()
    assert scores["labels"] == ["setosa", "versicolor"]


async def test_only_the_outputs_asked_for_come_back(http: httpx.AsyncClient) -> None:
    answer = await predict(http, {"features": ROWS}, outputs=["class"])

    assert list(answer.json()["outputs"]) == ["class"]


async def test_texts_and_files_come_back_as_they_are(world: World, http: httpx.AsyncClient) -> None:
    world.predictor.gives = {"class": Tensor(dtype="bytes", shape=(2,), data=pack(["grün".encode(), b"\xff"]))}

    answer = await predict(http, {"features": ROWS})

    assert answer.json()["outputs"]["class"] == {"dtype": "bytes", "shape": [2], "data": ["grün", {"b64": "/w=="}]}


async def test_a_value_that_does_not_fit_is_told_by_input_and_place(world: World, http: httpx.AsyncClient) -> None:
    answer = await predict(http, {"features": [[5.1, 3.5, 1.4, "0.2"]]})

    assert (answer.status_code, answer.json()["code"]) == (422, "schema_mismatch")
    assert answer.json()["errors"] == [
        {
            "code": "schema_mismatch",
            "detail": "inputs.features[0][3]: the text '0.2' where a number is due",
            "field": "inputs.features[0][3]",
            "found": "the text '0.2'",
            "expected": "a number",
        }
    ]
    assert world.predictor.asked == []


async def test_every_fault_of_a_request_is_told(http: httpx.AsyncClient) -> None:
    answer = await predict(http, {"feature": ROWS, "colour": "red"})

    assert [(e["field"], e["found"]) for e in answer.json()["errors"]] == [
        ("inputs.feature", "feature"),
        ("inputs.colour", "colour"),
        ("inputs.features", "nothing"),
    ]
    assert "did you mean 'features'?" in answer.json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("number", "found"),
    [("NaN", "nan"), ("Infinity", "inf"), ("-Infinity", "-inf"), ("1e400", "inf"), ("-1e400", "-inf")],
)
async def test_a_number_that_json_does_not_have_is_told_by_its_place(
    number: str, found: str, world: World, http: httpx.AsyncClient
) -> None:
    answer = await http.post(
        "/v1/predict", content=f'{{"inputs": {{"features": [[1, 2, 3, 4], [5, {number}, 7, 8]]}}}}'
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "schema_mismatch")
    assert answer.json()["errors"][0]["field"] == "inputs.features[1][1]"
    assert answer.json()["errors"][0]["found"] == found
    assert world.predictor.asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b'{"inputs": {"features": [[1, 2, 3, 4]]}, "note": NaN}',
        b'{"inputs": {"features": [["\\ud800"]]}}',
        b'{"inputs": ' + b"[" * 2_000 + b"]" * 2_000 + b"}",
        b'{"inputs": {"features": ' + b"[" * 300 + b"NaN" + b"]" * 300 + b"}}",
        b'{"inputs": {"features": [[' + b"9" * 5_000 + b"]]}}",
        b'{"inputs": {"features": [[NaN, ' + b"9" * 30 + b"]]}}",
        b"NaN",
        b"\xff",
    ],
    ids=[
        "torn",
        "empty",
        "NaN elsewhere",
        "half a letter",
        "deep",
        "deep NaN",
        "long",
        "NaN and long",
        "bare",
        "latin",
    ],
)
async def test_what_is_no_json_is_unreadable(body: bytes, world: World, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/predict", content=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    assert answer.json()["detail"].startswith("the body is not JSON")
    assert world.predictor.asked == []


async def test_a_large_body_that_is_no_json_is_not_read_twice(
    core: Core, serve: Callable[[ASGIApp], httpx.AsyncClient]
) -> None:
    http = serve(create_app(core, max_body_bytes=2 * FORGIVEN))
    body = b'{"inputs": {"features": [[NaN]]}, "note": "' + b" " * FORGIVEN + b'"}'

    answer = await http.post("/v1/predict", content=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ({}, "inputs"),
        ({"inputs": None}, "inputs"),
        ({"inputs": [[1, 2]]}, "inputs"),
        ({"inputs": {}, "outputs": "class"}, "outputs"),
        ({"inputs": {}, "outputs": [7]}, "outputs"),
        ({"inputs": {}, "encoding_format": "hex"}, "encoding_format"),
        ({"inputs": {}, "model": 7}, "model"),
        ({"inputs": {}, "model": "a/b"}, "model"),
    ],
)
async def test_a_request_of_another_shape_is_refused_by_its_field(
    body: Any, field: str, world: World, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/v1/predict", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert answer.json()["errors"][0]["field"] == field
    assert world.predictor.asked == []


async def test_an_output_that_there_is_not_is_refused(http: httpx.AsyncClient) -> None:
    answer = await predict(http, {"features": ROWS}, outputs=["probabilities"])

    assert (answer.status_code, answer.json()["code"]) == (422, "schema_mismatch")
    assert answer.json()["errors"][0]["field"] == "outputs"
    assert answer.json()["errors"][0]["found"] == "probabilities"


async def test_another_content_type_is_unsupported(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/predict", content=b"{}", headers={"content-type": "text/csv"})

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media")


async def test_a_model_that_takes_no_tensors_says_what_it_can(http: httpx.AsyncClient) -> None:
    answer = await predict(http, {"features": ROWS}, model="sam")

    assert (answer.status_code, answer.json()["code"]) == (422, "capability_missing")
    assert "it can segment" in answer.json()["detail"]


async def test_the_faults_that_the_schema_finds_are_all_told(world: World, http: httpx.AsyncClient) -> None:
    faults = [Fault("schema_mismatch", "too many", field="inputs.features", found="(2, 5)", expected="(batch, 4)")] * 2
    world.predictor.raises = SchemaMismatch("2 things are wrong", faults=faults)

    answer = await predict(http, {"features": ROWS})

    assert answer.status_code == 422
    assert [(e["field"], e["found"], e["expected"]) for e in answer.json()["errors"]] == [
        ("inputs.features", "(2, 5)", "(batch, 4)")
    ] * 2


@pytest.mark.parametrize(
    ("error", "status"),
    [(Overloaded("full", retry_after_s=3), 503), (ModelLoading("soon"), 503), (RuntimeError("x"), 500)],
)
async def test_what_the_runners_raise_has_its_status(error: Exception, status: int, world: World, core: Core) -> None:
    world.predictor.raises = error
    transport = httpx.ASGITransport(app=create_app(core, max_body_bytes=2**16), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://modelmora.test") as http:
        answer = await predict(http, {"features": ROWS})

    assert answer.status_code == status


async def test_who_leaves_frees_the_work(world: World, core: Core) -> None:
    world.predictor.hold = asyncio.Event()
    app = create_app(core, max_body_bytes=2**16)
    asking = Conversation(app, "/v1/predict", headers={"content-type": "application/json"})

    asking.send(json.dumps({"inputs": {"features": ROWS}}).encode(), more=False)
    await world.predictor.entered.wait()
    asking.leave()
    await asking.end()

    assert world.predictor.cancelled.is_set()
    assert asking.status is None


async def test_without_room_a_body_is_not_looked_at(world: World, http: httpx.AsyncClient) -> None:
    world.capacity.most = 0

    answer = await http.post("/v1/predict", content=b"[" * 1000, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"]


async def test_bodies_count_until_they_are_answered(world: World, core: Core, http: httpx.AsyncClient) -> None:
    body = json.dumps({"inputs": {"features": ROWS}})
    world.decoding_bytes, world.predictor.hold = len(body), asyncio.Event()
    core.application = world.application()
    first = asyncio.create_task(predict(http, {"features": ROWS}))
    await world.predictor.entered.wait()

    second = await predict(http, {"features": ROWS})
    world.predictor.hold.set()

    assert (second.status_code, second.json()["code"]) == (503, "overloaded")
    assert (await first).status_code == 200
    assert (await predict(http, {"features": ROWS})).status_code == 200


async def test_the_page_of_the_api_describes_it(http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()["paths"]["/v1/predict"]["post"]

    assert page["x-permission"] == "infer"
    assert page["requestBody"]["content"]["application/json"]["schema"]["required"] == ["inputs"]
