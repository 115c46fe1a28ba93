"""Log lines of several processes that share one standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

WRITER = """
import structlog
from modelmora.telemetry import configure_logging
configure_logging("info", "json")
log = structlog.get_logger()
input()
for number in range(2000):
    log.info("written", number=number)
"""


def test_lines_of_processes_that_write_at_once_are_never_torn(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as sink:
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stderr=sink) for _ in range(3)
        ]
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write(b"\n")
            writer.stdin.flush()
        for writer in writers:
            writer.communicate(timeout=60)

    said = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(each["number"] for each in said) == sorted([*range(2000)] * 3)
