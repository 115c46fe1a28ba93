"""A process that has imported what networks need and forks a worker from itself whenever there is none.

Importing torch takes ten seconds and more, a fork milliseconds: a worker that was killed, crashed or hung is back at
once, and all its memory returns with it. Nothing here may start a thread: a fork copies only the one that calls it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import structlog

from modelmora.telemetry import forget

log = structlog.get_logger(__name__)

PERIOD_S = 0.5
SHORT_LIFE_S = 5.0
LONGEST_PAUSE_S = 10.0


def pause_s(short_lives: int) -> float:
    """Before the next fork, after so many workers in a row that ended soon: none at first, then doubling."""
    return 0.0 if short_lives < 2 else min(LONGEST_PAUSE_S, 0.25 * 2.0**short_lives)


class Zygote:
    """Keeps one worker alive until SIGTERM, or until the own parent is gone; then asks it to end and waits.

    `work` runs in each fork, with default signal handlers, and returns when the worker was asked to end.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._parent = os.getppid()
        self._child = 0
        self._stopping = False
        self._woken, wake = os.pipe()
        for end in (self._woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to be woken
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the supervisor, which asks us

    def run(self) -> None:
        """Returns once the last worker has ended."""
        short_lives = 0
        while not self._stopping:
            self._sleep(pause_s(short_lives))
            if not (child := self._fork()):
                return
            started = time.monotonic()
            status = self._outlive(child)
            if not self._stopping:
                lived = time.monotonic() - started
                short_lives = short_lives + 1 if lived < SHORT_LIFE_S else 0
                log.warning("engine_ended", pid=child, status=_shown(status), lived_s=round(lived, 1))

    def _fork(self) -> int:
        """The new worker, 0 where none is wanted any more. SIGTERM waits meanwhile: it must find the worker known."""
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            if self._stopping:
                return 0
            child = os.fork()
            if child == 0:
                self._be_the_worker()
            self._child = child
            return child
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _be_the_worker(self) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            self._work()
            code = 0
        except BaseException:
            log.exception("engine_failed", pid=os.getpid())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # the zygote's own exit handlers are not the worker's

    def _outlive(self, child: int) -> int:
        """Waits for the worker's end, watching the parent meanwhile; its exit status."""
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                self._child = 0
                forget(child)
                return status
            if os.getppid() != self._parent and not self._stopping:
                self._stop()
            self._sleep(PERIOD_S)

    def _stop(self) -> None:
        self._stopping = True
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGTERM)

    def _sleep(self, seconds: float) -> None:
        """Until a signal, `seconds` at most."""
        select.select([self._woken], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)


def _shown(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"exit {code}"
