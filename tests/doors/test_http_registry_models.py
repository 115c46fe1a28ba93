"""`/api/v1/models` as entries: made, listed, looked up, changed, removed, and what a name stands for."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from modelmora.errors import OutOfMemory
from tests.fakes import CLIP, VIT, World, holding, worker
from tests.registries import ANN

BASE = "/api/v1/models"
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def add(http: httpx.AsyncClient, name: str = "birds", **more: Any) -> dict[str, Any]:
    answer = await http.post(BASE, json={"name": name, "type": "classification", **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def names(http: httpx.AsyncClient, **params: Any) -> tuple[list[str], str | None]:
    body = (await http.get(BASE, params=params)).json()
    return [row["name"] for row in body["data"]], body["next_cursor"]


def at_fault(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and the first field."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, body["code"], body["errors"][0]["field"]


async def test_a_model_is_made_and_says_where_it_is(http: httpx.AsyncClient) -> None:
    told = {"description": "which bird it is", "tags": ["birds", "small"], "owner": "ann"}

    answer = await http.post(BASE, json={"name": "birds", "type": "classification", **told})

    assert (answer.status_code, answer.headers["location"], answer.headers["etag"]) == (201, f"{BASE}/birds", '"1"')
    made = answer.json()
    assert MOMENT.fullmatch(made["created_at"])
    assert made == {
        "id": made["id"],
        "name": "birds",
        "type": "classification",
        **told,
        "current": None,
        "created_at": made["created_at"],
        "changed_at": made["created_at"],
        "row": 1,
    }
    for ref in ("birds", made["id"]):
        found = await http.get(f"{BASE}/{ref}")
        assert (found.json(), found.headers["etag"]) == (made, '"1"')


async def test_who_makes_a_model_owns_it_and_stands_in_the_audit(world: World, http: httpx.AsyncClient) -> None:
    answer = await http.post(
        BASE, json={"name": "birds", "type": "classification"}, headers={"x-request-id": "the-request"}
    )

    [entry] = (await http.get("/api/v1/audit", params={"subject": "birds"})).json()["data"]
    assert (answer.json()["owner"], entry["actor"], entry["request_id"]) == ("anonymous", "anonymous", "the-request")


async def test_a_name_is_taken_once(http: httpx.AsyncClient) -> None:
    await add(http)

    answer = await http.post(BASE, json={"name": "birds", "type": "tensor"})

    assert at_fault(answer) == (409, "conflict", "name")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": "Birds"}, "name"),
        ({"name": "b" * 65}, "name"),
        ({"name": 7}, "name"),
        ({"name": "birds\0"}, "name"),
        ({"type": "audio"}, "type"),
        ({"labels": []}, "labels"),
        ({"tags": "birds"}, "tags"),
        ({"tags": ["a", "a"]}, "tags"),
        ({"tags": ["a", 1]}, "tags.1"),
        ({"tags": ["\ud800"]}, "tags"),
        ({"owner": None}, "owner"),
        ({"owner": "\0"}, "owner"),
        ({"description": "\ud800"}, "description"),
        ({"description": "x" * 10_001}, "description"),
    ],
)
async def test_what_no_model_may_be_is_named(wrong: dict[str, Any], field: str, http: httpx.AsyncClient) -> None:
    body = json.dumps({"name": "birds", "type": "classification", **wrong})
    answer = await http.post(BASE, content=body, headers={"content-type": "application/json"})

    assert at_fault(answer) == (422, "validation", field)
    assert (await http.get(f"{BASE}/birds")).status_code == 404


async def test_every_field_at_fault_is_named_at_once(http: httpx.AsyncClient) -> None:
    answer = await http.post(BASE, json={"type": "audio", "colour": "blue"})

    assert [fault["field"] for fault in answer.json()["errors"]] == ["name", "type", "colour"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"", "application/json", 400, "invalid_input"),
        (b"{", "application/json", 400, "invalid_input"),
        (b"\xff{}", "application/json", 400, "invalid_input"),
        (b"[" * 50_000, "application/json", 400, "invalid_input"),
        (b'{"name": ' + b"9" * 5_000 + b"}", "application/json", 400, "invalid_input"),
        (b"[]", "application/json", 422, "validation"),
        (b"null", "application/json", 422, "validation"),
        (b'{"name": ' + b"[" * 900 + b"]" * 900 + b"}", "application/json", 422, "validation"),
        (b"{}", "text/plain", 415, "unsupported_media"),
        (b"{" + b" " * 70_000 + b"}", "application/json", 413, "limit_exceeded"),
    ],
)
async def test_a_body_that_is_none(content: bytes, kind: str, status: int, code: str, http: httpx.AsyncClient) -> None:
    answer = await http.post(BASE, content=content, headers={"content-type": kind})

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_what_is_declared_is_registered_too(http: httpx.AsyncClient) -> None:
    assert await names(http) == (["clip", "sam", "vit"], None)


async def test_a_row_shows_how_the_current_version_stands(world: World, http: httpx.AsyncClient) -> None:
    first, second = holding(CLIP, in_flight=3), holding(CLIP, "failed", error="out of luck")
    world.host.views = [worker("default-1-100", first), worker("default-2-101", second)]
    standing = {
        "version": "1.0.0",
        "provider": "noop",
        "source": "bundled:noop",
        "group": "default",
        "default": True,
        "device": "auto",
        "precision": "fp32",
        "engine": "torch",
        "state": "loaded",
        "bytes": 2**20,
        "workers": ["default-1-100"],
        "error": "out of luck",
    }

    one, listed = (await http.get(f"{BASE}/clip")).json(), (await http.get(BASE)).json()["data"]

    assert {name: one[name] for name in standing} == standing
    assert (one["name"], one["type"], one["current"]) == ("clip", "embedding", "1.0.0")
    assert listed[0] == one


async def test_a_version_that_is_named_shows_how_that_one_stands(world: World, http: httpx.AsyncClient) -> None:
    world.host.views = [worker("default-1-100", holding(VIT))]

    old, new = (await http.get(f"{BASE}/vit@1.0.0")).json(), (await http.get(f"{BASE}/vit@{VIT.version}")).json()

    assert (old["version"], old["current"], old["state"]) == ("1.0.0", VIT.version, "unloaded")
    assert (new["version"], new["source"], new["state"]) == (VIT.version, VIT.source, "loaded")


async def test_a_version_that_is_not_served_yet_is_shown_as_it_would_be_run(
    world: World, http: httpx.AsyncClient
) -> None:
    version = await world.kept.registered()

    row = (await http.get(f"{BASE}/birds@1.0.0")).json()

    assert (row["name"], row["version"], row["current"], row["provider"]) == ("birds", "1.0.0", None, "noop")
    assert (row["source"], row["state"], row["bytes"], row["workers"]) == (version.source, "unloaded", 0, [])


async def test_a_current_version_that_this_process_has_not_heard_of_yet_is_unloaded(
    world: World, http: httpx.AsyncClient
) -> None:
    await world.kept.approved()
    await world.kept.versions.make_current("birds", "1.0.0", by=ANN)

    one, listed = (await http.get(f"{BASE}/birds")).json(), (await http.get(BASE)).json()["data"][0]

    assert (one["version"], one["state"], one["provider"]) == ("1.0.0", "unloaded", "noop")
    assert (listed["name"], listed["version"], listed["state"]) == ("birds", "1.0.0", "unloaded")


async def test_pages_follow_each_other_to_the_end(http: httpx.AsyncClient) -> None:
    for name in ("ant", "bee", "cat", "dog"):
        await add(http, name)
    pages, cursor = [], None
    while True:
        page, cursor = await names(http, limit=3, **({"cursor": cursor} if cursor else {}))
        pages.append(page)
        if cursor is None:
            break

    assert pages == [["ant", "bee", "cat"], ["clip", "dog", "sam"], ["vit"]]


async def test_the_list_is_of_what_is_asked_for_in_the_order_asked_for(http: httpx.AsyncClient) -> None:
    await add(http, "birds", tags=["small", "wild"], owner="ann")
    await add(http, "beasts", tags=["wild"], owner="bob")
    await add(http, "boats", owner="ann")

    assert (await names(http, prefix="b"))[0] == ["beasts", "birds", "boats"]
    assert (await names(http, prefix="b", order="-name"))[0] == ["boats", "birds", "beasts"]
    assert (await names(http, prefix="b", order="created_at"))[0] == ["birds", "beasts", "boats"]
    assert (await names(http, order="-created_at", limit=1))[0] == ["boats"]
    assert (await names(http, tag="wild"))[0] == ["beasts", "birds"]
    assert (await names(http, owner="ann", tag="small"))[0] == ["birds"]
    assert (await names(http, type="segmentation"))[0] == ["sam"]
    assert await names(http, type="tensor") == ([], None)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("type", "audio"),
        ("limit", "0"),
        ("limit", "501"),
        ("limit", "many"),
        ("order", "colour"),
        ("colour", "blue"),
        ("prefix", "\0"),
        ("tag", "\0"),
        ("owner", "\0"),
        ("cursor", ""),
        ("cursor", "garbage"),
        ("cursor", "bw=="),
        ("cursor", "käse"),
        ("cursor", "bnVsbA=="),
        ("cursor", "WyJuYW1lIiwgZmFsc2UsICIAIiwgIgAiXQ=="),
        ("cursor", "WyJuYW1lIiwgZmFsc2UsICJcdTAwMDAiLCAiYSJd"),
    ],
)
async def test_a_wrong_parameter_is_named(field: str, given: str, http: httpx.AsyncClient) -> None:
    assert at_fault(await http.get(BASE, params={field: given})) == (422, "validation", field)


async def test_a_cursor_is_good_for_its_own_order_alone(http: httpx.AsyncClient) -> None:
    _, cursor = await names(http, limit=1)

    answer = await http.get(BASE, params={"order": "-name", "cursor": cursor or ""})

    assert at_fault(answer) == (422, "validation", "cursor")


async def test_what_is_left_out_stays_as_it_is(http: httpx.AsyncClient) -> None:
    await add(http, description="birds of here", tags=["small"], owner="ann")

    answer = await http.patch(f"{BASE}/birds", json={"tags": []})

    row = answer.json()
    assert (row["description"], row["tags"], row["owner"], row["row"]) == ("birds of here", [], "ann", 2)
    assert answer.headers["etag"] == '"2"'
    assert (await http.patch(f"{BASE}/{row['id']}", json={"description": ""})).json()["description"] == ""


@pytest.mark.parametrize(
    ("changes", "field"), [({"name": "fish"}, "name"), ({"owner": None}, "owner"), ({"tags": ["a\0"]}, "tags")]
)
async def test_a_change_that_cannot_be_is_named(changes: Any, field: str, http: httpx.AsyncClient) -> None:
    made = await add(http)

    assert at_fault(await http.patch(f"{BASE}/birds", json=changes)) == (422, "validation", field)
    assert (await http.get(f"{BASE}/birds")).json() == made


@pytest.mark.parametrize("given", ['"1"', "*", '"7", "1"', 'W/"7","1"', ""])
async def test_a_change_of_what_was_read_goes_through(given: str, http: httpx.AsyncClient) -> None:
    await add(http)

    answer = await http.patch(f"{BASE}/birds", json={"owner": "bob"}, headers={"if-match": given})

    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')


@pytest.mark.parametrize("given", ['"2"', 'W/"1"', '"birds"', '"0"', '"01"', '"2", "3"', '"' + "9" * 40 + '"', '""'])
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_a_change_of_what_was_changed_meanwhile_does_not(
    method: str, given: str, http: httpx.AsyncClient
) -> None:
    made = await add(http)
    body = {"json": {"owner": "bob"}} if method == "PATCH" else {}

    answer = await http.request(method, f"{BASE}/birds", headers={"if-match": given}, **body)  # type: ignore[arg-type] # a body or none

    assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")
    assert (await http.get(f"{BASE}/birds")).json() == made


@pytest.mark.parametrize("given", ["1", '"1', "'1'", '"1" "2"'])
async def test_a_condition_that_is_none_is_refused(given: str, http: httpx.AsyncClient) -> None:
    await add(http)

    answer = await http.delete(f"{BASE}/birds", headers={"if-match": given})

    assert at_fault(answer) == (422, "validation", "if-match")


async def test_a_model_without_versions_can_go(http: httpx.AsyncClient) -> None:
    await add(http)

    answer = await http.delete(f"{BASE}/birds", headers={"if-match": '"1"'})

    assert (answer.status_code, answer.content) == (204, b"")
    assert (await http.get(f"{BASE}/birds")).status_code == 404
    assert (await http.delete(f"{BASE}/birds")).json()["code"] == "model_not_found"


async def test_a_model_with_versions_stays(http: httpx.AsyncClient) -> None:
    assert at_fault(await http.delete(f"{BASE}/clip")) == (409, "conflict", "name")


async def test_another_version_becomes_current_and_is_warm_before(world: World, http: httpx.AsyncClient) -> None:
    await world.kept.approved("1.0.0")
    first = await http.put(f"{BASE}/birds/current", json={"version": "1.0.0"})
    await world.kept.approved("2.0.0", content=b"better")
    await world.kept.roster.refresh()

    second = await http.put(f"{BASE}/birds/current", json={"version": "2.0.0"}, headers={"if-match": '"2"'})

    assert [(a.status_code, a.json()["current"], a.headers["etag"]) for a in (first, second)] == [
        (200, "1.0.0", '"2"'),
        (200, "2.0.0", '"3"'),
    ]
    assert (second.json()["version"], second.json()["state"]) == ("2.0.0", "loaded")
    assert world.host.changes == [("warmup", "birds@2.0.0"), ("unload", "birds@1.0.0")]


async def test_a_version_that_does_not_load_leaves_the_name_as_it_was(world: World, http: httpx.AsyncClient) -> None:
    world.host.troubles["vit@1.0.0"] = OutOfMemory("needs 9 GiB")

    answer = await http.put(f"{BASE}/vit/current", json={"version": "1.0.0"})

    assert (answer.status_code, answer.json()["code"]) == (507, "out_of_memory")
    assert (await http.get(f"{BASE}/vit")).json()["current"] == VIT.version


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"version": "3.0.0"}, 404, "version_not_found"),
        ({"version": "latest"}, 422, "validation"),
        ({"version": "1.0.0\0"}, 422, "validation"),
        ({"version": None}, 422, "validation"),
        ({}, 422, "validation"),
    ],
)
async def test_a_version_that_cannot_become_current(body: Any, status: int, code: str, http: httpx.AsyncClient) -> None:
    answer = await http.put(f"{BASE}/vit/current", json=body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_name_that_was_changed_meanwhile_stays_as_it_is(world: World, http: httpx.AsyncClient) -> None:
    path, body = f"{BASE}/vit/current", {"version": "1.0.0"}

    answer = await http.put(path, json=body, headers={"if-match": '"9"'})

    assert (answer.status_code, answer.json()["code"], world.host.changes) == (412, "precondition_failed", [])


async def test_a_version_that_is_not_approved_does_not_become_current(world: World, http: httpx.AsyncClient) -> None:
    await world.kept.registered()

    answer = await http.put(f"{BASE}/birds/current", json={"version": "1.0.0"})

    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")


@pytest.mark.parametrize("ref", ["Birds", "birds@1.0.0", "birds%00", "%ED%A0%80", "b" * 65])
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_what_names_no_model_is_refused(method: str, ref: str, http: httpx.AsyncClient) -> None:
    answer = await http.request(method, f"{BASE}/{ref}", json={})

    assert at_fault(answer) == (422, "validation", "model")
