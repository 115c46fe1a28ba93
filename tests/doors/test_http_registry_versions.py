"""`/api/v1/models/{ref}/versions`: made, listed, looked up, and results told later."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from typing import Any

import httpx
import pytest

from tests.doors.test_http_registry_models import MOMENT, add, at_fault
from tests.fakes import VIT

BASE = "/api/v1/models/birds/versions"


def file(content: bytes = b"weights", path: str = "model/weights.safetensors") -> dict[str, Any]:
    return {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def version(number: str = "1.0.0", **more: Any) -> dict[str, Any]:
    return {"version": number, "files": [file()], "provider": "classifier", **more}


async def sent(http: httpx.AsyncClient, content: bytes = b"weights") -> None:
    answer = await http.put(f"/api/v1/artifacts/{hashlib.sha256(content).hexdigest()}", content=content)
    assert answer.status_code in (200, 201), answer.text


async def register(http: httpx.AsyncClient, number: str = "1.0.0", **more: Any) -> dict[str, Any]:
    """A version of `birds`, which is made where it is not there."""
    if (await http.get("/api/v1/models/birds")).status_code == 404:
        await add(http)
    await sent(http)
    answer = await http.post(BASE, json=version(number, **more))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def numbers(http: httpx.AsyncClient, **params: Any) -> tuple[list[str], str | None]:
    body = (await http.get(BASE, params=params)).json()
    return [row["version"] for row in body["data"]], body["next_cursor"]


async def test_a_version_is_made_of_what_was_sent(http: httpx.AsyncClient) -> None:
    await add(http)
    await sent(http)
    training = {
        "dataset": "coco",
        "dataset_sha256": "ab" * 32,
        "revision": "f00d",
        "parameters": {"lr": 0.1, "steps": [1, None, True]},
        "trained_by": "ann",
        "trained_at": "2026-05-04T03:02:01+02:00",
        "parent": "vit@1.0.0",
    }
    metrics = [{"name": "recall@1", "value": 0.97, "dataset": "coco"}]
    batching = {"max_batch": 8, "max_wait_ms": 5.0, "queue": 10}

    answer = await http.post(
        BASE,
        json=version(
            config={"labels": ["wren"]}, device="cpu", precision="bf16", engine="auto", batching=batching, warmup=False,
            pin=True, idle_ttl_s=60, training=training, baseline={"metrics": metrics, "p50_ms": 1, "device": "cpu"},
        ),
    )  # fmt: skip

    assert answer.status_code == 201
    assert (answer.headers["location"], answer.headers["etag"]) == (f"{BASE}/1.0.0", '"1"')
    made = answer.json()
    manifest = f"{file()['sha256']}  model/weights.safetensors\n".encode()
    whole = hashlib.sha256(manifest).hexdigest()
    assert MOMENT.fullmatch(made["created_at"])
    running = {
        "provider": "classifier",
        "config": {"labels": ["wren"]},
        "group": "default",
        "device": "cpu",
        "precision": "bf16",
        "engine": "auto",
        "batching": batching,
        "warmup": False,
        "pin": True,
        "idle_ttl_s": 60,
    }
    assert {name: made["running"][name] for name in running} == running
    assert {name: value for name, value in made.items() if name != "running"} == {
        "id": made["id"],
        "model": "birds",
        "version": "1.0.0",
        "type": "classification",
        "state": "registered",
        "source": f"object:{whole}",
        "artifact": {"sha256": whole, "bytes": 7, "files": [file()]},
        "inputs": [],
        "outputs": [],
        "labels": [],
        "training": {**training, "trained_at": "2026-05-04T01:02:01.000000Z"},
        "baseline": {
            "metrics": metrics,
            "p50_ms": 1,
            "p95_ms": None,
            "memory_bytes": None,
            "device": "cpu",
            "engine": "",
            "precision": "",
        },
        "validated_at": None,
        "failure": "",
        "created_at": made["created_at"],
        "changed_at": made["created_at"],
        "row": 1,
    }
    found = await http.get(f"{BASE}/1.0.0")
    assert (found.json(), found.headers["etag"]) == (made, '"1"')


async def test_a_model_is_found_by_its_id_as_well(http: httpx.AsyncClient) -> None:
    made = await register(http)
    id_ = (await http.get("/api/v1/models/birds")).json()["id"]

    assert (await http.get(f"/api/v1/models/{id_}/versions/1.0.0")).json() == made
    assert [row["version"] for row in (await http.get(f"/api/v1/models/{id_}/versions")).json()["data"]] == ["1.0.0"]


async def test_a_build_is_part_of_the_number(http: httpx.AsyncClient) -> None:
    made = await register(http, "1.0.0+cu118.a-b")

    for number in ("1.0.0+cu118.a-b", "1.0.0%2Bcu118.a-b"):
        assert (await http.get(f"{BASE}/{number}")).json() == made
    assert (await http.get(f"{BASE}/1.0.0")).json()["code"] == "version_not_found"


async def test_files_that_were_not_sent_are_named(http: httpx.AsyncClient) -> None:
    await add(http)
    await sent(http)
    files = [file(), file(b"other", "other"), {**file(), "path": "longer", "bytes": 8}]

    answer = await http.post(BASE, json=version(files=files))

    assert at_fault(answer) == (422, "validation", "files")
    assert [fault["found"] for fault in answer.json()["errors"]] == ["7 bytes", "nothing"]
    assert await numbers(http) == ([], None)


async def test_an_index_is_asked_for_by_a_switch_or_by_settings(http: httpx.AsyncClient) -> None:
    await add(http, type="embedding")
    await sent(http)
    usual: dict[str, Any] = {
        "m": None, "ef_construct": None, "quantization": None, "always_ram": True, "on_disk": False, "payload": []
    }  # fmt: skip
    some = {"m": 32, "payload": ["camera"]}
    cases: list[tuple[Any, Any]] = [(True, usual), (False, None), (some, {**usual, **some})]
    for number, (asked, told) in enumerate(cases):
        answer = await http.post(BASE, json=version(f"1.0.{number}", index=asked))
        assert answer.status_code == 201, answer.text
        assert answer.json()["running"]["index"] == told


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"version": "1"}, "version"),
        ({"version": 1}, "version"),
        ({"files": []}, "files"),
        ({"files": [{"path": "a", "bytes": "7", "sha256": "ab" * 32}]}, "files.0.bytes"),
        ({"files": [{"path": "a", "bytes": True, "sha256": "ab" * 32}]}, "files.0.bytes"),
        ({"files": [{"path": "a", "bytes": -1, "sha256": "ab" * 32}]}, "files.0.bytes"),
        ({"files": [{"path": "../a", "bytes": 7, "sha256": "ab" * 32}]}, "files.path"),
        ({"files": [{"path": "a\ud800", "bytes": 7, "sha256": "ab" * 32}]}, "files.path"),
        ({"files": [{"path": "a", "bytes": 7, "sha256": "AB" * 32}]}, "files.sha256"),
        ({"files": [file(), file()]}, "files.path"),
        ({"provider": "os.system"}, "provider"),
        ({"provider": "../x"}, "provider"),
        ({"device": "tpu"}, "device"),
        ({"precision": "fp4"}, "precision"),
        ({"engine": "pickle"}, "engine"),
        ({"group": "No Group"}, "group"),
        ({"config": []}, "config"),
        ({"config": {"a": float("nan")}}, "config.a"),
        ({"config": {"a": [float("inf")]}}, "config.a[0]"),
        ({"config": {"a": 2**70}}, "config.a"),
        ({"config": {"a": "\0"}}, "config.a"),
        ({"batching": {"max_batch": 0}}, "batching.max_batch"),
        ({"batching": {"max_wait_ms": -1}}, "batching.max_wait_ms"),
        ({"batching": {"queue": 2**63}}, "batching.queue"),
        ({"idle_ttl_s": 0}, "idle_ttl_s"),
        ({"pin": "yes"}, "pin"),
        ({"index": "yes"}, "index"),
        ({"index": {"m": 3}}, "index.m"),
        ({"index": {"hnsw": 16}}, "index.hnsw"),
        ({"index": {"payload": ["no key"]}}, "index.payload.0"),
        ({"index": True}, "index"),
        ({"training": {"trained_at": "2026-05-04T03:02:01"}}, "training.trained_at"),
        ({"training": {"trained_at": 1_700_000_000}}, "training.trained_at"),
        ({"training": {"parent": "birds"}}, "training.parent"),
        ({"training": {"parent": "birds@1.0.0"}}, "training.parent"),
        ({"training": {"dataset_sha256": "ab" * 32}}, "training.dataset"),
        ({"training": {"parameters": {"a": "\ud800"}}}, "training.parameters.a"),
        ({"training": {"who": "ann"}}, "training.who"),
        ({"baseline": {"p95_ms": float("nan")}}, "baseline.p95_ms"),
        ({"baseline": {"memory_bytes": 10**400}}, "baseline.memory_bytes"),
        ({"baseline": {"metrics": [{"name": "a", "value": "b", "dataset": "c"}]}}, "baseline.metrics.0.value"),
        ({"state": "approved"}, "state"),
    ],
)
async def test_what_no_version_may_be_is_named(wrong: dict[str, Any], field: str, http: httpx.AsyncClient) -> None:
    await add(http)
    await sent(http)

    answer = await http.post(BASE, content=json.dumps(version(**wrong)), headers={"content-type": "application/json"})

    assert at_fault(answer) == (422, "validation", field)
    assert await numbers(http) == ([], None)


async def test_what_is_nested_without_end_is_refused(http: httpx.AsyncClient) -> None:
    await add(http)
    deep = '{"a": ' * 400 + "1" + "}" * 400
    body = json.dumps(version(config=7)).replace('"config": 7', f'"config": {deep}')

    answer = await http.post(BASE, content=body, headers={"content-type": "application/json"})

    assert at_fault(answer) == (422, "validation", "config")


async def test_a_version_is_made_once(http: httpx.AsyncClient) -> None:
    await register(http)

    assert at_fault(await http.post(BASE, json=version())) == (409, "conflict", "version")


async def test_only_so_many_faults_are_told(http: httpx.AsyncClient) -> None:
    await add(http)

    answer = await http.post(BASE, json=version(files=[{"path": 1}] * 500))

    assert (answer.status_code, len(answer.json()["errors"])) == (422, 100)


@pytest.mark.parametrize(
    "told",
    [{"files": [0] * 15_000}, {f"x{number}": 0 for number in range(4_000)}, {"config": {"k" * 50_000: [0] * 999}}],
)
async def test_a_body_that_is_wrong_many_times_over_costs_little(http: httpx.AsyncClient, told: dict[str, Any]) -> None:
    await add(http)
    started = time.process_time()

    answer = await http.post(BASE, json=version(**told))

    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert len(answer.content) < 50_000
    assert time.process_time() - started < 5


async def test_two_who_register_the_same_version_at_once_make_one(http: httpx.AsyncClient) -> None:
    await add(http)
    await sent(http)

    answers = await asyncio.gather(*(http.post(BASE, json=version()) for _ in range(6)))

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409, 409]


async def test_a_version_of_no_model(http: httpx.AsyncClient) -> None:
    for answer in (await http.post(BASE, json=version()), await http.get(BASE), await http.get(f"{BASE}/1.0.0")):
        assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


async def test_versions_come_by_precedence_in_pages(http: httpx.AsyncClient) -> None:
    for number in ("1.10.0", "1.9.0", "2.0.0-rc.1", "2.0.0"):
        await register(http, number)

    first, cursor = await numbers(http, limit=3)

    assert (first, await numbers(http, cursor=cursor)) == (["1.9.0", "1.10.0", "2.0.0-rc.1"], (["2.0.0"], None))
    assert (await numbers(http, order="-version"))[0][0] == "2.0.0"
    assert (await numbers(http, order="-created_at", limit=1))[0] == ["2.0.0"]
    assert (await numbers(http, provider="classifier", state="registered", limit=1))[0] == ["1.9.0"]
    assert (await numbers(http, state="deployed"))[0] == (await numbers(http, artifact="ab" * 32))[0] == []


@pytest.mark.parametrize(
    ("field", "given"),
    [("state", "good"), ("order", "name"), ("limit", "0"), ("model", "cats"), ("provider", "\0"), ("artifact", "\0")],
)
async def test_a_wrong_parameter_is_named(field: str, given: str, http: httpx.AsyncClient) -> None:
    await add(http)

    assert at_fault(await http.get(BASE, params={field: given})) == (422, "validation", field)


@pytest.mark.parametrize("number", ["latest", "1", "1.0.0%00", "v1.0.0", "%ED%A0%80"])
async def test_what_is_no_version_is_refused(number: str, http: httpx.AsyncClient) -> None:
    await add(http)
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/moves"), ("GET", "/lineage")):
        answer = await http.request(method, f"{BASE}/{number}{path}", json={})

        assert at_fault(answer) == (422, "validation", "version")


async def test_what_is_declared_has_no_files_here(http: httpx.AsyncClient) -> None:
    found = (await http.get(f"/api/v1/models/vit/versions/{VIT.version}")).json()

    assert (found["state"], found["source"], found["artifact"]) == ("deployed", VIT.source, None)
    answer = await http.get(f"/api/v1/models/vit/versions/{VIT.version}/files/config.json")
    assert at_fault(answer) == (404, "version_not_found", "path")


async def test_results_may_be_told_later(http: httpx.AsyncClient) -> None:
    await register(http, baseline={"metrics": [{"name": "top1", "value": 0.5, "dataset": "coco"}]})
    found = [{"name": "top1", "value": 0.75, "dataset": "coco"}, {"name": "top5", "value": 1, "dataset": "coco"}]

    answer = await http.patch(f"{BASE}/1.0.0", json={"metrics": found}, headers={"if-match": '"1"'})

    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
    assert sorted(answer.json()["baseline"]["metrics"], key=lambda one: str(one["name"])) == found


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "metrics"),
        ({"metrics": []}, "metrics"),
        ({"metrics": [{"name": "a", "value": float("inf"), "dataset": "b"}]}, "metrics.0.value"),
        ({"metrics": [{"name": "", "value": 1, "dataset": "b"}]}, "baseline.metrics.name"),
        ({"labels": ["a"]}, "metrics"),
    ],
)
async def test_results_that_are_none(body: Any, field: str, http: httpx.AsyncClient) -> None:
    await register(http)

    answer = await http.patch(f"{BASE}/1.0.0", content=json.dumps(body), headers={"content-type": "application/json"})

    assert at_fault(answer) == (422, "validation", field)
