"""`/api/v1/models/{ref}/versions/{version}`: its life, its validation, where it comes from and what differs."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from modelmora.domain.registry.provenance import TrainingMetadata
from modelmora.errors import DependencyUnavailable, ModelLoadFailed
from tests.doors.test_http_registry_models import MOMENT, add, at_fault
from tests.doors.test_http_registry_versions import BASE, file, register, sent, version
from tests.fakes import World


async def test_a_version_goes_through_its_life(world: World, http: httpx.AsyncClient) -> None:
    await world.kept.approved()
    steps = {"archive": "archived", "restore": "validated", "submit": "pending_approval", "approve": "approved"}

    for move, state in steps.items():
        answer = await http.post(f"{BASE}/1.0.0/moves", json={"move": move, "reason": "so"})
        assert (answer.status_code, answer.json()["state"]) == (200, state)

    [entry] = (await http.get("/api/v1/audit", params={"action": "version.submit"})).json()["data"]
    assert (entry["reason"], entry["before"]["state"], entry["after"]["state"]) == (
        "so",
        "validated",
        "pending_approval",
    )


async def test_a_move_that_is_not_allowed_says_which_are(http: httpx.AsyncClient) -> None:
    await register(http)

    answer = await http.post(f"{BASE}/1.0.0/moves", json={"move": "approve"})

    assert at_fault(answer) == (409, "wrong_state", "state")
    assert answer.json()["errors"][0]["expected"] == "validate, fail_validation, archive, quarantine"


@pytest.mark.parametrize("body", [{"move": "validate"}, {"move": "deploy"}, {"move": "fail_validation"}, {"move": ""}])
async def test_what_is_not_a_persons_to_do(body: Any, http: httpx.AsyncClient) -> None:
    await register(http)

    assert at_fault(await http.post(f"{BASE}/1.0.0/moves", json=body)) == (422, "validation", "move")


@pytest.mark.parametrize("reason", ["\0", "x" * 100_000])
async def test_a_reason_that_cannot_be_kept(reason: str, http: httpx.AsyncClient) -> None:
    await register(http)

    answer = await http.post(f"{BASE}/1.0.0/moves", json={"move": "archive", "reason": reason})

    assert answer.status_code in (413, 422)
    assert (await http.get(f"{BASE}/1.0.0")).json()["state"] == "registered"


async def test_a_move_of_what_was_changed_meanwhile(http: httpx.AsyncClient) -> None:
    await register(http)

    answer = await http.post(f"{BASE}/1.0.0/moves", json={"move": "archive"}, headers={"if-match": '"2"'})

    assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")


async def test_a_version_that_nobody_uses_can_go_and_its_number_stays_taken(http: httpx.AsyncClient) -> None:
    await register(http)

    assert (await http.delete(f"{BASE}/1.0.0", headers={"if-match": '"1"'})).status_code == 204
    assert (await http.get(f"{BASE}/1.0.0")).json()["code"] == "version_not_found"
    await sent(http, b"others")
    for content in (b"weights", b"others"):
        answer = await http.post(BASE, json=version(files=[file(content)]))
        assert at_fault(answer) == (409, "conflict", "version")


async def test_a_version_that_is_used_stays(world: World, http: httpx.AsyncClient) -> None:
    await world.kept.approved()
    await http.put("/api/v1/models/birds/current", json={"version": "1.0.0"})

    answer = await http.delete(f"{BASE}/1.0.0")

    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert (await http.get(f"{BASE}/1.0.0")).json()["state"] == "deployed"


MEASURED = {"p50_ms": 1.0, "p95_ms": 2.0, "memory_bytes": 100, "device": "cpu", "engine": "torch", "precision": "fp32"}
REPORT = {
    "stage": "report",
    "measured": MEASURED,
    "inputs": [{"name": "image", "dtype": "uint8", "shape": ["batch", None, None, 3]}],
    "outputs": [{"name": "scores", "dtype": "float32", "shape": ["batch", 2]}],
    "labels": ["wren", "rook"],
}


async def test_validating_tells_its_steps_and_ends_with_the_version(world: World, http: httpx.AsyncClient) -> None:
    await register(http)
    world.host.findings = [{"stage": "format", "found": "safetensors"}, {"stage": "loading", "percent": 50}, REPORT]

    answer = await http.post(f"{BASE}/1.0.0/validate")

    *steps, report = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert steps == world.host.findings[:2]
    assert report == {"stage": "report", "version": (await http.get(f"{BASE}/1.0.0")).json()}
    assert report["version"]["labels"] == ["wren", "rook"]
    assert {name: report["version"]["baseline"][name] for name in MEASURED} == MEASURED
    assert MOMENT.fullmatch(report["version"]["validated_at"])


async def test_what_does_not_pass_says_why_in_its_entry(world: World, http: httpx.AsyncClient) -> None:
    await register(http)
    world.host.troubles["birds@1.0.0"] = ModelLoadFailed("the weights do not fit")

    lines = (await http.post(f"{BASE}/1.0.0/validate")).text.splitlines()

    told = json.loads(lines[-1])["version"]
    assert (told["state"], told["failure"]) == ("validation_failed", "the weights do not fit")


async def test_what_comes_of_the_machine_is_told_and_the_version_stays(world: World, http: httpx.AsyncClient) -> None:
    await register(http)
    world.host.findings = [{"stage": "loading"}]
    world.host.troubles["birds@1.0.0"] = DependencyUnavailable("no runner")

    lines = (await http.post(f"{BASE}/1.0.0/validate")).text.splitlines()

    assert json.loads(lines[-1]) == {"error": {"code": "dependency_unavailable", "detail": "no runner"}}
    assert (await http.get(f"{BASE}/1.0.0")).json()["state"] == "registered"


async def test_a_deadline_that_is_none_validates_nothing(world: World, http: httpx.AsyncClient) -> None:
    await register(http)

    answer = await http.post(f"{BASE}/1.0.0/validate", headers={"x-modelmora-timeout-ms": "never"})

    assert at_fault(answer) == (422, "validation", "x-modelmora-timeout-ms")
    assert world.host.changes == []


async def test_what_is_not_there_is_not_validated(http: httpx.AsyncClient) -> None:
    await add(http)

    answer = await http.post(f"{BASE}/1.0.0/validate")

    assert (answer.status_code, answer.json()["code"]) == (404, "version_not_found")


async def test_lineage_reaches_as_far_as_it_goes(world: World, http: httpx.AsyncClient) -> None:
    kept = world.kept
    await kept.registered("1.0.0", training=TrainingMetadata(dataset="coco", parent="vit@1.0.0"))
    await kept.registered("2.0.0", training=TrainingMetadata(dataset="wild", parent="birds@1.0.0"))
    await kept.registered("3.0.0", training=TrainingMetadata(parent="birds@2.0.0"))

    told = (await http.get(f"{BASE}/2.0.0/lineage")).json()

    def nodes(*names: str, kind: str = "version") -> list[dict[str, str]]:
        return [{"kind": kind, "name": name} for name in names]

    assert (told["node"], told["ancestors"]) == (nodes("birds@2.0.0")[0], nodes("birds@1.0.0", "vit@1.0.0"))
    assert (told["descendants"], told["datasets"]) == (nodes("birds@3.0.0"), nodes("coco", "wild", kind="dataset"))
    edges = {(edge["child"]["name"], edge["parent"]["name"]) for edge in told["edges"]}
    assert edges == {
        ("birds@1.0.0", "vit@1.0.0"),
        ("birds@1.0.0", "coco"),
        ("birds@2.0.0", "birds@1.0.0"),
        ("birds@2.0.0", "wild"),
        ("birds@3.0.0", "birds@2.0.0"),
    }


async def test_what_comes_from_nowhere_has_no_lineage(http: httpx.AsyncClient) -> None:
    await register(http)

    told = (await http.get(f"{BASE}/1.0.0/lineage")).json()

    assert told.pop("node") == {"kind": "version", "name": "birds@1.0.0"}
    assert told == {"ancestors": [], "descendants": [], "datasets": [], "edges": []}
    assert (await http.get(f"{BASE}/9.0.0/lineage")).json()["code"] == "version_not_found"


async def test_two_versions_differ_in_what_was_told_otherwise(http: httpx.AsyncClient) -> None:
    await register(http, "1.0.0", precision="fp32", config={"size": 224})
    await register(http, "2.0.0", precision="bf16", config={"width": None})

    told = (await http.get(f"{BASE}/1.0.0/diff/2.0.0")).json()

    assert (told["before"], told["after"]) == ("1.0.0", "2.0.0")
    assert told["differences"] == [
        {"field": "running.config.size", "kind": "removed", "before": 224, "after": None},
        {"field": "running.config.width", "kind": "added", "before": None, "after": None},
        {"field": "running.precision", "kind": "changed", "before": "fp32", "after": "bf16"},
    ]
    assert (await http.get(f"{BASE}/1.0.0/diff/1.0.0")).json()["differences"] == []
    assert (await http.get(f"{BASE}/1.0.0/diff/9.0.0")).json()["code"] == "version_not_found"
    assert (await http.get(f"{BASE}/1.0.0/diff/x")).status_code == 422
