"""`/v2`: what a client of the Open Inference Protocol sends, byte by byte, and what it gets."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.types import ASGIApp

from api.core import Core
from api.http.app import create_app
from modelmora.domain.description import Description
from modelmora.domain.inference import Image, Text
from modelmora.domain.preprocess import Preprocess
from modelmora.errors import InvalidInput, ModelLoadFailed, OutOfMemory
from tests.doors.conftest import MAX_BODY
from tests.doors.conversation import Conversation
from tests.doors.open_inference import (
    NET,
    X,
    body_of,
    images,
    infer,
    refused,
    tensor_world,
    texts,
)
from tests.fakes import CLIP, STAGES, VIT, World, holding, until, vector_of, worker


@pytest.fixture
def world() -> World:
    return tensor_world()


async def test_the_server_says_that_it_lives_what_it_is_and_what_it_can(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v2/health/live")).json() == {"live": True}
    assert (await http.get("/v2/health/ready")).json() == {"ready": True}
    assert (await http.get("/v2")).json() == {
        "name": "modelmora",
        "version": "9.9.9",
        "extensions": ["binary_tensor_data", "model_configuration", "model_repository"],
    }


async def test_a_server_without_workers_is_live_and_not_ready(world: World, http: httpx.AsyncClient) -> None:
    world.host.views = []

    answer = await http.get("/v2/health/ready")

    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert "default" in answer.json()["error"]
    assert (await http.get("/v2/health/live")).status_code == 200


async def test_a_server_that_starts_is_live_and_says_why_it_is_not_ready(serve: Any) -> None:
    http = serve(create_app(Core(why="the database is away"), max_body_bytes=1))

    assert (await http.get("/v2/health/live")).status_code == 200
    for path in ("/v2/health/ready", "/v2", "/v2/models/clip", "/v2/models/clip/ready"):
        assert "the database is away" in refused(await http.get(path), 503, "dependency_unavailable")


async def test_an_embedding_model_takes_pictures_or_texts_and_gives_vectors(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v2/models/clip")).json() == {
        "name": "clip",
        "versions": ["1.0.0"],
        "platform": "modelmora_noop",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, 4]}],
    }


async def test_an_embedding_model_without_texts_takes_only_pictures(world: World, http: httpx.AsyncClient) -> None:
    image = Preprocess(resize="exact", height=1, width=1)
    world.describer.known[VIT.key] = Description(model=VIT.key, dimension=7, image=image)

    told = (await http.get("/v2/models/vit/versions/2.0.0-rc.1")).json()

    assert told["versions"] == ["1.0.0", "2.0.0-rc.1"]
    assert [one["name"] for one in told["inputs"]] == ["image"]
    assert told["outputs"][0]["shape"] == [-1, 7]


async def test_a_tensor_model_declares_its_tensors(http: httpx.AsyncClient) -> None:
    told = (await http.get("/v2/models/net@1.2.0")).json()

    assert told["platform"] == "onnxruntime_onnx"
    assert told["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "mask", "datatype": "BOOL", "shape": [-1, -1]},
    ]
    assert told["outputs"] == [
        {"name": "y", "datatype": "FP64", "shape": [-1, 2]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]


async def test_the_configuration_is_without_the_axis_of_the_batch(http: httpx.AsyncClient) -> None:
    config = (await http.get("/v2/models/net/config")).json()

    assert (config["name"], config["backend"], config["max_batch_size"]) == ("net", "onnx", 32)
    assert config["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [3], "optional": False},
        {"name": "mask", "data_type": "TYPE_BOOL", "dims": [-1], "optional": True},
    ]
    assert config["output"][1] == {"name": "label", "data_type": "TYPE_STRING", "dims": []}


async def test_the_configuration_of_a_model_without_batches_has_every_axis(http: httpx.AsyncClient) -> None:
    flat = (await http.get("/v2/models/flat/config")).json()
    clip = (await http.get("/v2/models/clip/versions/1.0.0/config")).json()

    assert (flat["max_batch_size"], flat["input"][0]["dims"]) == (0, [2, -1])
    assert (clip["max_batch_size"], clip["input"][0]["dims"], clip["output"][0]["dims"]) == (0, [-1], [-1, 4])
    assert [one["optional"] for one in clip["input"]] == [True, True]


async def test_a_model_is_ready_while_a_worker_holds_it(world: World, http: httpx.AsyncClient) -> None:
    world.host.views = [worker("default-1-100", holding(CLIP), holding(VIT, "failed", error="out of luck"))]

    assert (await http.get("/v2/models/clip/ready")).json() == {"name": "clip", "ready": True}
    broken, unloaded = await http.get("/v2/models/vit/ready"), await http.get("/v2/models/vit/versions/1.0.0/ready")
    assert (broken.status_code, broken.json()["error"]) == (503, "out of luck")
    assert (unloaded.status_code, unloaded.json()["ready"]) == (503, False)


async def test_an_unknown_model_or_version_is_named_with_what_there_is(http: httpx.AsyncClient) -> None:
    for path in ("", "/ready", "/config"):
        assert "did you mean 'clip'" in refused(await http.get(f"/v2/models/clipp{path}"), 404, "model_not_found")
    for path in ("/v2/models/clip/versions/3.0.0", "/v2/models/clip@3.0.0"):
        assert "it has 1.0.0" in refused(await http.get(path), 404, "version_not_found")
    assert "3.0.0" in refused(await infer(http, "clip/versions/3.0.0", texts("a")), 404, "version_not_found")
    differ = await http.get("/v2/models/clip@1.0.0/versions/2.0.0")
    assert "differ" in refused(differ, 422, "validation")
    assert (await http.get("/v2/models/clip@1.0.0/versions/1.0.0")).status_code == 200


async def test_a_route_of_the_protocol_that_is_not_there_says_so_to_its_clients(http: httpx.AsyncClient) -> None:
    missing = await http.get("/v2/models/clip/stats")

    assert missing.status_code == 404
    assert "no such route" in missing.json()["error"]


async def test_what_keeps_a_model_from_being_described_is_said(world: World, http: httpx.AsyncClient) -> None:
    world.describer.raises = ModelLoadFailed("config.json is missing")

    assert "config.json is missing" in refused(await http.get("/v2/models/clip"), 503, "model_load_failed")


async def test_pictures_in_binary_form_become_vectors(world: World, http: httpx.AsyncClient) -> None:
    answer = await infer(http, "clip", images(b"one", b"a second"), id="42")

    assert answer.json() == {
        "id": "42",
        "model_name": "clip",
        "model_version": "1.0.0",
        "outputs": [
            {
                "name": "embedding",
                "datatype": "FP32",
                "shape": [2, 4],
                "data": [*vector_of(b"one"), *vector_of(b"a second")],
            }
        ],
    }
    assert re.fullmatch(STAGES, answer.headers["server-timing"])
    assert world.embedder.asked[0].items == (Image(b"one"), Image(b"a second"))
    assert world.embedder.asked[0].call.face == "http"


@pytest.mark.parametrize("parameters", [{"parameters": {"binary_data_output": True}}, None])
async def test_vectors_are_answered_in_binary_form_where_asked(
    parameters: dict[str, Any] | None, http: httpx.AsyncClient
) -> None:
    more = parameters or {"outputs": [{"name": "embedding", "parameters": {"binary_data": True}}]}

    answer = await infer(http, "clip", images(b"one"), **more)

    length = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.content[:length])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert told["outputs"] == [
        {"name": "embedding", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
    ]
    assert np.frombuffer(answer.content[length:], "<f4").tolist() == vector_of(b"one")


@pytest.mark.parametrize("shape", [[2], [2, 1]])
async def test_texts_are_strings_in_json_and_may_be_columns(
    shape: list[int], world: World, http: httpx.AsyncClient
) -> None:
    answer = await infer(http, "clip", texts("ein Häschen", "two", shape=shape), parameters={"truncate": True})

    assert answer.json()["outputs"][0]["shape"] == [2, 4]
    assert world.embedder.asked[0].items == (Text("ein Häschen"), Text("two"))
    assert world.embedder.asked[0].call.truncate


async def test_a_picture_in_json_is_base64(world: World, http: httpx.AsyncClient) -> None:
    encoded = base64.b64encode(b"\xff\xd8picture").decode()
    one = {"name": "image", "datatype": "BYTES", "shape": [1]}

    told = await infer(http, "clip", one | {"data": [encoded], "parameters": {"content_type": "base64"}})
    said = await infer(http, "clip", one | {"data": [{"b64": encoded}]})

    assert (told.status_code, said.status_code) == (200, 200)
    assert [asked.items for asked in world.embedder.asked] == [(Image(b"\xff\xd8picture"),)] * 2


async def test_a_body_of_raw_bytes_is_one_picture(world: World, http: httpx.AsyncClient) -> None:
    headers = {"inference-header-content-length": "0"}

    answer = await http.post("/v2/models/clip/infer", content=b"\xff\xd8picture", headers=headers)

    length = int(answer.headers["inference-header-content-length"])
    assert np.frombuffer(answer.content[length:], "<f4").tolist() == vector_of(b"\xff\xd8picture")
    assert world.embedder.asked[0].items == (Image(b"\xff\xd8picture"),)


async def test_the_first_item_that_fails_fails_the_request_and_is_named(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.fails = {b"torn": InvalidInput("the picture is cut off", field="image", found="4 bytes")}

    one = refused(await infer(http, "clip", images(b"whole", b"torn")), 400, "invalid_input")
    two = await infer(http, "clip", images(b"whole", b"torn", b"torn too"))

    assert one.startswith("image[1]: the picture is cut off")
    assert "image[1]: the picture is cut off (2 of 3 failed)" in refused(two, 400, "invalid_input")
    assert [fault["index"] for fault in two.json()["errors"]] == [1, 2]


async def test_a_text_that_is_no_utf8_fails_the_request(http: httpx.AsyncClient) -> None:
    answer = await infer(http, "clip", images(b"fine", b"\xff\xfe", name="text"))

    assert refused(answer, 400, "invalid_input").startswith("text[1]: the text is no UTF-8")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([images(b"a"), texts("b")], "pictures or texts"),
        ([texts("b", name="texts")], "expected image or text"),
        ([X], "expected image or text"),
        ([X | {"name": "image"}], "found float32 [2, 3], expected bytes [n] or [n, 1]"),
        ([texts("a", "b", shape=[1, 2])], "expected bytes [n] or [n, 1]"),
        ([texts("a", shape=[1, 1, 1])], "expected bytes [n] or [n, 1]"),
        ([texts("a", shape=[])], "expected bytes [n] or [n, 1]"),
    ],
)
async def test_an_embedding_model_takes_one_column_of_pictures_or_texts(
    inputs: list[dict[str, Any]], said: str, http: httpx.AsyncClient
) -> None:
    assert said in refused(await infer(http, "clip", *inputs), 422, "schema_mismatch")


async def test_an_output_that_is_not_there_is_named_with_those_that_are(http: httpx.AsyncClient) -> None:
    clip = await infer(http, "clip", texts("a"), outputs=[{"name": "vector"}])
    net = await infer(http, "net", X, outputs=[{"name": "y"}, {"name": "z"}])

    assert "expected embedding" in refused(clip, 422, "schema_mismatch")
    assert "'z'" in refused(net, 422, "schema_mismatch")


async def test_items_are_counted_before_anything_is_made_of_them(world: World, http: httpx.AsyncClient) -> None:
    many = await infer(http, "clip", images(*[b""] * 9))

    assert "at most 8" in refused(many, 413, "limit_exceeded")
    assert "at least 1" in refused(await infer(http, "clip", texts()), 422, "validation")
    large = refused(await infer(http, "clip", images(b"x" * 4_097)), 413, "limit_exceeded")
    assert large.startswith("image[0]: the picture file has 4,097 bytes")
    assert world.embedder.asked == []


async def test_a_model_of_another_type_says_what_it_can(http: httpx.AsyncClient) -> None:
    said = refused(await infer(http, "sam", images(b"a")), 422, "capability_missing")

    assert "sam@1.0.0 cannot predict tensors; it can segment" in said


async def test_a_caller_who_leaves_frees_the_work(world: World, core: Core) -> None:
    world.predictor.hold = world.embedder.hold = asyncio.Event()
    app: ASGIApp = create_app(core, max_body_bytes=MAX_BODY)

    for model, told, fake in (("net", dict(X), world.predictor), ("clip", texts("a"), world.embedder)):
        content, headers = body_of([told])
        talk = Conversation(app, f"/v2/models/{model}/infer", headers=headers)
        talk.send(content, more=False)
        await until(fake.entered.is_set)
        talk.leave()
        await until(fake.cancelled.is_set)
        await talk.end()
        assert talk.status is None


async def test_the_index_tells_every_model_and_its_state(world: World, http: httpx.AsyncClient) -> None:
    world.host.views = [worker("default-1-100", holding(CLIP), holding(VIT, "failed", error="out of luck"))]

    rows = (await http.post("/v2/repository/index")).json()
    ready = (await http.post("/v2/repository/index", json={"ready": True})).json()

    assert rows[0] == {"name": "clip", "version": "1.0.0", "state": "READY", "reason": ""}
    told = {f"{row['name']}@{row['version']}": (row["state"], row["reason"]) for row in rows}
    assert told[VIT.key] == ("UNAVAILABLE", "out of luck")
    assert told[NET.key] == ("UNAVAILABLE", "not in memory; the first inference loads it")
    assert ready == rows[:1]
    assert "ready is no boolean" in refused(
        await http.post("/v2/repository/index", json={"ready": 1}), 422, "validation"
    )


async def test_models_are_loaded_and_unloaded(world: World, http: httpx.AsyncClient) -> None:
    loaded = await http.post("/v2/repository/models/vit/load", json={"parameters": {}})
    ready = await http.get("/v2/models/vit/ready")
    unloaded = await http.post(
        "/v2/repository/models/vit@2.0.0-rc.1/unload", json={"parameters": {"unload_dependents": False}}
    )

    assert (loaded.status_code, ready.status_code, unloaded.status_code) == (200, 200, 200)
    assert loaded.json()["state"] == "loaded"
    assert world.host.changes == [("load", VIT.key), ("unload", VIT.key)]
    assert (await http.get("/v2/models/vit/ready")).status_code == 503


async def test_a_load_that_fails_says_why(world: World, http: httpx.AsyncClient) -> None:
    world.host.troubles = {VIT.key: OutOfMemory("needs 9 GB, there are 8")}

    assert "needs 9 GB" in refused(await http.post("/v2/repository/models/vit/load"), 507, "out_of_memory")
    assert "no model" in refused(await http.post("/v2/repository/models/none/load"), 404, "model_not_found")


@pytest.mark.parametrize("parameters", [{"config": "{}"}, {"file:1/model.onnx": "AAAA"}])
async def test_a_model_is_not_loaded_with_what_the_caller_brings(
    parameters: dict[str, Any], world: World, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/v2/repository/models/vit/load", json={"parameters": parameters})

    assert "as the registry declares it" in refused(answer, 422, "validation")
    assert world.host.changes == []


async def test_the_openapi_page_names_the_path_parameters(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    ours = {path: methods for path, methods in paths.items() if path.startswith("/v2")}

    assert len(ours) == 14
    for path, methods in ours.items():
        for method in methods.values():
            named = {one["name"] for one in method.get("parameters", ()) if one["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), path
