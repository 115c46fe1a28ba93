"""Log lines of several processes that share one standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WRITER = """
import structlog
from modelmora.logs import configure_logging
configure_logging("info", "json", process="engine")
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


SPEAKER = """
import logging, warnings
import structlog
from modelmora.logs import configure_logging
configure_logging("{level}", "json", process="engine")
log = structlog.get_logger()
log.debug("unseen")
log.warning("cache_away", why="redis://me:secret@cache:6379/0 does not answer", model="vit@1.2.0", ms=1.5)
logging.getLogger("uvicorn.error").warning("a port %d is taken at http://a:b@host", 3000)
logging.getLogger("qdrant_client").info("unheard")
warnings.warn("it is old", UserWarning)
def fail(payload):
    raise ValueError("of no use")
try:
    fail("a payload")
except ValueError:
    log.exception("item_failed", request_id="r-1")
    logging.getLogger("asyncio").exception("Task exception was never retrieved")
"""


def spoken(level: str) -> list[dict[str, Any]]:
    script = SPEAKER.replace("{level}", level)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_line_has_its_fields_in_order_and_no_secret() -> None:
    line = spoken("info")[0]
    assert list(line)[:4] == ["timestamp", "level", "process", "event"]
    assert {name: value for name, value in line.items() if name != "timestamp"} == {
        "level": "warning",
        "process": "engine",
        "event": "cache_away",
        "why": "redis://***@cache:6379/0 does not answer",
        "model": "vit",
        "version": "1.2.0",
        "ms": 1.5,
    }


def test_libraries_speak_in_the_same_shape() -> None:
    _, uvicorn, warning, _, task = spoken("info")
    assert (uvicorn["event"], uvicorn["logger"], uvicorn["level"]) == ("library_said", "uvicorn.error", "warning")
    assert uvicorn["message"] == "a port 3000 is taken at http://***@host"
    assert (warning["logger"], warning["level"]) == ("py.warnings", "warning")
    assert "it is old" in warning["message"]
    assert (task["logger"], task["process"]) == ("asyncio", "engine")
    assert "ValueError: of no use" in task["exception"]


def test_a_traceback_shows_no_payload() -> None:
    failed = spoken("error")
    assert [line["event"] for line in failed] == ["item_failed", "library_said"]
    assert "ValueError: of no use" in failed[0]["exception"]
    assert "a payload" not in failed[0]["exception"]
