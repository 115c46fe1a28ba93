"""`/v1/embed/image` and `/v1/embed/text`: many items, one outcome each, and every odd way to send them."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest

from modelmora.domain.inference import Image, Text
from modelmora.errors import InvalidInput, ModelLoading, UnsupportedMedia
from tests.fakes import World, vector_of

TORN = InvalidInput("the picture is cut off", field="image", found="4 bytes", expected="a whole picture")
Part = tuple[str, tuple[str | None, bytes] | tuple[str | None, bytes, str]]


def picture(content: bytes, name: str = "a.png") -> Part:
    return ("files", (name, content, "image/png"))


async def images(http: httpx.AsyncClient, *parts: Part, **fields: str) -> httpx.Response:
    return await http.post("/v1/embed/image", files=list(parts), data=fields)


async def texts(http: httpx.AsyncClient, given: Any, **more: Any) -> httpx.Response:
    return await http.post("/v1/embed/text", json={"texts": given, **more})


async def test_many_texts_are_answered_in_order(http: httpx.AsyncClient) -> None:
    answer = await texts(http, ["b", "a", "b"])

    assert answer.status_code == 200
    assert answer.json() == {
        "model": "clip",
        "version": "1.0.0",
        "dimension": 4,
        "data": [{"index": i, "embedding": vector_of(t)} for i, t in enumerate([b"b", b"a", b"b"])],
    }
    assert answer.headers["server-timing"].startswith("queue;dur=1.00, preprocess;dur=2.00, inference;dur=3.00, total")


async def test_many_pictures_are_answered_in_order(world: World, http: httpx.AsyncClient) -> None:
    answer = await images(http, picture(b"one"), picture(b"two", "a.png"), picture(b"three"))

    assert [row["embedding"] for row in answer.json()["data"]] == [vector_of(c) for c in (b"one", b"two", b"three")]
    assert world.embedder.asked[0].items == (Image(b"one"), Image(b"two"), Image(b"three"))
    assert world.embedder.asked[0].task == "embed_image"


async def test_a_picture_that_fails_leaves_its_neighbours_whole(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.fails = {b"torn": TORN}

    answer = await images(http, picture(b"one"), picture(b"torn"), picture(b"three"))

    assert answer.status_code == 200
    assert answer.json()["dimension"] == 4
    assert answer.json()["data"] == [
        {"index": 0, "embedding": vector_of(b"one")},
        {
            "index": 1,
            "error": {
                "code": "invalid_input",
                "detail": "the picture is cut off",
                "field": "image",
                "found": "4 bytes",
                "expected": "a whole picture",
            },
        },
        {"index": 2, "embedding": vector_of(b"three")},
    ]


async def test_a_request_of_one_item_fails_with_that_items_status(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.fails = {b"torn": TORN, b"odd": UnsupportedMedia("no picture"), b"new": ModelLoading("soon")}

    torn, odd = await images(http, picture(b"torn")), await images(http, picture(b"odd"))
    new, long = await texts(http, ["new"]), await texts(http, ["x" * 101])

    assert [a.status_code for a in (torn, odd, new, long)] == [400, 415, 503, 413]
    assert torn.json()["errors"][0]["found"] == "4 bytes"
    assert new.headers["retry-after"] == "1"


async def test_all_items_failing_is_still_one_outcome_each(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.fails = {b"": TORN}

    answer = await texts(http, ["a", "b"])

    assert (answer.status_code, answer.json()["dimension"]) == (200, 0)
    assert [row["error"]["code"] for row in answer.json()["data"]] == ["invalid_input"] * 2


async def test_what_is_no_text_fails_alone(world: World, http: httpx.AsyncClient) -> None:
    answer = await texts(http, ["a", 7, None, ["b"], "c", "x" * 101])

    codes = [row.get("error", {}).get("code") for row in answer.json()["data"]]
    assert codes == [None, "validation", "validation", "validation", None, "limit_exceeded"]
    assert world.embedder.asked[0].items == (Text("a"), Text("c"))


async def test_a_picture_file_over_the_limit_fails_alone(http: httpx.AsyncClient) -> None:
    answer = await images(http, picture(b"x" * 4096), picture(b"x" * 4097))

    assert "embedding" in answer.json()["data"][0]
    assert answer.json()["data"][1]["error"] == {
        "code": "limit_exceeded",
        "detail": "the picture file has 4,097 bytes, more than 4,096",
        "field": "image",
        "found": "4097 bytes",
        "expected": "at most 4096 bytes",
    }


@pytest.mark.parametrize("given", [None, "a", {"0": "a"}, 7])
async def test_texts_must_be_a_list(given: Any, http: httpx.AsyncClient) -> None:
    answer = await texts(http, given)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "texts")


async def test_no_texts_at_all_is_refused(http: httpx.AsyncClient) -> None:
    assert (await texts(http, [])).json()["errors"][0] == {
        "code": "validation",
        "detail": "the request has no items",
        "field": "items",
        "found": "0",
        "expected": "at least 1",
    }


async def test_too_many_items_are_refused_before_any_work(world: World, http: httpx.AsyncClient) -> None:
    answers = [await texts(http, ["a"] * 9), await images(http, *[picture(b"a")] * 9)]

    assert [(a.status_code, a.json()["code"]) for a in answers] == [(413, "limit_exceeded")] * 2
    assert world.embedder.asked == []


async def test_one_picture_may_be_the_whole_body(world: World, http: httpx.AsyncClient) -> None:
    for kind in ("image/png", "IMAGE/JPEG; q=1", "application/octet-stream"):
        headers = {"content-type": kind}
        answer = await http.post(
            "/v1/embed/image?model=vit@1.0.0&encoding_format=base64", content=b"raw", headers=headers
        )
        packed = answer.json()["data"][0]["embedding"]
        assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == vector_of(b"raw")

    assert {asked.model.key for asked in world.embedder.asked} == {"vit@1.0.0"}


@pytest.mark.parametrize("kind", ["application/json", "text/html", "application/x-www-form-urlencoded", None])
async def test_another_content_type_is_unsupported(kind: str | None, http: httpx.AsyncClient) -> None:
    headers = {} if kind is None else {"content-type": kind}

    answer = await http.post("/v1/embed/image", content=b"{}", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media")
    assert answer.json()["errors"][0]["found"] == (kind or "none")


async def test_a_form_without_files_says_what_it_has(http: httpx.AsyncClient) -> None:
    answer = await images(http, ("images", ("a.png", b"a")), model="clip")

    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert answer.json()["errors"][0] == {
        "code": "validation",
        "detail": "no files in the form",
        "field": "files",
        "found": "model, images",
        "expected": "at least one part named files",
    }


async def test_a_text_field_named_files_is_no_file(http: httpx.AsyncClient) -> None:
    alone = await images(http, ("files", (None, b"a text")))
    beside = await images(http, picture(b"one"), ("files", (None, b"a text")))

    assert (alone.status_code, alone.json()["code"]) == (400, "invalid_input")
    assert "no filename" in alone.json()["detail"]
    assert [("embedding" in row) for row in beside.json()["data"]] == [True, False]


async def test_an_empty_file_is_handed_on_as_an_item(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.fails = {b"torn": TORN}

    answer = await images(http, picture(b""), picture(b"one"))

    assert len(answer.json()["data"]) == 2
    assert world.embedder.asked[0].items == (Image(b""), Image(b"one"))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n\r\n--x--"),
        ("multipart/form-data; boundary=x", b"no boundary in sight"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\nbroken header\r\n\r\na\r\n--x--\r\n"),
    ],
    ids=["no boundary", "another boundary", "no name", "no header"],
)
async def test_a_broken_form_is_the_callers_fault(
    kind: str, body: bytes, world: World, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/v1/embed/image", content=body, headers={"content-type": kind})

    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert world.embedder.asked == []


@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # starlette's own, left to the collector
async def test_a_form_cut_off_in_a_file_is_not_taken_for_the_whole_picture(
    world: World, http: httpx.AsyncClient
) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'

    answer = await http.post(
        "/v1/embed/image", content=head + b"half a pict", headers={"content-type": "multipart/form-data; boundary=x"}
    )

    assert answer.status_code in (400, 422)
    assert world.embedder.asked == []


async def test_an_oversized_form_field_is_over_a_limit(http: httpx.AsyncClient) -> None:
    answer = await images(http, picture(b"a"), *[(f"f{i}", (None, b"x")) for i in range(65)])

    assert (answer.status_code, answer.json()["code"]) == (413, "limit_exceeded")


@pytest.mark.parametrize("given", ['"vit@1.0.0"', "vit@1.0.0"])
async def test_a_form_field_may_be_quoted_as_bentomls_client_sends_it(
    given: str, world: World, http: httpx.AsyncClient
) -> None:
    answer = await images(http, picture(b"a"), model=given)

    assert answer.status_code == 200
    assert world.embedder.asked[0].model.key == "vit@1.0.0"


@pytest.mark.parametrize("given", ['"vit', '"\\ud800"', '""vit""', "7", "[]"])
async def test_a_form_field_that_is_no_name_is_refused(given: str, http: httpx.AsyncClient) -> None:
    answer = await images(http, picture(b"a"), model=given)

    assert (answer.status_code, answer.json()["code"]) in ((422, "validation"), (404, "model_not_found"))


@pytest.mark.parametrize(("given", "status"), [("base64", 200), ("float", 200), ('"base64"', 200), ("hex", 422)])
async def test_the_encoding_of_a_form(given: str, status: int, world: World, http: httpx.AsyncClient) -> None:
    answer = await images(http, picture(b"a"), encoding_format=given)

    assert answer.status_code == status
    if status == 200:
        row = answer.json()["data"][0]["embedding"]
        assert isinstance(row, list if given == "float" else str)
    else:
        assert world.embedder.asked == []


@pytest.mark.parametrize("field", ["truncate", "model", "encoding_format"])
async def test_a_value_of_the_wrong_kind_is_refused(field: str, world: World, http: httpx.AsyncClient) -> None:
    answer = await texts(http, ["a"], **{field: 7})

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert world.embedder.asked == []
