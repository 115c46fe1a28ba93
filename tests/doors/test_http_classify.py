"""`/v1/classify`: labels in a form or a query, one outcome a picture, and every odd way to ask."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from api.core import Core
from api.http.app import create_app
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.description import Description, Scoring
from modelmora.domain.inference import Image, Text
from modelmora.domain.models import GroupSpec, ModelSpec
from modelmora.domain.preprocess import Preprocess, TextPreprocess
from modelmora.errors import Overloaded
from tests.doors.conversation import END, Conversation, field_part, file_part
from tests.doors.test_http_embed import TORN, Part, picture
from tests.fakes import CLIP, DIMENSION, SAM, STAGES, VIT, World

IMAGE, TEXT = Preprocess(resize="exact", height=1, width=1), TextPreprocess(tokenizer="bytes", context_length=0)
RESNET = ModelSpec(
    name="resnet",
    version="1.0.0",
    type="classification",
    provider="classifier",
    source="hub:somebody/resnet",
    default=True,
)


def classifying() -> World:
    """A classifier of three labels, and a CLIP."""
    world = World(catalogue=Catalogue((CLIP, VIT, SAM, RESNET), (GroupSpec(),)))
    world.describer.known.update(
        {
            CLIP.key: Description(model=CLIP.key, dimension=DIMENSION, image=IMAGE, text=TEXT, scoring=Scoring()),
            RESNET.key: Description(model=RESNET.key, image=IMAGE, labels=("cat", "dog", "bird"), scoring=Scoring()),
        }
    )
    return world


@pytest.fixture
def world() -> World:
    return classifying()


async def classify(http: httpx.AsyncClient, *parts: Part, **fields: Any) -> httpx.Response:
    return await http.post("/v1/classify", files=list(parts or [picture(b"1")]), data=fields)


def texts_of(world: World) -> list[str]:
    """What was embedded as texts."""
    return [i.text for a in world.embedder.asked if a.task == "embed_text" for i in a.items if isinstance(i, Text)]


def fault(answer: httpx.Response) -> Mapping[str, Any]:
    return answer.json()["errors"][0]  # type: ignore[no-any-return]


async def test_pictures_get_the_classes_of_a_classifier(http: httpx.AsyncClient) -> None:
    answer = await classify(http, picture(b"1"), picture(b"2"), top_k="2")

    whole = math.exp(1) + math.exp(3) + math.exp(2)
    classes = [
        {"index": 1, "label": "dog", "score": pytest.approx(math.exp(3) / whole)},
        {"index": 2, "label": "bird", "score": pytest.approx(math.exp(2) / whole)},
    ]
    assert answer.status_code == 200
    assert answer.json() == {
        "model": "resnet",
        "version": "1.0.0",
        "data": [{"index": 0, "classes": classes}, {"index": 1, "classes": classes}],
    }
    assert re.fullmatch(STAGES, answer.headers["server-timing"])


async def test_pictures_get_the_callers_labels(world: World, http: httpx.AsyncClient) -> None:
    answer = await classify(http, labels=["cat", "dog, or wolf", "Größe 🐈"])

    assert answer.json()["model"] == "clip"
    classes = answer.json()["data"][0]["classes"]
    assert {(c["index"], c["label"]) for c in classes} == {(0, "cat"), (1, "dog, or wolf"), (2, "Größe 🐈")}
    assert sum(c["score"] for c in classes) == pytest.approx(1.0)
    assert texts_of(world) == ["a photo of a cat.", "a photo of a dog, or wolf.", "a photo of a Größe 🐈."]
    assert world.embedder.asked[-1].items == (Image(b"1"),)


@pytest.mark.parametrize(
    ("labels", "read"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        ('["cat", "dog"]', ["cat", "dog"]),
        (['"cat"', '"dog"'], ["cat", "dog"]),
        ("cat, dog", ["cat, dog"]),
        ("[cat]", ["[cat]"]),
        (["[1]", "[2]"], ["[1]", "[2]"]),
        ("7", ["7"]),
        ("null", ["null"]),
        (' ["cat"]', [' ["cat"]']),
    ],
)
async def test_labels_are_repeated_fields_or_one_list_in_json(
    labels: Any, read: list[str], world: World, http: httpx.AsyncClient
) -> None:
    answer = await classify(http, labels=labels, templates=json.dumps(["{}"]))

    assert answer.status_code == 200
    assert texts_of(world) == read


async def test_an_empty_list_of_labels_is_none_at_all(http: httpx.AsyncClient) -> None:
    assert (await classify(http, labels="[]", templates="[]")).json()["model"] == "resnet"


async def test_templates_make_texts_of_labels(world: World, http: httpx.AsyncClient) -> None:
    await classify(http, labels="cat", templates=["a {}", "the {} in the snow"])

    assert texts_of(world) == ["a cat", "the cat in the snow"]


async def test_one_picture_may_be_the_whole_body(world: World, http: httpx.AsyncClient) -> None:
    query = "labels=cat&labels=dog&templates=a%20{}&top_k=1&threshold=0.1&model=clip&truncate=true"

    answer = await http.post(f"/v1/classify?{query}", content=b"raw", headers={"content-type": "image/png"})

    assert answer.status_code == 200
    assert len(answer.json()["data"][0]["classes"]) == 1
    assert texts_of(world) == ["a cat", "a dog"]
    assert world.embedder.asked[-1].items == (Image(b"raw"),)
    assert world.embedder.asked[-1].call.truncate


async def test_a_picture_that_fails_leaves_its_neighbours_whole(world: World, http: httpx.AsyncClient) -> None:
    world.classifier.fails = {b"torn": TORN}

    answer = await classify(http, picture(b"one"), picture(b"torn"), ("files", (None, b"a text")), top_k="1")

    assert answer.status_code == 200
    rows = answer.json()["data"]
    assert [row.get("error", {}).get("code") for row in rows] == [None, "invalid_input", "invalid_input"]
    assert (rows[0]["classes"][0]["label"], rows[1]["error"]["found"]) == ("dog", "4 bytes")


async def test_a_request_of_one_picture_fails_with_its_status(world: World, http: httpx.AsyncClient) -> None:
    world.classifier.fails = {b"torn": TORN, b"late": Overloaded("full")}

    torn, late = await classify(http, picture(b"torn")), await classify(http, picture(b"late"))
    large = await classify(http, picture(b"x" * 4_097))

    assert [a.status_code for a in (torn, late, large)] == [400, 503, 413]
    assert late.headers["retry-after"] == "1"


async def test_a_threshold_may_leave_no_class(http: httpx.AsyncClient) -> None:
    answer = await classify(http, threshold="0.99")

    assert answer.json()["data"] == [{"index": 0, "classes": []}]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"top_k": "0"}, "top_k"),
        ({"top_k": "5.0"}, "top_k"),
        ({"top_k": "five"}, "top_k"),
        ({"top_k": "true"}, "top_k"),
        ({"top_k": "\u0665"}, "top_k"),
        ({"top_k": "1" + "0" * 30}, "top_k"),
        ({"top_k": "[5]"}, "top_k"),
        ({"threshold": "NaN"}, "threshold"),
        ({"threshold": "Infinity"}, "threshold"),
        ({"threshold": "1e999"}, "threshold"),
        ({"threshold": "0,5"}, "threshold"),
        ({"threshold": "1.5"}, "threshold"),
        ({"threshold": "-0.1"}, "threshold"),
        ({"truncate": "perhaps", "labels": "a"}, "truncate"),
        ({"labels": ["cat", ""]}, "labels[1]"),
        ({"labels": ["cat", "Cat "]}, "labels[1]"),
        ({"labels": '["cat", 7]'}, "labels[1]"),
        ({"labels": "cat", "templates": "a cat"}, "templates[0]"),
        ({"templates": "a {}"}, "templates"),
        ({"model": "a/b"}, "model"),
    ],
)
async def test_what_cannot_be_names_its_field(
    fields: dict[str, Any], field: str, world: World, http: httpx.AsyncClient
) -> None:
    answer = await classify(http, **fields)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert (fault(answer)["field"], "expected" in fault(answer)) == (field, True)
    assert (world.embedder.asked, world.classifier.asked) == ([], [])


@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": "1", "threshold": "0"},
        {"top_k": '"1"', "threshold": '"0.0"'},
        {"top_k": "1000", "threshold": "1e-400"},
        {"top_k": "", "threshold": ""},
        {"threshold": "-0.0", "truncate": "false", "unknown": "x"},
    ],
)
async def test_numbers_may_be_quoted_empty_or_absent(fields: dict[str, str], http: httpx.AsyncClient) -> None:
    assert (await classify(http, **fields)).json()["data"][0]["classes"][0]["label"] == "dog"


@pytest.mark.parametrize(
    ("fields", "refusal", "said"),
    [
        ({"model": "clip"}, (422, "capability_missing"), "name some in `labels`"),
        ({"model": "vit", "labels": "a"}, (422, "capability_missing"), "it can embed pictures"),
        ({"model": "sam"}, (422, "capability_missing"), "it can segment"),
        ({"model": "resnet", "labels": "a"}, (422, "capability_missing"), "knows its own labels"),
        ({"model": "nothing"}, (404, "model_not_found"), "nothing"),
        ({"model": "resnet@9.0.0"}, (404, "version_not_found"), "9.0.0"),
    ],
)
async def test_who_cannot_serve_says_why(
    fields: dict[str, str], refusal: tuple[int, str], said: str, world: World, http: httpx.AsyncClient
) -> None:
    answer = await classify(http, **fields)

    assert (answer.status_code, answer.json()["code"]) == refusal
    assert said in answer.json()["detail"]
    assert (world.embedder.asked, world.classifier.asked) == ([], [])


async def test_a_form_without_pictures_says_so(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/classify", files=[("picture", ("a.png", b"a"))], data={"labels": "cat"})

    assert (answer.status_code, fault(answer)["field"]) == (422, "files")
    assert fault(answer)["found"] == "labels, picture"


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
async def test_another_content_type_is_unsupported(kind: str, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/classify", content=b'{"labels": ["cat"]}', headers={"content-type": kind})

    assert (answer.status_code, fault(answer)["found"]) == (415, kind)


async def test_a_thousand_labels_are_read_and_more_are_over_the_limit(
    world: World, core: Core, serve: Callable[[ASGIApp], httpx.AsyncClient]
) -> None:
    http = serve(create_app(core, max_body_bytes=2**20))
    labels = [f"label {number}" for number in range(1_000)]

    whole = await classify(http, labels=labels, top_k="1000")
    more = await classify(http, labels=[*labels, "one more"])
    lots = await classify(http, labels=[""] * 1_300)
    crowd = await classify(http, *[picture(b"a")] * 9, labels="cat")

    assert (whole.status_code, len(whole.json()["data"][0]["classes"])) == (200, 1_000)
    assert [(a.status_code, a.json()["code"]) for a in (more, lots, crowd)] == [(413, "limit_exceeded")] * 3
    assert len(texts_of(world)) == 1_000


async def test_request_id_deadline_and_priority_travel_with_the_call(world: World, http: httpx.AsyncClient) -> None:
    headers = {"x-request-id": "req-1", "x-modelmora-priority": "bulk", "x-modelmora-timeout-ms": "1000"}
    answer = await http.post("/v1/classify", files=[picture(b"1")], headers=headers)

    call = world.classifier.asked[0][2]
    assert (call.request_id, call.priority, call.face) == ("req-1", "bulk", "http")
    assert answer.headers["x-request-id"] == "req-1"


@pytest.mark.parametrize("labelled", [False, True])
async def test_a_caller_who_leaves_frees_the_work(labelled: bool, world: World, core: Core) -> None:
    world.classifier.hold = world.embedder.hold = asyncio.Event()
    fake: Any = world.embedder if labelled else world.classifier
    conversation = Conversation(create_app(core, max_body_bytes=2**20), "/v1/classify")
    conversation.send((field_part("labels", "cat") if labelled else b"") + file_part(b"1") + END, more=False)
    async with asyncio.timeout(10):
        await fake.entered.wait()

        conversation.leave()

        await fake.cancelled.wait()
        await conversation.task
    assert conversation.status is None


async def test_the_route_is_in_the_openapi_page(http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()["paths"]["/v1/classify"]["post"]

    form = page["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"files", "model", "labels", "templates", "top_k", "threshold", "truncate"}
    assert page["x-permission"] == "infer"
