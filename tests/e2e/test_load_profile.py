"""A profile of load by locust, short, against a server: its report says what users met and what the server used."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.serving import ROOT, Server

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(300)]
PYTHON = ROOT / ".venv-load" / "bin" / "python"


@pytest.mark.parametrize(("kind", "names"), [
    ("mixed", {"HTTP picture", "HTTP text", "gRPC picture", "gRPC text", "all"}),
    ("thrash", {"text, shapes-clip", "text, shapes-clip@1.0.0", "all"}),
])  # fmt: skip
def test_a_short_profile_leaves_a_report(shipped: Server, tmp_path: Path, kind: str, names: set[str]) -> None:
    assert PYTHON.exists(), "make load-tools"
    command = [str(PYTHON), "-m", "load.profiles", "smoke", "--kind", kind, "--scale", "0.5", "--out", str(tmp_path)]
    where = ["--url", shipped.url, "--grpc", f"127.0.0.1:{shipped.grpc_port}", "--pid", str(shipped.process.pid)]
    models = ["--model", "shapes-clip", "--model", "shapes-clip@1.0.0"] if kind == "thrash" else []
    ran = subprocess.run(
        [*command, *where, *models], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    rows = json.loads((tmp_path / f"smoke-{kind}.json").read_text())["rows"]
    assert {row["name"] for row in rows} == names
    assert all(row["failed"] == 0 and row["per_s"] > 0 for row in rows)
    page = (tmp_path / f"smoke-{kind}.md").read_text()
    assert "What the server used" in page
    for made in (f"smoke-{kind}-requests.svg", f"smoke-{kind}-usage.svg", f"smoke-{kind}.html"):
        assert (tmp_path / made).stat().st_size > 1_000
