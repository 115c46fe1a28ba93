"""Processes the harness starts: each in a session of its own, dying with its parent, ended with all they started."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

ROOT = Path(__file__).resolve().parents[2]
"""The repository, from which servers are started."""

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Idle OpenMP threads sleep instead of spinning; read when torch is imported."""

STOP_S = 40.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Trouble(RuntimeError):
    """Something the harness started did not do its part; the message says what and ends with its last words."""


class Process:
    """A started command whose output goes to a log file."""

    def __init__(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, piped: bool = False
    ) -> None:
        """`piped`: standard input and output stay connected to the harness and only errors are logged."""
        self.log = log
        self.started = time.monotonic()
        with log.open("wb") as sink:
            self.popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**_surroundings(), **(env or {})},
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else sink,
                stderr=sink,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 (one prctl; no thread of ours holds a lock)
            )
        self._root = psutil.Process(self.popen.pid)
        self._waker: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def tree(self) -> psutil.Process:
        """The root of the process tree, for CPU accounting."""
        return self._root

    def pause(self) -> None:
        """Stops its group where it is until `resume`: what polls while it is idle takes time from who is measured.

        A process that is stopped does not end when the harness dies: a shell waits for that and lets it go on.
        """
        if self._waker is None:
            go_on = f"read _; kill -s CONT -- -{self.popen.pid}"
            self._waker = subprocess.Popen(
                ["sh", "-c", go_on], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
            )
        os.killpg(self.popen.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on; nothing happens when it was not paused."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Asks the group to end, waits, then kills what is left, workers in sessions of their own included."""
        if self._waker is not None:
            self.resume()
            self._waker.communicate()
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            family = [self._root, *self._root.children(recursive=True)]
            os.killpg(self.popen.pid, signal.SIGTERM)
            _, left = psutil.wait_procs(family, timeout=STOP_S)
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.popen.wait(timeout=STOP_S)
        for pipe in (self.popen.stdin, self.popen.stdout):
            with contextlib.suppress(OSError):  # what was not flushed has nobody to read it
                if pipe is not None:
                    pipe.close()

    def last_words(self, lines: int = 15) -> str:
        """The end of the log, without the access log's word on every probe of ours."""
        said = [line for line in self.log.read_text(errors="replace").splitlines() if "/readyz" not in line]
        return "\n".join(said[-lines:])


class Talker(Process):
    """A process that is told and answers in lines of JSON."""

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> None:
        super().__init__(command, log=log, env=env, piped=True)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Sends one line; raises Trouble when nobody listens any more."""
        if self.popen.stdin is None:
            raise Trouble("the process was started without a standard input")
        try:
            self.popen.stdin.write(json.dumps(message).encode() + b"\n")
            self.popen.stdin.flush()
        except BrokenPipeError as gone:
            raise Trouble(f"{self.log.stem} ended early:\n{self.last_words()}") from gone

    def hear(self, within_s: float) -> dict[str, Any]:
        """The next line; raises Trouble when none comes in time (the process is killed) or none will."""
        if self.popen.stdout is None:
            raise Trouble("the process was started without a standard output")
        watchdog = threading.Timer(within_s, self.popen.kill)
        watchdog.start()
        try:
            line = self.popen.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise Trouble(f"{self.log.stem} said nothing more (waited up to {within_s:.0f} s):\n{self.last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def await_ready(process: Process, port: int, path: str = "/readyz", *, within_s: float = 180.0) -> float:
    """Seconds from the start of the process until `path` answers 200; raises Trouble when it does not."""
    answer = ""
    while (waited := time.monotonic() - process.started) < within_s:
        if process.popen.poll() is not None:
            raise Trouble(f"{process.log.stem} ended before it was ready:\n{process.last_words()}")
        status, answer = _probe(port, path)
        if status == 200:
            return time.monotonic() - process.started
        time.sleep(0.1)
    raise Trouble(f"{process.log.stem} was not ready after {waited:.0f} s: {answer}\n{process.last_words()}")


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, distinct from each other."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _probe(port: int, path: str) -> tuple[int, str]:
    """What it says there; status 0 when nobody answers yet."""
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(1000).decode(errors="replace")
    except (OSError, HTTPException) as silent:
        return 0, str(silent)
    finally:
        connection.close()


def _surroundings() -> dict[str, str]:
    """The environment without settings of whoever runs the harness: a server gets those it is started with."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MODELMORA_", "BENTOML_"))}


def _die_with(parent: int) -> Callable[[], None] | None:
    """What the child does before it becomes the command: ask the kernel for SIGTERM when its parent dies.

    SIGTERM and not SIGKILL, because BentoML's supervisor must have time to end its workers.
    """
    if _LIBC is None:
        return None
    prctl = _LIBC.prctl

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return arrange
