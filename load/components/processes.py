"""Processes that lead groups of their own and die with their parent, and ports that nobody else is given."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Absent(Exception):
    """What a component needs is not on this machine; the message says how it gets there."""


class NotReady(Exception):
    """A component that was started does not answer."""


def reserve_port() -> int:
    """A free port on 127.0.0.1 that nobody is given for the next minute, but that a server can bind.

    The port is left in TIME_WAIT: the kernel hands out no such port, and SO_REUSEADDR takes it.
    """
    with socket.socket() as server, socket.socket() as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first is the one that waits
        return int(server.getsockname()[1])


def ready(
    condition: Callable[[], bool], process: subprocess.Popen[bytes], *, what: str, log: Path, within_s: float
) -> None:
    """Returns as soon as `condition` holds; raises NotReady when the process ends or it takes too long."""
    deadline = time.monotonic() + within_s
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise NotReady(f"{what} does not come up:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def listening(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port)) == 0


def start(command: Sequence[str | Path], *, log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """A process that leads its own group, writes to `log` and dies with this one."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one call into libc
            **options,
        )


def end(process: subprocess.Popen[bytes], *, by: signal.Signals = signal.SIGTERM, within_s: float = 15.0) -> None:
    """Ends the process's whole group, by force when it takes too long."""
    for number in (by, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            continue
        return


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
