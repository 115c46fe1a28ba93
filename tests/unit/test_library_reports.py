"""No library that runs models reports to its maker."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support import only_on_linux

COUNT = "import os, onnxruntime; print(len(os.listdir('/proc/self/task')))"


ASKED = ("ORT_DISABLE_TELEMETRY", "CI", "GITHUB_ACTIONS", "TF_BUILD", "JENKINS_URL")
"""What silences onnxruntime: its own variable, and those by which it takes a machine for one that only tests."""


def threads(code: str, **told: str) -> int:
    """Of an interpreter that has run `code`."""
    env = {name: value for name, value in os.environ.items() if name not in ASKED} | told
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return int(done.stdout)


@only_on_linux("threads are counted in /proc")
def test_onnxruntime_has_no_thread_that_reports() -> None:
    silent = threads(COUNT, ORT_DISABLE_TELEMETRY="1")

    assert threads(COUNT) > silent, "onnxruntime is silent by itself now: runners/__init__.py need not ask for it"
    assert threads(f"import runners.engines.onnxruntime; {COUNT}") == silent
