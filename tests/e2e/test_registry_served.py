"""What is registered over REST is served by name, swapped under load, and leaves a trace."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from load.random_weights import write_random
from tests.e2e.registering import register, turned
from tests.e2e.serving import ROOT, Server, noop, serve
from tests.fakes import until

PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.jpg"))[:2]
CALLERS = 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With two versions of one model, the second turned around."""
    folder = tmp_path_factory.mktemp("registry")
    server = serve(folder)
    try:
        server.wait_ready()
        first = register(server.url, "shapes", "1.0.0", training={"dataset": "drawn", "revision": "abc"})
        assert first["state"] == "deployed", first["failure"]
        second = register(server.url, "shapes", "2.0.0", turned(folder / "turned"), training={"parent": "shapes@1.0.0"})
        assert second["state"] == "approved", second["failure"]
        yield server
    finally:
        server.stop()


def embed(server: Server, model: str) -> dict[str, Any]:
    files = [("files", (path.name, path.read_bytes())) for path in PICTURES]
    answer = httpx.post(f"{server.url}/v1/embed/image", files=files, data={"model": model}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def vectors(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.array([row["embedding"] for row in answer["data"]])


def test_both_versions_are_served_by_their_names(server: Server) -> None:
    shipped, first, second = (embed(server, name) for name in ("shapes-clip", "shapes@1.0.0", "shapes@2.0.0"))
    assert (first["model"], first["version"], second["version"]) == ("shapes", "1.0.0", "2.0.0")
    np.testing.assert_allclose(vectors(first), vectors(shipped), atol=1e-6)
    np.testing.assert_allclose(vectors(second), -vectors(shipped), atol=1e-6)


def test_what_was_found_out_is_in_the_entry(server: Server) -> None:
    entry = httpx.get(f"{server.url}/api/v1/models/shapes/versions/2.0.0").json()
    assert entry["baseline"]["p50_ms"] > 0
    assert entry["baseline"]["memory_bytes"] > entry["artifact"]["files"][0]["bytes"]
    assert entry["validated_at"]


class Executes:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_a_file_that_would_execute_is_refused_by_name(server: Server, tmp_path: Path) -> None:
    folder = turned(tmp_path / "spoilt")
    (folder / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Executes()))
    entry = register(server.url, "shapes", "0.0.1", folder)
    assert entry["state"] == "validation_failed"
    assert "open_clip_pytorch_model.bin" in entry["failure"]
    assert "system" in entry["failure"]
    refused = httpx.post(f"{server.url}/v1/embed/text", json={"texts": ["a"], "model": "shapes@0.0.1"})
    assert refused.status_code == 404


@dataclass
class Crowd:
    """Callers who go on until they are told to stop, and what they were answered."""

    url: str
    answers: list[tuple[str, bool]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    going: bool = True

    async def call(self, first: np.ndarray[Any, Any]) -> None:
        files = [("files", (path.name, path.read_bytes())) for path in PICTURES]
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as http:
            while self.going:
                answer = await http.post("/v1/embed/image", files=files, data={"model": "shapes"})
                if answer.status_code != 200:
                    self.failed.append(answer.text)
                    continue
                body = answer.json()
                signs = np.sign((vectors(body) * first).sum(axis=1))
                wanted = 1.0 if body["version"] == "1.0.0" else -1.0
                self.answers.append((body["version"], bool((signs == wanted).all())))

    def versions(self) -> set[str]:
        return {version for version, _ in self.answers}


@pytest.mark.timeout(180)
async def test_a_swap_under_load_fails_nobody_and_mixes_nothing(server: Server) -> None:
    crowd, first = Crowd(server.url), vectors(embed(server, "shapes@1.0.0"))
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(crowd.call(first))
        await asyncio.sleep(1.0)
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            swapped = await http.put("/api/v1/models/shapes/current", json={"version": "2.0.0"})
            enough = len(crowd.answers) + 2 * CALLERS
            await until(lambda: len(crowd.answers) >= enough, within_s=60)
            old = await http.get("/api/v1/models/shapes@1.0.0")
        crowd.going = False
    assert swapped.status_code == 200, swapped.text
    assert swapped.json()["current"] == "2.0.0"
    assert crowd.failed == []
    assert all(right for _, right in crowd.answers)
    assert crowd.versions() == {"1.0.0", "2.0.0"}
    assert {version for version, _ in crowd.answers[-CALLERS:]} == {"2.0.0"}
    assert old.json()["state"] == "unloaded"


def test_the_lineage_leads_from_the_second_to_the_data_of_the_first(server: Server) -> None:
    lineage = httpx.get(f"{server.url}/api/v1/models/shapes/versions/2.0.0/lineage").json()
    assert [node["name"] for node in lineage["ancestors"]] == ["shapes@1.0.0"]
    assert [node["name"] for node in lineage["datasets"]] == ["drawn"]


def test_everything_that_was_done_is_in_the_audit_and_intact(server: Server) -> None:
    entries = httpx.get(f"{server.url}/api/v1/audit", params={"subject": "shapes@2.0.0", "limit": 100}).json()["data"]
    actions = [entry["action"] for entry in entries]
    assert actions[:3] == ["version.register", "version.validate", "version.approve"]
    assert "version.deploy" in actions
    assert entries[2]["actor"] == "policy"
    assert httpx.get(f"{server.url}/api/v1/audit/verify").json()["intact"] is True


@pytest.mark.timeout(240)  # two starts, and a registration between them
def test_another_start_serves_the_registered_without_asking_the_store(tmp_path: Path) -> None:
    server = serve(tmp_path)
    try:
        server.wait_ready()
        register(server.url, "shapes", "1.0.0")
        answer = embed(server, "shapes")
    finally:
        server.stop()
    (tmp_path / "data" / "objects").rename(tmp_path / "gone")
    again = serve(tmp_path)
    try:
        again.wait_ready()
        np.testing.assert_allclose(vectors(embed(again, "shapes")), vectors(answer), atol=1e-6)
    finally:
        again.stop()


@pytest.mark.nightly
@pytest.mark.timeout(600)  # 605 MB are drawn, written, sent and digested
def test_two_workers_that_need_the_same_605_mb_at_once_fetch_them_once(tmp_path: Path) -> None:
    folder = write_random("ViT-B-32", tmp_path / "vit-b-32")
    server = serve(tmp_path / "server", registry=noop(workers=2))
    try:
        server.wait_ready()
        entry = register(server.url, "large", "1.0.0", folder, warmup=False)
        assert entry["state"] == "deployed", entry["failure"]
        cache = tmp_path / "server" / "data" / "weights" / entry["artifact"]["sha256"]
        shutil.rmtree(cache)
        fetched = server.log.read_text().count("artifact_fetched")
        loaded = httpx.post(f"{server.url}/api/v1/models/large@1.0.0/load", timeout=120).raise_for_status().json()
        assert len(loaded["workers"]) == 2
        assert server.log.read_text().count("artifact_fetched") == fetched + 1
    finally:
        server.stop()
