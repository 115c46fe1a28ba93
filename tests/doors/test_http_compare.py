"""`/v1/compare`: pictures and texts through several models, in JSON and in forms."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any

import httpx
import numpy as np
import pytest

from api.core import Core
from api.http.app import create_app
from modelmora.domain.inference import Image, Text
from modelmora.errors import InvalidInput, ModelLoading
from tests.doors.conversation import END, Conversation, field_part, file_part
from tests.fakes import STAGES, World, vector_of

TORN = InvalidInput("the picture is cut off", field="image", found="4 bytes", expected="a whole picture")
JSON = {"content-type": "application/json"}


async def compare(http: httpx.AsyncClient, models: Any, texts: Any, **more: Any) -> httpx.Response:
    return await http.post("/v1/compare", json={"models": models, "texts": texts, **more})


async def form(http: httpx.AsyncClient, files: list[bytes], **fields: str | list[str]) -> httpx.Response:
    parts = [("files", ("a.png", content, "image/png")) for content in files]
    return await http.post("/v1/compare", files=parts, data=fields)


def similarities(contents: list[bytes]) -> list[list[float]]:
    vectors = np.array([vector_of(content) for content in contents])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows: list[list[float]] = (units @ units.T).tolist()
    return rows


async def test_each_model_answers_with_its_measures_and_similarities(http: httpx.AsyncClient) -> None:
    answer = await compare(http, ["vit", "clip"], ["a", "b"])

    assert answer.status_code == 200
    rows = answer.json()["data"]
    assert [(row["index"], row["model"], row["version"]) for row in rows] == [
        (0, "vit", "2.0.0-rc.1"),
        (1, "clip", "1.0.0"),
    ]
    assert {row["dimension"] for row in rows} == {4}
    assert [row["bytes"] for row in rows] == [0, 2**20]
    assert rows[0]["timings"] == {"queue_ms": 1.0, "preprocess_ms": 2.0, "inference_ms": 3.0}
    assert rows[0]["total_ms"] == 0.0
    assert rows[0]["results"] == [{"index": 0}, {"index": 1}]
    assert np.array(rows[0]["similarities"]) == pytest.approx(np.array(similarities([b"a", b"b"])), abs=1e-6)
    assert re.fullmatch(STAGES, answer.headers["server-timing"])


async def test_pictures_come_before_texts_whatever_the_order_of_the_form(world: World, http: httpx.AsyncClient) -> None:
    answer = await form(http, [b"one", b"two"], texts=["a", "b"], models=["clip", "vit"])

    assert answer.status_code == 200
    assert {(asked.model.name, asked.items) for asked in world.embedder.asked} == {
        ("clip", (Image(b"one"), Image(b"two"))),
        ("clip", (Text("a"), Text("b"))),
        ("vit", (Image(b"one"), Image(b"two"))),
        ("vit", (Text("a"), Text("b"))),
    }
    found = np.array(answer.json()["data"][0]["similarities"])
    assert found == pytest.approx(np.array(similarities([b"one", b"two", b"a", b"b"])), abs=1e-6)


@pytest.mark.parametrize("models", ['["clip", "vit"]', ["clip", "vit"], ['"clip"', '"vit"']])
@pytest.mark.parametrize("texts", ['["a", "b"]', ["a", "b"], ['"a"', "b"]])
async def test_lists_in_a_form_are_repeated_fields_or_json(
    models: str | list[str], texts: str | list[str], world: World, http: httpx.AsyncClient
) -> None:
    answer = await form(http, [b"one"], models=models, texts=texts)

    assert [row["model"] for row in answer.json()["data"]] == ["clip", "vit"]
    assert {asked.items for asked in world.embedder.asked} == {(Image(b"one"),), (Text("a"), Text("b"))}


async def test_a_text_that_only_begins_like_a_list_is_a_text(world: World, http: httpx.AsyncClient) -> None:
    await form(http, [b"one"], models="clip", texts="[sic] a dog")

    assert (Text("[sic] a dog"),) in {asked.items for asked in world.embedder.asked}


@pytest.mark.parametrize("flag", ["true", "1", "TRUE", '"true"'])
async def test_the_vectors_come_when_they_are_asked_for(flag: str, http: httpx.AsyncClient) -> None:
    answer = await form(http, [b"one"], models=["clip"], texts=["a"], embeddings=flag)

    results = answer.json()["data"][0]["results"]
    assert results == [
        {"index": 0, "embedding": vector_of(b"one")},
        {"index": 1, "embedding": vector_of(b"a")},
    ]


async def test_vectors_may_be_base64(http: httpx.AsyncClient) -> None:
    answer = await compare(http, ["clip"], ["a", "b"], embeddings=True, encoding_format="base64")

    packed = answer.json()["data"][0]["results"][1]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == vector_of(b"b")


async def test_an_item_that_fails_is_null_among_the_similarities(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.fails = {b"torn": TORN}

    answer = await compare(http, ["clip", "vit"], ["a", "torn"])

    row = answer.json()["data"][1]
    assert answer.status_code == 200
    assert row["similarities"][0] == [1.0, None]
    assert row["similarities"][1] == [None, None]
    assert row["results"][1] == {
        "index": 1,
        "error": {
            "code": "invalid_input",
            "detail": "the picture is cut off",
            "field": "image",
            "found": "4 bytes",
            "expected": "a whole picture",
        },
    }


async def test_a_model_that_fails_leaves_the_others_whole(http: httpx.AsyncClient) -> None:
    answer = await compare(http, ["cliff", "clip", "sam"], ["a"])

    rows = answer.json()["data"]
    assert answer.status_code == 200
    assert rows[0] == {
        "index": 0,
        "model": "cliff",
        "error": {
            "code": "model_not_found",
            "detail": "no model 'cliff'; did you mean 'clip'?",
            "field": "model",
            "found": "cliff",
        },
    }
    assert rows[1]["results"] == [{"index": 0}]
    assert rows[2]["error"]["code"] == "capability_missing"


async def test_all_models_failing_is_still_one_outcome_each(http: httpx.AsyncClient) -> None:
    answer = await compare(http, ["nothing", "sam"], ["a"])

    assert answer.status_code == 200
    assert [row["error"]["code"] for row in answer.json()["data"]] == ["model_not_found", "capability_missing"]


async def test_a_comparison_of_one_model_has_its_status(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.fails = {b"torn": TORN}
    unknown, torn, both = (
        await compare(http, ["nothing"], ["a", "b"]),
        await compare(http, ["clip"], ["torn"]),
        await compare(http, ["clip"], ["torn", "a"]),
    )
    world.embedder.raises = ModelLoading("soon", retry_after_s=2)
    loading = await compare(http, ["clip"], ["a"])

    assert [a.status_code for a in (unknown, torn, both, loading)] == [404, 400, 200, 503]
    assert loading.headers["retry-after"] == "2"


async def test_what_is_no_text_fails_alone(http: httpx.AsyncClient) -> None:
    answer = await compare(http, ["clip"], ["a", 7, " "])

    assert [row.get("error", {}).get("code") for row in answer.json()["data"][0]["results"]] == [
        None,
        "validation",
        "validation",
    ]


@pytest.mark.parametrize(
    ("body", "field", "status"),
    [
        ({"texts": ["a"]}, "models", 422),
        ({"models": "clip", "texts": ["a"]}, "models", 422),
        ({"models": [7], "texts": ["a"]}, "models", 422),
        ({"models": [], "texts": ["a"]}, "models", 422),
        ({"models": ["clip", "vit", "clip@1.0.0"], "texts": ["a"]}, "models[2]", 422),
        ({"models": [f"m{i}" for i in range(17)], "texts": ["a"]}, "models", 413),
        ({"models": ["clip"]}, "texts", 422),
        ({"models": ["clip"], "texts": "a"}, "texts", 422),
        ({"models": ["clip"], "texts": []}, "items", 422),
        ({"models": ["clip"], "texts": ["a"] * 9}, "items", 413),
        ({"models": ["clip"], "texts": ["a"], "embeddings": "yes"}, "embeddings", 422),
    ],
)
async def test_a_request_that_makes_no_sense_is_told_by_its_field(
    body: Any, field: str, status: int, world: World, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/v1/compare", json=body)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)
    assert world.embedder.asked == []


@pytest.mark.parametrize(
    ("fields", "field", "status"),
    [
        ({}, "models", 422),
        ({"models": "clip", "embeddings": "perhaps"}, "embeddings", 422),
        ({"models": "clip", "truncate": "7"}, "truncate", 422),
        ({"models": "clip", "encoding_format": "hex"}, "encoding_format", 422),
        ({"models": '["clip", 7]'}, "models", 422),
    ],
)
async def test_a_form_that_makes_no_sense_is_told_by_its_field(
    fields: dict[str, str], field: str, status: int, world: World, http: httpx.AsyncClient
) -> None:
    answer = await form(http, [b"one"], **fields)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)
    assert world.embedder.asked == []


async def test_a_text_field_named_files_is_no_picture(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/compare", files=[("files", (None, b"x")), ("models", (None, b"clip"))])

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")


async def test_another_content_type_is_unsupported(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/compare", content=b"x", headers={"content-type": "image/png"})

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media")


async def test_texts_may_be_cut_and_deadlines_and_priorities_hold(world: World, http: httpx.AsyncClient) -> None:
    headers = {"x-modelmora-priority": "bulk", "x-modelmora-timeout-ms": "1000"}
    await http.post("/v1/compare", json={"models": ["clip"], "texts": ["a"], "truncate": True}, headers=headers)

    call = world.embedder.asked[0].call
    assert (call.truncate, call.priority, call.face) == (True, "bulk", "http")


async def test_who_leaves_frees_the_work_of_every_model(world: World, core: Core) -> None:
    world.embedder.hold = asyncio.Event()
    asking = Conversation(create_app(core, max_body_bytes=2**16), "/v1/compare")

    asking.send(field_part("models", "clip") + field_part("models", "vit") + file_part(b"one") + END, more=False)
    await world.embedder.entered.wait()
    asking.leave()
    await asking.end()

    assert world.embedder.running == 0
    assert asking.status is None
