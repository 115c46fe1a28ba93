"""Where the API worker's time goes while it is under load, by `py-spy` where that is installed."""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import psutil

from load.bench.cpu import API_ROLE, role_of
from load.bench.processes import Process, Trouble
from load.bench.tables import table

MISSING = "!!! py-spy is not installed (`make setup` installs it); no profile is taken."
_ROWS = 25
_LINE = re.compile(r":\d+\)$")


def tool() -> str | None:
    """Where py-spy is: beside this interpreter, or on the path."""
    return shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")


def installed() -> bool:
    return tool() is not None


def api_worker(server: psutil.Process) -> int:
    """The process id of the first API worker; raises Trouble when there is none."""
    for process in server.children(recursive=True):
        if role_of(process.cmdline()) == API_ROLE:
            return process.pid
    raise Trouble("the server has no API worker")


def recording(pid: int, *, seconds: int, folder: Path) -> tuple[Process, Path]:
    """A running py-spy and the file it will have written when it ends: one stack and its count a line.

    `--gil`: only threads that run Python; those that wait are not seen, nor is work outside the interpreter lock.
    """
    file = folder / "api.collapsed"
    command = [tool() or "py-spy", "record", "--native", "--gil", "--pid", str(pid), "--duration", str(seconds)]
    return Process([*command, "--format", "raw", "--output", str(file)], log=folder / "py-spy.log"), file


def markdown(collapsed: str) -> str:
    """The functions that ran most, by themselves and with what they called, as shares of all samples."""
    own, total, samples = count(collapsed.splitlines())
    if not samples:
        raise Trouble("py-spy saw nothing run; it needs the right to trace processes (ptrace)")
    rows = [
        [name, f"{100 * own[name] / samples:.1f} %", f"{100 * total[name] / samples:.1f} %"]
        for name, _ in own.most_common(_ROWS)
    ]
    return (
        f"### Profile of the API worker, {samples} samples\n\n{table(('function', 'itself', 'with callees'), rows)}\n"
    )


def count(lines: Iterable[str]) -> tuple[Counter[str], Counter[str], int]:
    """Samples by function, itself and with callees, and their number; lines are `outer;inner;innermost 12`."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        functions = [_LINE.sub(")", frame) for frame in stack.split(";")]
        own[functions[-1]] += int(samples)
        total.update(dict.fromkeys(functions, int(samples)))
    return own, total, own.total()
