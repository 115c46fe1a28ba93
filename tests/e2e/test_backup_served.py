"""A server's pictures are backed up while it runs, restored elsewhere, and found there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.serving import ROOT, Server, environment, serve
from tests.examples import runnable
from tests.pictures import drawing

COLOURS = ("red", "green", "blue", "yellow")


def operate(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """As an operator types it in a checkout, over the stores of the server of that folder."""
    variables = environment(folder, 1, 2, {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"})
    line = ["bash", "-euc", command]
    return subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=100, check=False)


def upload(server: Server, *colours: str) -> list[dict[str, Any]]:
    files = [("files", (f"{colour}.png", drawing(colour), "image/png")) for colour in colours]
    answer = httpx.post(f"{server.url}/v1/images", files=files, timeout=60)
    assert answer.status_code in (200, 201), answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def search(server: Server, text: str) -> list[tuple[str, float]]:
    answer = httpx.post(f"{server.url}/v1/search", json={"text": text, "limit": 10}, timeout=60)
    assert answer.status_code == 200, answer.text
    return [(hit["id"], round(hit["score"], 5)) for hit in answer.json()["results"]]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_a_running_server_has_is_found_in_another_one(tmp_path: Path) -> None:
    """By the commands of docs/backup.md."""
    (example,) = runnable("docs/backup.md")
    server = serve(tmp_path / "one")
    try:
        server.wait_ready()
        upload(server, *COLOURS)
        found = search(server, "a red circle")
        done = operate(tmp_path / "one", example.code.replace("/tmp/", f"{tmp_path}/"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("4 pictures, 4 vectors") == 2, done.stdout
        assert search(server, "a red circle") == found
        there, told = tmp_path / "modelmora-backup.tar", tmp_path / "told.tar"
        again = operate(tmp_path / "one", f"modelmora backup {there}")
        assert (again.returncode, "is there already" in again.stderr) == (1, True)
        full = operate(tmp_path / "one", f"modelmora restore {there}")
        assert (full.returncode, "is not empty" in full.stderr) == (1, True), full.stderr
        bare = operate(tmp_path / "one", f"modelmora backup {told} --no-vectors --json")
        counts = json.loads(bare.stdout)["counts"]
        assert (counts["pictures"], "vectors" in counts) == (4, False)
    finally:
        server.stop()

    other = serve(tmp_path / "two", env={"MODELMORA_DATA_DIR": str(tmp_path / "modelmora-restored")})
    try:
        other.wait_ready()
        assert search(other, "a red circle") == found
        assert len(upload(other, "purple")) == 1
        assert len(search(other, "a circle")) == 5
        assert httpx.get(f"{other.url}/v1/images/{found[0][0]}/content").content == drawing("red")
        assert httpx.get(f"{other.url}/api/v1/audit/verify").json()["intact"] is True
    finally:
        other.stop()
