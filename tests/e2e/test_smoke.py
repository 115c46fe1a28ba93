"""`modelmora smoke` on real servers: what it finds, what it leaves behind, what it says of one that is broken."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.serving import ROOT, Server, serve
from tests.support import reserve_port

CHECKS = ["ready", "health", "embed", "both faces", "load and unload", "picture by events", "metrics"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As a user starts it: pictures are kept, events stay in the process."""
    server = serve(tmp_path_factory.mktemp("smoke"))
    try:
        yield server
    finally:
        server.stop()


def smoke(url: str, control_url: str, *more: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """The exit code, each check by its name, and what was said on the standard error."""
    command = [sys.executable, "-m", "modelmora.cli", "smoke", "--url", url, "--control-url", control_url, "--json"]
    ran = subprocess.run([*command, *more], capture_output=True, text=True, timeout=150, cwd=ROOT, check=False)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    return ran.returncode, {line["name"]: line for line in lines}, ran.stderr


def test_a_deployment_that_works_is_found_so_in_two_minutes_and_nothing_is_left_there(server: Server) -> None:
    started = time.monotonic()
    code, checks, said = smoke(server.grpc_url, server.url, "--wait", "100")  # it waits for the start itself
    assert (code, list(checks)) == (0, CHECKS), (checks, said)
    assert {name: one["state"] for name, one in checks.items()} == dict.fromkeys(CHECKS, "ok")
    assert time.monotonic() - started < 120
    assert httpx.get(f"{server.url}/v1/images", params={"collection": "smoke"}).json()["data"] == []
    states = {model["name"]: model["state"] for model in httpx.get(f"{server.url}/api/v1/models").json()["data"]}
    assert states["shapes-sam"] == "loaded", "as it was"


def test_a_model_that_nobody_uses_is_so_afterwards(server: Server) -> None:
    httpx.post(f"{server.url}/api/v1/models/shapes-sam/unload", timeout=60).raise_for_status()
    code, checks, said = smoke(server.grpc_url, server.url)
    assert (code, checks["load and unload"]["state"]) == (0, "ok"), said
    states = {model["name"]: model["state"] for model in httpx.get(f"{server.url}/api/v1/models").json()["data"]}
    assert states["shapes-sam"] == "unloaded"


def test_over_http_alone_the_other_face_is_skipped(server: Server) -> None:
    code, checks, _ = smoke(server.url, server.url)
    assert code == 0
    assert {name for name, one in checks.items() if one["state"] == "skipped"} == {"both faces"}


def test_a_model_that_is_not_there_fails_its_checks_alone(server: Server) -> None:
    code, checks, said = smoke(server.grpc_url, server.url, "--model", "nobody", "--load", "nobody")
    assert code == 1
    failed = ["embed", "both faces", "load and unload"]
    assert [name for name, one in checks.items() if one["state"] == "failed"] == failed
    assert all("model_not_found" in checks[name]["said"] for name in failed)
    assert f"failed: {', '.join(failed)}" in said


def test_a_server_that_keeps_no_vectors_fails_the_round_trip(start_server: Callable[..., Server]) -> None:
    server = start_server(env={"MODELMORA_VECTORS_URL": "null://"})
    server.wait_ready()
    code, checks, _ = smoke(server.grpc_url, server.url, "--wait", "10")
    assert code == 1
    assert checks["picture by events"]["state"] == "failed"
    assert "MODELMORA_VECTORS_URL" in checks["picture by events"]["said"]
    assert checks["metrics"]["state"] == "ok", "the others are asked all the same"


def test_where_nobody_listens_it_says_so_and_asks_no_further(tmp_path: Path) -> None:
    port = reserve_port()
    code, checks, said = smoke(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}", "--wait", "1")
    assert (code, list(checks)) == (1, ["ready"])
    assert "no answer from" in checks["ready"]["said"]
    assert "failed: ready" in said
