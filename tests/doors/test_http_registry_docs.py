"""The examples of docs/registry-http.md run as they stand, one after the other, against another port."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests import examples
from tests.doors.registry_process import registry_process


def test_the_examples_of_the_page_run_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "my-model" / "deep").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "deep/empty"):
        (tmp_path / "my-model" / name).write_bytes(b"" if name.endswith("empty") else name.encode())
    registering, reading = examples.runnable("docs/registry-http.md")

    with registry_process(tmp_path / "server") as (_, url):
        registered, read = [
            run(example.code.replace("http://127.0.0.1:3000", url), example.language, tmp_path)
            for example in (registering, reading)
        ]

    assert registered == "registered\n"
    models, version, lineage, audit, verdict = map(json.loads, read.replace("}{", "}\n{").splitlines())
    assert [row["name"] for row in models["data"]] == ["birds"]
    assert [file["path"] for file in version["artifact"]["files"]] == ["config.json", "deep/empty", "model.safetensors"]
    assert lineage["datasets"] == [{"kind": "dataset", "name": "garden-birds"}]
    assert [entry["action"] for entry in audit["data"]] == ["version.register"]
    assert verdict["intact"] is True


def run(code: str, language: str, folder: Path) -> str:
    """What it prints."""
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
