"""`/v2/models/{model}/infer` with tensors: every datatype, in JSON and in binary form, and what can be wrong."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.types import ASGIApp

from api.core import Core
from api.http.app import create_app
from modelmora.domain.inference import Image
from modelmora.domain.tensors import Tensor, pack
from modelmora.errors import SchemaMismatch
from tests.doors.conftest import MAX_BODY
from tests.doors.open_inference import (
    LABEL,
    ROWS,
    X,
    body_of,
    images,
    infer,
    refused,
    tensor_world,
    texts,
)
from tests.fakes import STAGES, World


@pytest.fixture
def world() -> World:
    return tensor_world()


async def test_tensors_go_through_a_model_and_come_back_as_json(world: World, http: httpx.AsyncClient) -> None:
    answer = await infer(http, "net", X)

    assert answer.json() == {
        "model_name": "net",
        "model_version": "1.2.0",
        "outputs": [
            {"name": "y", "datatype": "FP64", "shape": [2, 2], "data": [0.5, 1.5, 2.5, -3.0]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["cat", "häschen"]},
        ],
    }
    (asked,) = world.predictor.asked
    assert asked[1] == {"x": Tensor(dtype="float32", shape=(2, 3), data=ROWS.tobytes())}
    assert re.fullmatch(STAGES, answer.headers["server-timing"])


async def test_tensors_in_binary_form_follow_each_other_in_the_order_of_the_inputs(
    world: World, http: httpx.AsyncClient
) -> None:
    x = {**X, "parameters": {"binary_data_size": 24}, "data_after": ROWS.tobytes()}
    del x["data"]
    mask = {"name": "mask", "datatype": "BOOL", "shape": [2, 1], "data": [[True], [False]]}
    last = {"name": "z", "datatype": "INT8", "shape": [2], "parameters": {"binary_data_size": 2}, "data_after": b"\1\2"}

    answer = await infer(http, "net", x, mask, last, outputs=[{"name": "label"}, {"name": "y"}])

    assert [one["name"] for one in answer.json()["outputs"]] == ["label", "y"]
    assert {name: tensor.data for name, tensor in world.predictor.asked[0][1].items()} == {
        "x": ROWS.tobytes(),
        "mask": b"\1\0",
        "z": b"\1\2",
    }


async def test_outputs_may_be_binary_one_by_one(http: httpx.AsyncClient) -> None:
    asked = [{"name": "y", "parameters": {"binary_data": False}}, {"name": "label"}]

    answer = await infer(http, "net", X, outputs=asked, parameters={"binary_data_output": True})

    length = int(answer.headers["inference-header-content-length"])
    y, label = json.loads(answer.content[:length])["outputs"]
    assert y["data"] == [0.5, 1.5, 2.5, -3.0]
    assert label["parameters"] == {"binary_data_size": len(LABEL.data)}
    assert answer.content[length:] == LABEL.data


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]], [[1.0, 2, 3], [4, 5, 6.0]]])
async def test_json_data_may_be_flat_or_nested(data: list[Any], world: World, http: httpx.AsyncClient) -> None:
    assert (await infer(http, "net", {**X, "data": data})).status_code == 200
    assert world.predictor.asked[0][1]["x"].data == ROWS.tobytes()


@pytest.mark.parametrize(
    ("datatype", "dtype", "bounds"),
    [
        ("UINT8", "<u1", (0, 255)),
        ("INT8", "<i1", (-128, 127)),
        ("UINT16", "<u2", (0, 65_535)),
        ("INT16", "<i2", (-32_768, 32_767)),
        ("UINT32", "<u4", (0, 2**32 - 1)),
        ("INT32", "<i4", (-(2**31), 2**31 - 1)),
        ("UINT64", "<u8", (0, 2**64 - 1)),
        ("INT64", "<i8", (-(2**63), 2**63 - 1)),
    ],
)
async def test_integers_are_taken_exactly_and_within_their_range(
    datatype: str, dtype: str, bounds: tuple[int, int], world: World, http: httpx.AsyncClient
) -> None:
    low, high = bounds
    x = {"name": "x", "datatype": datatype, "shape": [2], "data": [low, high]}

    assert (await infer(http, "net", x)).status_code == 200
    beyond = [await infer(http, "net", {**x, "data": [0, wrong]}) for wrong in (low - 1, high + 1, 1.0, True, "1")]

    assert world.predictor.asked[0][1]["x"].data == np.array([low, high], dtype).tobytes()
    assert len(world.predictor.asked) == 1
    for answer in beyond:
        assert "inputs[0].data[1]" in refused(answer, 422, "schema_mismatch")


async def test_half_precision_is_answered_as_numbers(world: World, http: httpx.AsyncClient) -> None:
    world.predictor.gives = {"y": Tensor(dtype="float16", shape=(), data=np.array(0.5, "<f2").tobytes())}

    answer = await infer(http, "flat", {"name": "x", "datatype": "INT16", "shape": [2, 1], "data": [1, 2]})

    assert answer.json()["outputs"] == [{"name": "y", "datatype": "FP16", "shape": [], "data": [0.5]}]


async def test_bytes_that_are_no_text_are_only_answered_in_binary_form(world: World, http: httpx.AsyncClient) -> None:
    world.predictor.gives = {"label": Tensor(dtype="bytes", shape=(1,), data=pack([b"\xff"]))}
    binary = [{"name": "label", "parameters": {"binary_data": True}}]

    said = refused(await infer(http, "net", X, outputs=[{"name": "label"}]), 422, "schema_mismatch")

    assert "binary_data: true" in said
    assert (await infer(http, "net", X, outputs=binary)).content.endswith(pack([b"\xff"]))


async def test_a_body_of_raw_bytes_is_the_only_input_with_its_open_axis_measured(
    world: World, http: httpx.AsyncClient
) -> None:
    world.predictor.gives = {"y": Tensor(dtype="float16", shape=(), data=np.array(0.5, "<f2").tobytes())}
    raw = {"inference-header-content-length": "0"}

    answer = await http.post("/v2/models/flat/infer", content=np.arange(6, dtype="<i2").tobytes(), headers=raw)
    odd = await http.post("/v2/models/flat/infer", content=b"12345", headers=raw)
    several = await http.post("/v2/models/net/infer", content=b"1234", headers=raw)

    assert answer.status_code == 200
    assert world.predictor.asked[0][1]["x"].shape == (2, 3)
    assert "multiple of 4 bytes" in refused(odd, 422, "schema_mismatch")
    assert "2 inputs" in refused(several, 422, "schema_mismatch")


async def test_everything_the_model_finds_wrong_is_in_the_one_string(world: World, http: httpx.AsyncClient) -> None:
    wrong = [
        SchemaMismatch(f"{name} has 4 columns", field=f"inputs.{name}", found="[2, 4]", expected="[batch, 3]")
        for name in ("x", "mask")
    ]
    world.predictor.raises = SchemaMismatch("2 things are wrong", faults=[one.as_fault() for one in wrong])

    answer = await infer(http, "net", X)

    assert refused(answer, 422, "schema_mismatch") == (
        "2 things are wrong; also: x has 4 columns (inputs.x, found [2, 4], expected [batch, 3]); "
        "mask has 4 columns (inputs.mask, found [2, 4], expected [batch, 3])"
    )
    assert len(answer.json()["errors"]) == 2


async def test_an_error_with_a_thousand_faults_is_cut(world: World, http: httpx.AsyncClient) -> None:
    faults = [SchemaMismatch(f"column {i} is wrong").as_fault() for i in range(1_000)]
    world.predictor.raises = SchemaMismatch("much is wrong", faults=faults)

    said = refused(await infer(http, "net", X), 422, "schema_mismatch")

    assert len(said) == 1_000
    assert said.endswith("...")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"datatype": "BF16"}, "inputs[0].datatype"),
        ({"datatype": "FP33"}, "inputs[0].datatype"),
        ({"datatype": None}, "inputs[0].datatype"),
        ({"datatype": ["FP32"]}, "inputs[0].datatype"),
        ({"shape": None}, "inputs[0].shape"),
        ({"shape": [2, -3]}, "inputs[0].shape"),
        ({"shape": [2, 3.0]}, "inputs[0].shape"),
        ({"shape": [True, 3]}, "inputs[0].shape"),
        ({"shape": [1] * 33}, "inputs[0].shape"),
        ({"name": ""}, "inputs[0].name"),
        ({"name": 3}, "inputs[0].name"),
        ({"parameters": 3}, "inputs[0].parameters"),
        ({"parameters": {"binary_data_size": "24"}, "data": None}, "inputs[0]"),
        ({"parameters": {"shared_memory_region": "r"}}, "inputs[0].parameters"),
    ],
)
async def test_an_input_that_cannot_be_understood_is_named_with_its_field(
    change: dict[str, Any], field: str, world: World, http: httpx.AsyncClient
) -> None:
    answer = await infer(http, "net", {**X, **change})

    refused(answer, 422, "validation")
    assert answer.json()["errors"][0]["field"].startswith(field)
    assert world.predictor.asked == []


async def test_bf16_is_refused_by_name(http: httpx.AsyncClient) -> None:
    assert "BF16 is not taken; send FP32 or FP16" in refused(
        await infer(http, "net", {**X, "datatype": "BF16"}), 422, "validation"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": None}, "expected a list"),
        ({"data": "123456"}, "expected a list"),
        ({"data": [1, 2, 3]}, "found 3 elements, expected 6 elements"),
        ({"data": [[1, 2], [3, 4], [5, 6]]}, "expected [2, 3], or flat"),
        ({"data": [[1, 2, 3], [4]]}, "equal lengths"),
        ({"data": [[1, 2, 3], 4]}, "equal lengths"),
        ({"data": [1, 2, None, 4, 5, 6]}, "inputs[0].data[2]"),
        ({"data": [1, 2, "3", 4, 5, 6]}, "inputs[0].data[2]"),
        ({"data": [1, 2, 1e39, 4, 5, 6]}, "out of the range of float32"),
        ({"shape": [2**40, 2**40]}, "expected 1208925819614629174706176 elements"),
    ],
)
async def test_data_that_does_not_fit_is_refused_with_its_place(
    change: dict[str, Any], said: str, world: World, http: httpx.AsyncClient
) -> None:
    assert said in refused(await infer(http, "net", {**X, **change}), 422, "schema_mismatch")
    assert world.predictor.asked == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "validation"),
        (b"{", 400, "invalid_input"),
        (b"[]", 422, "validation"),
        (b"null", 422, "validation"),
        (b'{"inputs": []}', 422, "validation"),
        (b'{"inputs": {}}', 422, "validation"),
        (b'{"inputs": [3]}', 422, "validation"),
        (b'{"inputs": [{"name": NaN}]}', 400, "invalid_input"),
        (b"\xff\xfe\x00", 400, "invalid_input"),
        (b"[" * 100_000, 400, "invalid_input"),
    ],
)
async def test_rubbish_is_refused(body: bytes, status: int, code: str, serve: Any, core: Core) -> None:
    http = serve(create_app(core, max_body_bytes=2**20))

    assert refused(await http.post("/v2/models/net/infer", content=body), status, code)


async def test_names_come_once_and_ids_are_strings(http: httpx.AsyncClient) -> None:
    assert "comes twice" in refused(await infer(http, "net", X, X), 422, "validation")
    assert "comes twice" in refused(await infer(http, "net", X, outputs=[{"name": "y"}] * 2), 422, "validation")
    assert "id is no string" in refused(await infer(http, "net", X, id=3), 422, "validation")
    classified = [{"name": "y", "parameters": {"classification": 3}}]
    assert "/v1/classify" in refused(await infer(http, "net", X, outputs=classified), 422, "validation")


async def test_a_long_body_is_read_like_a_short_one(world: World, serve: Any, core: Core) -> None:
    http = serve(create_app(core, max_body_bytes=2**24))
    rows = np.arange(60_000, dtype="<f4")
    x = {"name": "x", "datatype": "FP32", "shape": [20_000, 3], "data": rows.tolist()}
    wrong = {**x, "data": [*rows.tolist()[:-1], "1"]}
    many = [{"name": f"x{i}", "datatype": "FP32", "shape": [0], "data": []} for i in range(4_097)]

    assert (await infer(http, "net", x)).status_code == 200
    said = refused(await infer(http, "net", wrong), 422, "schema_mismatch")
    most = refused(await infer(http, "net", *many), 413, "limit_exceeded")

    assert world.predictor.asked[0][1]["x"].data == rows.tobytes()
    assert "inputs[0].data[59999]" in said
    assert "at most 4096" in most


@pytest.mark.parametrize("length", ["-1", "x", "", "1e3", "99999", "9" * 30, "٣"])
async def test_a_header_that_does_not_say_where_the_json_ends_is_refused(length: str, http: httpx.AsyncClient) -> None:
    content, _ = body_of([dict(X)])
    headers = {"inference-header-content-length": length.encode()}

    answer = await http.post("/v2/models/net/infer", content=content, headers=headers)  # type: ignore[arg-type] # bytes

    assert "how long the JSON object is" in refused(answer, 400, "invalid_input")


@pytest.mark.parametrize(
    ("size", "sent", "said"),
    [
        (24, 23, "23 are left"),
        (24, 25, "1 bytes are left over"),
        (20, 20, "FP32 [2, 3] has 24"),
        (2**60, 24, "24 are left"),
        (-1, 24, "expected an integer >= 0"),
    ],
)
async def test_binary_data_is_as_long_as_it_says_and_as_its_shape(
    size: int, sent: int, said: str, world: World, http: httpx.AsyncClient
) -> None:
    x = {"name": "x", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": size}}

    answer = await infer(http, "net", {**x, "data_after": b"\0" * sent})

    assert answer.status_code in (400, 422)
    assert said in answer.json()["error"]
    assert world.predictor.asked == []


async def test_elements_that_lie_about_their_length_are_found(http: httpx.AsyncClient) -> None:
    lying = images(b"abc") | {"data_after": struct.pack("<I", 2**31) + b"abc"}
    fewer = images(b"abc", b"d") | {"shape": [1]}
    more = images(b"abcdefgh") | {"shape": [3]}

    assert "image[0]" in refused(await infer(http, "clip", lying), 400, "invalid_input")
    assert "left over after 1 elements" in refused(await infer(http, "clip", fewer), 400, "invalid_input")
    assert "image[1]" in refused(await infer(http, "clip", more), 400, "invalid_input")


async def test_a_bool_is_nought_or_one(http: httpx.AsyncClient) -> None:
    mask = {"name": "mask", "datatype": "BOOL", "shape": [2], "parameters": {"binary_data_size": 2}}

    assert "neither 0 nor 1" in refused(await infer(http, "net", {**mask, "data_after": b"\1\2"}), 422, "validation")


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_bodies_are_opened(coding: str, compress: Any, world: World, http: httpx.AsyncClient) -> None:
    content, headers = body_of([images(b"one")])
    headers["content-encoding"] = coding

    answer = await http.post("/v2/models/clip/infer", content=compress(content), headers=headers)

    assert answer.status_code == 200
    assert world.embedder.asked[0].items == (Image(b"one"),)


async def test_a_body_that_swells_beyond_the_limit_is_refused(http: httpx.AsyncClient) -> None:
    bomb = gzip.compress(b" " * 50 * MAX_BODY)
    url, gzipped = "/v2/models/clip/infer", {"content-encoding": "gzip"}

    said = refused(await http.post(url, content=bomb, headers=gzipped), 413, "limit_exceeded")

    assert len(bomb) < MAX_BODY
    assert f"at most {MAX_BODY} bytes" in said
    for broken in (gzip.compress(b"{}")[:-9], b"no gzip", gzip.compress(b"{}") + b"more", zlib.compress(b"{}"), b""):
        refused(await http.post(url, content=broken, headers=gzipped), 400, "invalid_input")
    for coding in ("br", "gzip, gzip", "zstd"):
        other = await http.post(url, content=b"{}", headers={"content-encoding": coding})
        assert "gzip or deflate" in refused(other, 415, "unsupported_media")


async def test_a_body_over_the_limit_is_refused_in_the_words_of_the_protocol(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v2/models/clip/infer", content=b" " * (MAX_BODY + 1))

    assert "too large" in refused(answer, 413, "limit_exceeded")


async def test_parameters_bound_the_time_and_strange_ones_are_ignored(world: World, http: httpx.AsyncClient) -> None:
    before = time.monotonic()
    told = {"timeout": 2_000_000, "priority": 1, "sequence_id": 7, "mine": {"deeply": ["nested"]}}
    headers = {"x-modelmora-priority": "bulk"}

    assert (await infer(http, "clip", texts("a"), parameters=told, headers=headers)).status_code == 200
    shorter = {"x-modelmora-timeout-ms": "500"}
    assert (await infer(http, "net", X, parameters=told, headers=shorter)).status_code == 200

    call = world.embedder.asked[0].call
    assert before + 2 <= call.deadline <= time.monotonic() + 2
    assert call.priority == "bulk"
    assert world.predictor.asked[0][3].deadline <= time.monotonic() + 0.5


@pytest.mark.parametrize(
    "parameters",
    [
        {"timeout": -1},
        {"timeout": "1"},
        {"timeout": 2**60},
        {"timeout": True},
        {"truncate": 1},
        {"binary_data_output": 3},
    ],
)
async def test_known_parameters_are_checked(parameters: dict[str, Any], http: httpx.AsyncClient) -> None:
    said = refused(await infer(http, "clip", texts("a"), parameters=parameters), 422, "validation")

    assert f"parameters.{next(iter(parameters))}" in said


async def test_without_room_or_a_model_a_body_is_not_looked_at(world: World, http: httpx.AsyncClient) -> None:
    rubbish = b"[" * 1000

    refused(await http.post("/v2/models/nobody/infer", content=rubbish), 404, "model_not_found")
    refused(await http.post("/v2/models/net/infer", content=rubbish), 400, "invalid_input")
    world.capacity.most = 0
    refused(await http.post("/v2/models/net/infer", content=rubbish), 503, "overloaded")


async def test_a_compressed_body_counts_as_much_as_it_may_open_to(
    world: World, core: Core, http: httpx.AsyncClient
) -> None:
    content, _ = body_of([dict(X)])
    world.decoding_bytes, world.predictor.hold = MAX_BODY + len(content) - 1, asyncio.Event()
    core.application = world.application()
    first = asyncio.create_task(infer(http, "net", X))
    await world.predictor.entered.wait()

    coded = {"content-encoding": "gzip"}
    second = await http.post("/v2/models/net/infer", content=gzip.compress(content), headers=coded)
    world.predictor.hold.set()

    refused(second, 503, "overloaded")
    assert (await first).status_code == 200


@pytest.mark.parametrize("size", [6, 3_000_000])
async def test_a_boolean_is_0_or_1_however_many_there_are(
    size: int, core: Core, serve: Callable[[ASGIApp], httpx.AsyncClient]
) -> None:
    data = bytearray(size)
    data[-2:] = 1, 7
    mask = {"name": "mask", "datatype": "BOOL", "shape": [size], "parameters": {"binary_data_size": size}}
    http = serve(create_app(core, max_body_bytes=2**22))

    said = refused(await infer(http, "net", {**mask, "data_after": bytes(data)}), 422, "validation")

    assert "found 7, expected 0 or 1" in said
