"""What the container image is built from: judged by hadolint, pinned by hashes, asked for its health by a script."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from tests.contracts.test_alerts import DEPLOY, HERE

DOCKERFILE = DEPLOY / "image" / "Dockerfile"
HEALTHY = DEPLOY / "image" / "healthy.py"
LOCKS = sorted((HERE / "requirements").glob("image-*.txt"))
HEAVY = re.compile(r"^(torch|torchvision|timm|transformers|triton|nvidia-(?!ml-py)[\w-]+|tensorflow)==", re.MULTILINE)


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    ran = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_bentoml_takes_it_for_its_template_and_leaves_it_as_it_is() -> None:
    bento = yaml.safe_load((HERE / "bentofile.yaml").read_text())
    assert HERE / bento["docker"]["dockerfile_template"] == DOCKERFILE
    assert not re.search(r"\{[{%#]", DOCKERFILE.read_text()), "it would be read as Jinja"
    copied = set(re.findall(r"^COPY src/(requirements/bootstrap\.txt)", DOCKERFILE.read_text(), re.MULTILINE))
    assert copied <= set(bento["include"])


def test_workers_are_replaced_in_it() -> None:
    assert "BENTOML_CONTAINERIZED" not in DOCKERFILE.read_text()


def test_only_one_of_them_has_torch() -> None:
    heavy = {lock.stem: set(HEAVY.findall(lock.read_text())) for lock in LOCKS}
    assert heavy["image-onnx"] == set()
    assert {"torch", "torchvision", "transformers"} <= heavy["image-torch"]


@pytest.fixture
def port() -> Iterator[int]:
    """Of something that is ready, and says so only at /readyz."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = (200, b"{}") if ready and self.path == "/readyz" else (503, b'{"why": "draining"}')
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            ready.clear()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    ready = [True]
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("variable", "which"), [("MODELMORA_HTTP_PORT", []), ("MODELMORA_SUBSCRIBER_PORT", ["subscriber"])]
)
def test_health_is_what_readyz_says(port: int, variable: str, which: list[str]) -> None:
    command = [sys.executable, "-I", str(HEALTHY), *which]
    first, second = [
        subprocess.run(command, env={variable: str(port)}, capture_output=True, text=True, timeout=30, check=False)
        for _ in range(2)
    ]
    assert first.returncode == 0, first.stderr
    assert second.returncode == 1
    assert "answers 503" in second.stderr
    assert "draining" in second.stderr


def test_where_nobody_listens_it_is_not_healthy() -> None:
    command = [sys.executable, "-I", str(HEALTHY)]
    ran = subprocess.run(
        command, env={"MODELMORA_HTTP_PORT": "9"}, capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.returncode == 1
    assert "does not answer" in ran.stderr
