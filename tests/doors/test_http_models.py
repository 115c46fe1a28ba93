"""`/api/v1/models`: load, unload, warm up, pull."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from modelmora.errors import (
    ArtifactCorrupt,
    DeadlineExceeded,
    DependencyUnavailable,
    ModelLoadFailed,
    ModelLoading,
    OutOfMemory,
)
from modelmora.ports import Fetch
from tests.fakes import SAM, VIT, World, until

BASE = "/api/v1/models"


@pytest.mark.parametrize(
    ("ref", "status", "code"),
    [
        ("clipp", 404, "model_not_found"),
        ("clip@1.0.1", 404, "version_not_found"),
        ("Clip", 422, "validation"),
        ("clip@", 422, "validation"),
        ("%ED%A0%80", 422, "validation"),
    ],
)
@pytest.mark.parametrize("verb", ["", "/load", "/unload", "/warmup", "/pull"])
async def test_a_model_that_is_not_there(ref: str, status: int, code: str, verb: str, http: httpx.AsyncClient) -> None:
    answer = await http.request("POST" if verb else "GET", f"{BASE}/{ref}{verb}")

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_misspelt_name_is_told_the_near_one(http: httpx.AsyncClient) -> None:
    assert "did you mean 'clip'?" in (await http.get(f"{BASE}/clipp")).json()["detail"]


@pytest.mark.parametrize(
    ("verb", "state", "wanted"),
    [("load", "loaded", ["loaded"]), ("unload", "unloaded", ["unloaded"]), ("warmup", "loaded", [])],
)
async def test_a_change_waits_and_reports(
    verb: str, state: str, wanted: list[str], world: World, http: httpx.AsyncClient
) -> None:
    answer = await http.post(f"{BASE}/vit@1.0.0/{verb}")

    assert answer.status_code == 200
    assert answer.json() == {
        "model": "vit",
        "version": "1.0.0",
        "state": state,
        "workers": ["default-1-100"],
        "ms": 12.3,
        "bytes": 2**20 if state == "loaded" else 0,
    }
    assert world.host.changes == [(verb, "vit@1.0.0")]
    assert [d.wanted for d in world.desires.rows.values()] == wanted


@pytest.mark.parametrize("verb", ["load", "unload", "warmup"])
async def test_a_change_may_be_repeated(verb: str, http: httpx.AsyncClient) -> None:
    first, second = [await http.post(f"{BASE}/vit/{verb}") for _ in range(2)]

    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert second.json()["version"] == VIT.version


@pytest.mark.parametrize(("verb", "state"), [("load", "loading"), ("unload", "unloading"), ("warmup", "loading")])
async def test_without_waiting_the_answer_comes_at_once_and_the_change_goes_on(
    verb: str, state: str, world: World, http: httpx.AsyncClient
) -> None:
    world.host.hold = asyncio.Event()

    answer = await http.post(f"{BASE}/sam/{verb}?wait=false")

    assert answer.status_code == 202
    assert answer.json() == {
        "model": "sam",
        "version": "1.0.0",
        "state": state,
        "workers": [],
        "ms": 0.0,
        "bytes": 0,
    }
    await until(lambda: world.host.changes == [(verb, SAM.key)])
    world.host.hold.set()


@pytest.mark.parametrize("trouble", [OutOfMemory("no room"), RuntimeError("a defect")])
async def test_a_failure_nobody_waits_for_is_logged_and_hurts_nobody(
    trouble: Exception, world: World, http: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    world.host.troubles[VIT.key] = trouble

    assert (await http.post(f"{BASE}/vit/load?wait=false")).status_code == 202
    assert (await http.get(f"{BASE}/vit")).status_code == 200
    logged: list[str] = []

    def told() -> bool:
        logged.append(capsys.readouterr().out)
        return "event=change_failed" in "".join(logged)

    await until(told)
    assert str(trouble) in "".join(logged)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelLoadFailed("no such folder"), 503),
        (ArtifactCorrupt("sha256 differs"), 503),
        (OutOfMemory("needs 9 GiB"), 507),
        (DependencyUnavailable("no runner"), 503),
        (DeadlineExceeded("too slow"), 504),
    ],
    ids=lambda value: getattr(value, "code", None),
)
async def test_a_load_that_fails_says_why(error: Any, status: int, world: World, http: httpx.AsyncClient) -> None:
    world.host.troubles[VIT.key] = error

    answer = await http.post(f"{BASE}/vit/load")

    assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (status, error.code, error.detail)


async def test_a_model_without_files_is_not_even_asked_for(world: World, http: httpx.AsyncClient) -> None:
    world.artifacts.missing = {VIT.key: ModelLoading("run modelmora pull vit", retry_after_s=30)}

    answers = [await http.post(f"{BASE}/vit/{verb}") for verb in ("load", "warmup")]

    assert [(a.status_code, a.headers["retry-after"]) for a in answers] == [(503, "30")] * 2
    assert (world.host.changes, world.desires.rows) == ([], {})


async def test_the_callers_deadline_reaches_the_change(world: World, http: httpx.AsyncClient) -> None:
    before = time.monotonic()
    await http.post(f"{BASE}/vit/load", headers={"x-modelmora-timeout-ms": "1500"})
    await http.post(f"{BASE}/vit/load")
    after = time.monotonic()

    short, default = world.host.deadlines
    assert before + 1.5 <= short <= after + 1.5
    assert before + 10 <= default <= after + 10


async def test_a_bad_timeout_changes_nothing(world: World, http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{BASE}/vit/load", headers={"x-modelmora-timeout-ms": "never"})

    assert answer.status_code == 422
    assert world.host.changes == []


async def test_wait_must_be_a_boolean(world: World, http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{BASE}/vit/load?wait=perhaps")

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "wait")
    assert world.host.changes == []


async def test_a_pull_tells_its_progress_line_by_line(world: World, http: httpx.AsyncClient) -> None:
    world.artifacts.fetches = [
        Fetch(model=VIT.key, done_bytes=0, total_bytes=0),
        Fetch(model=VIT.key, done_bytes=10, total_bytes=10, licence="MIT", finished=True),
    ]

    answer = await http.post(f"{BASE}/vit/pull")

    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.text.splitlines()] == [
        {"model": VIT.key, "done_bytes": 0, "total_bytes": 0, "licence": None, "finished": False},
        {"model": VIT.key, "done_bytes": 10, "total_bytes": 10, "licence": "MIT", "finished": True},
    ]


async def test_a_pull_that_fails_ends_with_the_error(world: World, http: httpx.AsyncClient) -> None:
    world.artifacts.fetches = [Fetch(model=VIT.key, done_bytes=1, total_bytes=10)]
    world.artifacts.trouble = DependencyUnavailable("the hub is away")

    lines = [json.loads(line) for line in (await http.post(f"{BASE}/vit/pull")).text.splitlines()]

    assert lines[1:] == [{"error": {"code": "dependency_unavailable", "detail": "the hub is away"}}]
