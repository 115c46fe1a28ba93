"""`/v1/search`: questions in JSON and in forms, answers as results, pages and groups."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import httpx
import pytest

from api.core import Core
from modelmora.errors import DependencyUnavailable
from tests.doors.test_http_embed import picture
from tests.fakes import CLIP, World, vector_of
from tests.galleries import Kit

PATH = "/v1/search"
PICTURE = base64.b64encode(b"cat").decode()


@pytest.fixture
def kit(world: World) -> Kit:
    return Kit(world=world)


@pytest.fixture
def core(kit: Kit) -> Core:
    return Core(kit.application())


async def ask(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await http.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def refused(http: httpx.AsyncClient, **body: Any) -> tuple[int, str, str | None]:
    answer = await http.post(PATH, json=body)
    problem = answer.json()
    return answer.status_code, problem["code"], problem.get("errors", [{}])[0].get("field")


def ids(answer: dict[str, Any]) -> list[str]:
    return [row["id"] for row in answer["results"]]


async def test_an_uploaded_picture_is_found_by_the_next_search(http: httpx.AsyncClient) -> None:
    fields = {"tags": "pet", "metadata": '{"legs": 4}'}
    kept = (await http.post("/v1/images", files=[picture(b"cat", "cat.png")], data=fields)).json()["data"][0]

    answer = await http.post(PATH, json={"text": "cat"})

    (row,) = answer.json()["results"]
    assert row == {
        "id": kept["id"],
        "score": pytest.approx(1.0),
        "filename": "cat.png",
        "tags": ["pet"],
        "metadata": {"legs": 4},
        "thumbnail": kept["thumbnail"],
        "content_type": "image/png",
        "created_at": row["created_at"],
    }
    assert (answer.json()["model"], answer.json()["next_cursor"]) == (CLIP.key, None)
    assert row["created_at"].endswith("Z")
    timing = r"embed;dur=\d+\.\d\d, search;dur=\d+\.\d\d, total;dur=\d+\.\d\d"
    assert re.fullmatch(timing, answer.headers["server-timing"])


@pytest.mark.parametrize(
    "asked",
    [
        {"text": "cat"},
        {"image": PICTURE},
        {"image": f"data:image/png;base64,{PICTURE}"},
        {"vector": vector_of(b"cat")},
        {"queries": [{"text": "cat"}]},
        {"queries": [{"image": PICTURE, "weight": 2}, {"text": "dog", "weight": -0.01}]},
        {"text": "cat", "image": PICTURE},
    ],
)
async def test_a_question_has_many_forms(kit: Kit, http: httpx.AsyncClient, asked: dict[str, Any]) -> None:
    cat, _ = await kit.kept(b"cat", b"dog")

    assert ids(await ask(http, **asked))[0] == cat


async def test_more_like_this_leaves_this_out(kit: Kit, http: httpx.AsyncClient) -> None:
    cat, dog = await kit.kept(b"cat", b"dog")

    assert ids(await ask(http, id=cat)) == [dog]


async def test_a_form_asks_the_same(kit: Kit, http: httpx.AsyncClient) -> None:
    cat, dog = await kit.kept(b"cat", b"dog", tags=("pet",))
    fields = {
        "limit": "1",
        "filter": '{"tags": ["pet"]}',
        "score_threshold": "0.1",
        "exact": "true",
        "model": "clip",
        "collection": "default",
    }

    by_file = await http.post(PATH, files={"image": ("x.png", b"cat")}, data=fields)
    by_words = await http.post(PATH, data={"text": "dog", "cursor": ""}, files={"nothing": b""})
    by_vector = await http.post(PATH, data={"vector": json.dumps(vector_of(b"cat"))}, files={"nothing": b""})
    weighed = await http.post(
        PATH, files={"image": ("x.png", b"cat")}, data={"queries": '[{"text": "dog", "weight": 9}]'}
    )

    assert ids(by_file.json()) == [cat]
    assert by_file.json()["next_cursor"] is not None
    assert [ids(each.json())[0] for each in (by_words, by_vector, weighed)] == [dog, cat, dog]


async def test_pages_go_on_and_are_of_their_question(kit: Kit, http: httpx.AsyncClient) -> None:
    kept = await kit.kept(b"a", b"b", b"c")

    first = await ask(http, text="x", limit=2)
    rest = await ask(http, text="x", limit=2, cursor=first["next_cursor"])

    assert sorted(ids(first) + ids(rest)) == sorted(kept)
    assert rest["next_cursor"] is None
    assert await refused(http, text="y", cursor=first["next_cursor"]) == (422, "validation", "cursor")


async def test_groups_are_answered_instead_of_results(kit: Kit, http: httpx.AsyncClient) -> None:
    await kit.kept(b"a", b"b", metadata={"kind": "x"})
    await kit.kept(b"c", metadata={"kind": 7})

    answer = await ask(http, text="a", group_by="kind", group_size=1)

    assert "results" not in answer
    assert {group["value"] for group in answer["groups"]} == {"x", 7}
    assert [len(group["results"]) for group in answer["groups"]] == [1, 1]


async def test_filters_narrow_the_answer(kit: Kit, http: httpx.AsyncClient) -> None:
    (old,) = await kit.kept(b"old", metadata={"year": 1999}, tags=("a",))
    (new,) = await kit.kept(b"new", metadata={"year": 2020}, tags=("a", "b"))

    assert ids(await ask(http, text="x", filter={"metadata": {"year": {"gte": 2000}}})) == [new]
    assert ids(await ask(http, text="x", filter={"tags": {"all": ["a"], "none": ["b"]}})) == [old]
    assert ids(await ask(http, text="x", filter={"ids": [new]})) == [new]
    assert len(ids(await ask(http, text="x", filter=None))) == 2


async def test_nothing_is_found_before_anything_is_indexed(http: httpx.AsyncClient) -> None:
    assert await ask(http, text="cat") == {"results": [], "next_cursor": None, "model": CLIP.key}
    assert (await ask(http, text="cat", group_by="kind"))["groups"] == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, (422, "validation", "queries")),
        ({"text": ""}, (422, "validation", "text")),
        ({"text": 7}, (422, "validation", "text")),
        ({"text": "x" * 101}, (413, "limit_exceeded", "text")),
        ({"image": "no base64!"}, (400, "invalid_input", "image")),
        ({"image": "data:image/png,abc"}, (400, "invalid_input", "image")),
        ({"image": 7}, (422, "validation", "image")),
        ({"id": "nobody"}, (404, "image_not_found", "id")),
        ({"id": "x" * 65}, (422, "validation", "id")),
        ({"vector": [1, 2]}, (422, "validation", "vector")),
        ({"vector": []}, (422, "validation", "vector")),
        ({"vector": ["1"]}, (422, "validation", "vector")),
        ({"vector": [1e300] * 4}, (422, "validation", "vector")),
        ({"vector": [0, 0, 0, 0]}, (422, "validation", "vector")),
        ({"queries": {}}, (422, "validation", "queries")),
        ({"queries": ["a"]}, (422, "validation", "queries.0")),
        ({"queries": [{}]}, (422, "validation", "queries.0")),
        ({"queries": [{"text": "a", "id": "b"}]}, (422, "validation", "queries.0")),
        ({"queries": [{"text": "a", "wheight": 1}]}, (422, "validation", "wheight")),
        ({"queries": [{"text": "a", "weight": "1"}]}, (422, "validation", "queries.0.weight")),
        ({"queries": [{"text": "a", "weight": 0}]}, (422, "validation", "queries")),
        ({"queries": [{"text": "a"}] * 17}, (413, "limit_exceeded", "queries")),
        ({"text": "a", "limit": 501}, (422, "validation", "limit")),
        ({"text": "a", "limit": 0}, (422, "validation", "limit")),
        ({"text": "a", "limit": "5"}, (422, "validation", "limit")),
        ({"text": "a", "cursor": "x"}, (422, "validation", "cursor")),
        ({"text": "a", "filter": {"colour": "red"}}, (422, "validation", "filter")),
        ({"text": "a", "filters": {}}, (422, "validation", "filters")),
        ({"text": "a", "score_threshold": "high"}, (422, "validation", "score_threshold")),
        ({"text": "a", "group_by": "no key"}, (422, "validation", "group_by")),
        ({"text": "a", "collection": "No"}, (422, "validation", "collection")),
        ({"text": "a", "exact": 1}, (422, "validation", "exact")),
        ({"text": "a", "model": "gone"}, (404, "model_not_found", "model")),
        ({"text": "a", "model": "sam"}, (422, "capability_missing", "model")),
    ],
)
async def test_what_is_no_question_is_refused_by_its_place(
    kit: Kit, http: httpx.AsyncClient, body: dict[str, Any], told: tuple[int, str, str]
) -> None:
    await kit.kept(b"cat")

    assert await refused(http, **body) == told


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"text": "a", "filter": "{"}, "filter"),
        ({"text": "a", "limit": "many"}, "limit"),
        ({"text": "a", "limit": "1.5"}, "limit"),
        ({"text": "a", "exact": "perhaps"}, "exact"),
        ({"vector": "1,2"}, "vector"),
        ({"queries": "{}"}, "queries"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_form_that_asks_nothing_is_refused_by_its_field(
    http: httpx.AsyncClient, fields: dict[str, str], field: str
) -> None:
    answer = await http.post(PATH, data=fields, files={"nothing": b""} if "colour" not in fields else {"image": b"x"})

    assert answer.status_code in (400, 422)
    assert answer.json()["errors"][0]["field"] == field


async def test_a_body_that_is_neither_is_refused(http: httpx.AsyncClient) -> None:
    assert (await http.post(PATH, content=b"x", headers={"content-type": "text/plain"})).status_code == 415
    assert (await http.post(PATH, content=b"{", headers={"content-type": "application/json"})).status_code == 400


async def test_a_store_that_is_away_is_said(kit: Kit, http: httpx.AsyncClient) -> None:
    await kit.kept(b"cat")
    kit.vectors.away = DependencyUnavailable("away: MODELMORA_VECTORS_URL", retry_after_s=1.0)

    answer = await http.post(PATH, json={"text": "cat"})

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
