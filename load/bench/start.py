"""How long the service takes to be ready, beside the bare import of what it must import."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from load.bench.servers import start_ours
from load.bench.stats import spread
from load.bench.subjects import Subject
from load.bench.tables import table

MAX_ABOVE_S = 8.0
_IMPORT_S = 300.0


@dataclass(frozen=True, slots=True)
class Start:
    """One pair: seconds of a bare `import open_clip` in a new interpreter, and from our start to ready."""

    import_s: float
    ready_s: float

    @property
    def above_s(self) -> float:
        return self.ready_s - self.import_s


def starts(subject: Subject, folder: Path, *, times: int, say: Callable[[str], None]) -> list[Start]:
    """Import and start in turn; one import before them, uncounted, so that all read files from memory."""
    _import_s()
    measured = []
    for number in range(times):
        import_s = _import_s()
        server = start_ours(subject, folder / f"start-{number}")
        server.process.stop()
        measured.append(Start(import_s, server.ready_s))
        say(f"start {number + 1}: import {import_s:.1f} s, ready after {server.ready_s:.1f} s")
    return measured


def markdown(measured: list[Start]) -> str:
    """A row a pair, and whether the promise holds."""
    rows = [[f"{one.import_s:.1f}", f"{one.ready_s:.1f}", f"{one.above_s:+.1f}"] for one in measured]
    above = spread([one.above_s for one in measured])
    held = "held" if above.median <= MAX_ABOVE_S else "NOT held"
    return (
        "### Start to ready\n\n"
        f"{table(('`import open_clip` s', 'start to ready s', 'difference s'), rows)}\n\n"
        f"Median difference {above.median:+.1f} s [{above.low:+.1f} .. {above.high:+.1f}], at most "
        f"+{MAX_ABOVE_S:.0f} s: {held}.\n"
    )


def _import_s() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import open_clip"], check=True, timeout=_IMPORT_S)
    return time.monotonic() - began
