"""The probes, the limits, the OpenAPI page."""

from __future__ import annotations

from dataclasses import asdict

import httpx
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from api.core import Core
from api.http.app import create_app
from modelmora.errors import DependencyUnavailable
from modelmora.tallies import write_all
from tests.doors.test_permissions import served_routes
from tests.fakes import CLIP, LIMITS, VIT, World, holding, worker


async def down() -> None:
    raise DependencyUnavailable("the database is away")


async def up() -> None:
    """A store that answers."""


async def test_livez_answers_whatever_else_is_wrong(world: World, http: httpx.AsyncClient) -> None:
    world.host.views = []

    assert (await http.get("/livez")).status_code == 200


async def test_readyz_counts_workers(http: httpx.AsyncClient) -> None:
    answer = await http.get("/readyz")

    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "runners": {"default": {"ready": 1, "live": 1, "wanted": 1}}, "why": None}


async def test_readyz_is_503_without_a_ready_worker(world: World, http: httpx.AsyncClient) -> None:
    world.host.views = [worker(ready=False)]

    answer = await http.get("/readyz")

    assert answer.status_code == 503
    assert answer.json() == {
        "ready": False,
        "runners": {"default": {"ready": 0, "live": 1, "wanted": 1}},
        "why": "default: 0 of 1 ready",
    }


async def test_a_probe_is_no_request_of_a_caller_that_failed(world: World, http: httpx.AsyncClient) -> None:
    world.host.views = [worker(ready=False)]
    refused = ("modelmora_requests_total", {"face": "http", "code": "503"})
    before = REGISTRY.get_sample_value(*refused)
    with capture_logs() as told:
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/nowhere")).status_code == 404
    write_all()

    assert [line["log_level"] for line in told if line["event"] == "request"] == ["debug", "debug"]
    assert REGISTRY.get_sample_value(*refused) == before


async def test_readyz_turns_while_draining_and_requests_go_on(core: Core, http: httpx.AsyncClient) -> None:
    core.get().health.draining = True

    assert (await http.get("/readyz")).json()["why"] == "shutting down"
    assert (await http.get("/readyz")).status_code == 503
    assert (await http.post("/v1/embed/text", json={"texts": ["a"]})).status_code == 200


async def test_health_shows_models_memory_runners_and_stores(world: World, core: Core, http: httpx.AsyncClient) -> None:
    world.checks["database"] = up
    core.application = world.application()
    world.clock.now += 61.25
    failed = holding(VIT, "failed", error="no such folder")
    world.host.views = [worker("default-1-100", holding(CLIP), failed)]

    answer = await http.get("/health")

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "degraded",
        "version": "9.9.9",
        "uptime_s": 61.2,
        "models": [
            {"name": "clip", "version": "1.0.0", "state": "loaded", "bytes": 2**20},
            {"name": "vit", "version": "1.0.0", "state": "unloaded", "bytes": 0},
            {"name": "vit", "version": "2.0.0-rc.1", "state": "failed", "bytes": 0, "error": "no such folder"},
            {"name": "sam", "version": "1.0.0", "state": "unloaded", "bytes": 0},
        ],
        "memory": {"held_bytes": 2**20, "budget_bytes": 8 * 2**20, "resident_bytes": 5 * 2**20},
        "runners": {"default": {"ready": 1, "live": 1, "wanted": 1}},
        "dependencies": {"database": {"status": "ok", "checked_at": 1_700_000_000.0, "latency_ms": 0.0}},
    }


async def test_health_is_503_only_when_down(world: World, core: Core, http: httpx.AsyncClient) -> None:
    world.checks["database"] = down
    core.application = world.application()

    degraded = await http.get("/health")
    world.host.views = []
    dead = await http.get("/health")

    assert (degraded.status_code, degraded.json()["status"]) == (200, "degraded")
    assert degraded.json()["dependencies"]["database"]["error"] == "the database is away"
    assert (dead.status_code, dead.json()["status"]) == (503, "down")


async def test_the_version_that_runs(http: httpx.AsyncClient) -> None:
    assert (await http.get("/version")).json() == {"version": "9.9.9"}


async def test_the_limits_are_told(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/v1/limits")).json() == asdict(LIMITS)


async def test_the_openapi_page_has_every_route(core: Core, http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()
    served = list(served_routes(create_app(core, max_body_bytes=1).routes))

    assert {(path, method) for path, methods in page["paths"].items() for method in methods} == {
        (path, method) for path, method, _ in served
    }
    for path, method, permission in served:
        assert page["paths"][path][method]["x-permission"] == permission


async def test_every_operation_on_the_page_says_what_it_does(http: httpx.AsyncClient) -> None:
    for path, methods in (await http.get("/openapi.json")).json()["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), (method, path)
            assert operation["responses"], (method, path)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_the_pages_of_the_interface_are_served(path: str, http: httpx.AsyncClient) -> None:
    assert (await http.get(path)).status_code == 200
