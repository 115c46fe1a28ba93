"""`/v1/embeddings` and `/v1/models`, as OpenAI's clients speak them, and where they go further."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.types import ASGIApp

from adapters.pictures import ClosedPictures
from api.core import Core
from api.http.app import create_app
from modelmora.domain.description import Description
from modelmora.domain.inference import Image, Text
from modelmora.errors import InvalidInput, LimitExceeded, Overloaded
from tests.fakes import SAM, VIT, World, holding, vector_of, worker

PNG = b"\x89PNG\r\n a picture"
PNG_BASE64 = base64.b64encode(PNG).decode()
DATA_URI = f"data:image/png;base64,{PNG_BASE64}"
URL = "https://pictures.test/a.png"


async def embed(http: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await http.post("/v1/embeddings", json=body)


async def test_one_text_is_answered_as_openai_does(world: World, http: httpx.AsyncClient) -> None:
    answer = await embed(http, input="a red circle", model="clip")

    assert answer.status_code == 200
    assert answer.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector_of(b"a red circle")}],
        "model": "clip",
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
    }
    assert world.embedder.asked[0].task == "embed_text"


async def test_a_list_keeps_its_order_and_adds_up_its_tokens(http: httpx.AsyncClient) -> None:
    answer = (await embed(http, input=["c", "a", "bb"])).json()

    assert [row["index"] for row in answer["data"]] == [0, 1, 2]
    assert [row["embedding"] for row in answer["data"]] == [vector_of(t) for t in (b"c", b"a", b"bb")]
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}


async def test_the_stages_are_in_server_timing(http: httpx.AsyncClient) -> None:
    answer = await embed(http, input="a")

    assert answer.headers["server-timing"] == (
        "queue;dur=1.00, preprocess;dur=2.00, inference;dur=3.00, total;dur=0.00"
    )


async def test_a_data_uri_is_a_picture_untold_and_may_stand_among_texts(world: World, http: httpx.AsyncClient) -> None:
    answer = (await embed(http, input=["a text", DATA_URI, "another"])).json()

    assert [row["embedding"] for row in answer["data"]] == [vector_of(c) for c in (b"a text", PNG, b"another")]
    assert {(asked.task, asked.items) for asked in world.embedder.asked} == {
        ("embed_text", (Text("a text"), Text("another"))),
        ("embed_image", (Image(PNG),)),
    }


async def test_with_modality_image_plain_base64_is_a_picture(world: World, http: httpx.AsyncClient) -> None:
    answer = (await embed(http, input=[PNG_BASE64, DATA_URI], modality="image")).json()

    assert [row["embedding"] for row in answer["data"]] == [vector_of(PNG)] * 2
    assert world.embedder.asked[0].items == (Image(PNG), Image(PNG))


async def test_base64_vectors_are_the_little_endian_floats(http: httpx.AsyncClient) -> None:
    row = (await embed(http, input="a", encoding_format="base64")).json()["data"][0]

    assert np.frombuffer(base64.b64decode(row["embedding"]), "<f4").tolist() == vector_of(b"a")


async def test_a_version_may_be_named(world: World, http: httpx.AsyncClient) -> None:
    for model in ("vit", "vit@1.0.0", None, ""):
        await embed(http, input="a", model=model)

    assert [a.model.key for a in world.embedder.asked] == ["vit@2.0.0-rc.1", "vit@1.0.0", "clip@1.0.0", "clip@1.0.0"]


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("nothing", 404, "model_not_found"),
        ("clip@7.0.0", 404, "version_not_found"),
        ("Clip!", 422, "validation"),
        ("clip@newest", 422, "validation"),
        ("sam", 422, "capability_missing"),
        (7, 422, "validation"),
    ],
)
async def test_a_model_that_cannot_serve_is_refused(
    model: Any, status: int, code: str, http: httpx.AsyncClient
) -> None:
    answer = await embed(http, input="a", model=model)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["errors"][0]["field"] == "model"
    assert answer.json()["error"]["param"] == "model"


async def test_openai_clients_see_the_error_object(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.raises = Overloaded("the queue is full", retry_after_s=4.0)

    answer = await embed(http, input="a")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "4"
    assert answer.json()["error"] == {
        "message": "the queue is full",
        "type": "server_error",
        "code": "overloaded",
        "param": None,
    }


async def test_all_or_nothing_names_every_failed_index(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.fails = {b"torn": InvalidInput("cut off", field="image", found="3 bytes", expected="a picture")}

    answer = await embed(http, input=["fine", "torn 1", "x" * 101, "torn 2"])

    assert answer.status_code == 400
    assert answer.json()["detail"] == "3 of 4 inputs failed; the first: cut off"
    assert answer.json()["error"]["message"] == answer.json()["detail"]
    assert [(e["index"], e["code"]) for e in answer.json()["errors"]] == [
        (1, "invalid_input"),
        (2, "limit_exceeded"),
        (3, "invalid_input"),
    ]
    assert answer.json()["errors"][0]["expected"] == "a picture"


async def test_partial_answers_each_input_for_itself(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.fails = {b"torn": InvalidInput("cut off", field="image")}

    answer = await embed(http, input=["fine", "torn"], partial=True)

    assert answer.status_code == 200
    assert answer.json()["data"] == [
        {"object": "embedding", "index": 0, "embedding": vector_of(b"fine")},
        {"object": "embedding", "index": 1, "error": {"code": "invalid_input", "detail": "cut off", "field": "image"}},
    ]
    assert answer.json()["usage"]["total_tokens"] == 4


async def test_a_lone_failure_keeps_its_own_words(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.fails = {b"": LimitExceeded("too many pixels", field="image")}

    answer = await embed(http, input=DATA_URI)

    assert (answer.status_code, answer.json()["detail"]) == (413, "too many pixels")
    assert [e["index"] for e in answer.json()["errors"]] == [0]


@pytest.mark.parametrize("given", [[1, 2, 3], [[1, 2], [3]], [True]])
async def test_token_ids_are_refused_with_the_way_out(given: Any, world: World, http: httpx.AsyncClient) -> None:
    answer = await embed(http, input=given)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert "check_embedding_ctx_length=False" in answer.json()["error"]["message"]
    assert world.embedder.asked == []


@pytest.mark.parametrize(
    ("given", "modality", "said"),
    [
        ("data:image/png;base64,@@@@", "text", "not base64"),
        ("data:image/png;base64,QUJ", "text", "not base64"),
        ("data:image/png,raw", "text", "a data URI must be"),
        ("data:image/png;base64", "text", "a data URI must be"),
        ("not base64!", "image", "not base64"),
        ("käse", "image", "not base64"),
    ],
)
async def test_unreadable_base64_is_invalid_input(
    given: str, modality: str, said: str, http: httpx.AsyncClient
) -> None:
    answer = await embed(http, input=given, modality=modality)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": 7}, "input"),
        ({"messages": [{"role": "user", "content": "a"}]}, "input"),
        ({"input": {}}, "input"),
        ({"input": {"text": 7}}, "input"),
        ({"input": {"text": None}}, "input"),
        ({"input": {"text": "a", "image": DATA_URI}}, "input"),
        ({"input": [{"type": "input_audio", "input_audio": {"data": "a"}}]}, "input"),
        ({"input": [{"image_url": {"detail": "low"}}]}, "input"),
        ({"input": [{"image": {"url": DATA_URI}}]}, "input"),
        ({"input": []}, "items"),
        ({"input": [None]}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "encoding_format": []}, "encoding_format"),
        ({"input": "a", "modality": "video"}, "modality"),
        ({"input": "a", "modality": 0}, "modality"),
        ({"input": "a", "truncate": "yes"}, "truncate"),
        ({"input": "a", "partial": 1}, "partial"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": True}, "dimensions"),
        ({"input": "a", "dimensions": "4"}, "dimensions"),
    ],
)
async def test_a_value_of_the_wrong_kind_is_refused_before_any_work(
    body: dict[str, Any], field: str, world: World, http: httpx.AsyncClient
) -> None:
    answer = await embed(http, **body)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert answer.json()["errors"][0]["field"] == field
    assert world.embedder.asked == []


async def test_too_many_inputs_are_refused_before_any_work(world: World, http: httpx.AsyncClient) -> None:
    answer = await embed(http, input=["a"] * 9)

    assert (answer.status_code, answer.json()["code"]) == (413, "limit_exceeded")
    assert answer.json()["errors"][0]["expected"] == "at most 8"
    assert world.embedder.asked == []


async def test_objects_say_what_they_are_and_strings_may_stand_among_them(
    world: World, http: httpx.AsyncClient
) -> None:
    given = [
        {"type": "text", "text": "a text"},
        {"type": "image_url", "image_url": {"url": DATA_URI, "detail": "low"}},
        "another",
        {"text": DATA_URI},
        {"image": DATA_URI},
        {"image": PNG_BASE64},
        {"type": "input_image", "image_url": DATA_URI.replace("data:", "DATA:")},
        {"type": "text", "text": "last", "image": None},
    ]
    texts = (Text("a text"), Text("another"), Text(DATA_URI), Text("last"))
    pictures = (Image(PNG),) * 4

    answer = (await embed(http, input=given)).json()

    assert [row["index"] for row in answer["data"]] == list(range(8))
    assert {a.task: a.items for a in world.embedder.asked} == {"embed_text": texts, "embed_image": pictures}


@pytest.mark.parametrize("given", ["data: the new oil", "data:1,2,3", "data:", "DATA", "data:text/plain,hello"])
async def test_a_text_that_begins_like_a_data_uri_is_a_text(given: str, world: World, http: httpx.AsyncClient) -> None:
    assert (await embed(http, input=given)).status_code == 200
    assert world.embedder.asked[0].items == (Text(given),)


async def test_a_lone_object_is_one_input(world: World, http: httpx.AsyncClient) -> None:
    answer = await embed(http, input={"type": "image_url", "image_url": {"url": DATA_URI}})

    assert [row["embedding"] for row in answer.json()["data"]] == [vector_of(PNG)]


@pytest.mark.parametrize(
    ("given", "modality"),
    [
        (URL, "image"),
        ([URL], "image"),
        ({"image": URL}, "text"),
        ([{"image_url": URL}], "text"),
        ([{"type": "image_url", "image_url": {"url": URL}}], None),
    ],
)
async def test_a_picture_may_be_named_by_its_url(
    given: Any, modality: str | None, world: World, http: httpx.AsyncClient
) -> None:
    world.pictures.behind = {URL: PNG}

    answer = await embed(http, input=given, modality=modality)

    assert [row["embedding"] for row in answer.json()["data"]] == [vector_of(PNG)]
    assert answer.json()["usage"]["total_tokens"] == len(PNG)  # what the fake embedder counted
    assert world.pictures.asked == [URL]


@pytest.mark.parametrize("given", [URL, [URL], {"text": URL}, "http://127.0.0.1/", "file:///etc/passwd"])
async def test_a_text_that_looks_like_a_url_is_a_text(given: Any, world: World, http: httpx.AsyncClient) -> None:
    answer = await embed(http, input=given)

    assert answer.status_code == 200
    assert world.embedder.asked[0].task == "embed_text"
    assert world.pictures.asked == []


async def test_a_picture_that_cannot_be_fetched_is_named_by_its_place(world: World, http: httpx.AsyncClient) -> None:
    world.pictures.behind = {URL: PNG}
    given = ["a", {"image": "https://pictures.test/none"}, {"image": URL}]

    whole, partial = await embed(http, input=given), await embed(http, input=given, partial=True)

    assert (whole.status_code, [e["index"] for e in whole.json()["errors"]]) == (422, [1])
    assert whole.json()["error"]["param"] == "input"
    assert [row.get("error", {}).get("code") for row in partial.json()["data"]] == [None, "validation", None]


async def test_a_server_that_fetches_nothing_names_the_setting(
    core: Core, serve: Callable[[ASGIApp], httpx.AsyncClient]
) -> None:
    world = World()
    world.pictures = ClosedPictures()  # type: ignore[assignment] # the real one, in the fake's place
    http = serve(create_app(Core(world.application()), max_body_bytes=2**16))

    for url in (URL, "http://127.0.0.1:9000/", "ftp://pictures.test/a.png", "file:///etc/passwd"):
        answer = await embed(http, input=url, modality="image")
        assert (answer.status_code, answer.json()["code"]) == (422, "capability_missing")
        assert "MODELMORA_FETCH_HOSTS" in answer.json()["error"]["message"]


async def test_messages_are_refused_with_the_way_out(http: httpx.AsyncClient) -> None:
    answer = await embed(http, messages=[{"role": "user", "content": [{"type": "text", "text": "a"}]}])

    assert "put what the messages hold into input" in answer.json()["error"]["message"]


async def test_vectors_are_shortened_where_the_model_allows_it(world: World, http: httpx.AsyncClient) -> None:
    world.describer.known["clip@1.0.0"] = Description(model="clip@1.0.0", dimension=4, shortens=2)
    whole = np.array(vector_of(b"a"))

    for wanted in (2, 3):
        first = whole[:wanted] / np.linalg.norm(whole[:wanted])
        row = (await embed(http, input="a", dimensions=wanted)).json()["data"][0]
        assert row["embedding"] == pytest.approx(first.tolist(), abs=1e-6)
        coded = (await embed(http, input="a", dimensions=wanted, encoding_format="base64")).json()["data"][0]
        assert np.frombuffer(base64.b64decode(coded["embedding"]), "<f4").tolist() == pytest.approx(row["embedding"])


async def test_dimensions_beyond_what_a_model_has_name_what_it_has(world: World, http: httpx.AsyncClient) -> None:
    world.describer.known["clip@1.0.0"] = Description(model="clip@1.0.0", dimension=4, shortens=2)

    answer = await embed(http, input=["a", "b"], dimensions=1, partial=True)

    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "dimensions")
    assert answer.json()["errors"][0]["expected"] == "2 to 4"
    assert world.embedder.asked == []


@pytest.mark.parametrize(("dimensions", "status"), [(4, 200), (3, 422), (512, 422)])
async def test_dimensions_may_only_be_the_models_own(dimensions: int, status: int, http: httpx.AsyncClient) -> None:
    answer = await embed(http, input="a", dimensions=dimensions)

    assert answer.status_code == status
    if status == 422:
        assert answer.json()["errors"][0] == {
            "code": "validation",
            "detail": "clip@1.0.0 does not allow shortened vectors",
            "field": "dimensions",
            "found": str(dimensions),
            "expected": "4",
        }


async def test_unknown_fields_and_an_authorization_header_are_ignored(http: httpx.AsyncClient) -> None:
    body = {"input": "a", "user": "u-1", "extra": {"nested": [1]}}

    answer = await http.post("/v1/embeddings", json=body, headers={"authorization": "Bearer sk-anything"})

    assert answer.status_code == 200


async def test_truncate_travels_with_the_call(world: World, http: httpx.AsyncClient) -> None:
    await embed(http, input="a", truncate=True)
    await embed(http, input="a")

    assert [asked.call.truncate for asked in world.embedder.asked] == [True, False]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"input": "\xff"}', b'{"input": NaN}', b"[" * 5000])
async def test_what_is_no_json_is_invalid_input(body: bytes, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("body", "kind"), [("[]", "a list"), ('"x"', "a string"), ("7", "a number"), ("null", "null")])
async def test_json_that_is_no_object_is_refused(body: str, kind: str, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["errors"][0]["found"]) == (422, kind)


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
async def test_another_content_type_is_unsupported(kind: str, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/embeddings", content=b"{}", headers={"content-type": kind})

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/ld+json", None])
async def test_every_spelling_of_json_is_taken(kind: str | None, http: httpx.AsyncClient) -> None:
    headers = {} if kind is None else {"content-type": kind}

    answer = await http.post("/v1/embeddings", content=json.dumps({"input": "a"}).encode(), headers=headers)

    assert answer.status_code == 200


async def test_models_are_listed_the_default_first_and_only_servable_ones(
    world: World, http: httpx.AsyncClient
) -> None:
    world.host.views = [worker("default-1-100", holding(VIT, "failed"))]

    listed = (await http.get("/v1/models")).json()

    assert listed["object"] == "list"
    assert [(row["id"], row["version"]) for row in listed["data"]] == [
        ("clip", "1.0.0"),
        ("vit", "1.0.0"),
        (SAM.name, SAM.version),
    ]
    assert {row["object"] for row in listed["data"]} == {"model"}
