"""What tests of every kind share: ports, processes, and what may be absent."""

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
from typing import Any, NoReturn

import pytest

CI = os.environ.get("CI") == "true"


def required_in_ci(reason: str) -> NoReturn:
    """Ends a test that cannot run here: a loud skip on a laptop, a failure where CI=true."""
    if CI:
        pytest.fail(f"CI=true, and {reason}")
    pytest.skip(f"NOT TESTED: {reason}")


def only_on_linux(why: str) -> pytest.MarkDecorator:
    """For a test that needs what other systems do not have."""
    return pytest.mark.skipif(sys.platform != "linux", reason=f"NOT TESTED: {why}")


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


def wait_until(condition: Callable[[], bool], *, within_s: float, what: str) -> None:
    """Returns as soon as `condition` holds; fails the test when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come about within {within_s:g} s")
        time.sleep(0.05)


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
