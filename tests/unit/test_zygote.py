"""The zygote, on real processes: a worker that is killed is back at once, and nobody outlives who asked for them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from runners.process.zygote import LONGEST_PAUSE_S, pause_s
from tests.support import wait_until

WORKER = """
import os, signal, sys, time
from modelmora.logs import configure_logging
from runners.process.zygote import Zygote

configure_logging("info", "json", process="engine")

def work():
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    print("up", os.getpid(), flush=True)
    while not asked:
        time.sleep(0.01)
    print("ended", os.getpid(), flush=True)

zygote = Zygote(work)
print("zygote", os.getpid(), flush=True)
zygote.run()
print("done", flush=True)
"""


@contextlib.contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    """A zygote that has said so; it and its worker end with the block."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert said(process, "zygote") == process.pid
        yield process
    finally:
        for worker in psutil.Process(process.pid).children() if process.poll() is None else []:
            worker.kill()
        process.kill()
        process.communicate()


@pytest.fixture
def zygote() -> Iterator[subprocess.Popen[str]]:
    with running(WORKER) as process:
        yield process


def said(process: subprocess.Popen[str], what: str) -> int:
    """The pid on the next line, which says `what`."""
    assert process.stdout is not None
    verb, _, pid = process.stdout.readline().partition(" ")
    assert verb.strip() == what
    return int(pid or 0)


def test_a_killed_worker_is_back_within_a_second(zygote: subprocess.Popen[str]) -> None:
    first = said(zygote, "up")

    os.kill(first, signal.SIGKILL)
    started = time.monotonic()
    second = said(zygote, "up")

    assert second != first
    assert time.monotonic() - started < 1.0


def test_asked_to_end_it_asks_the_worker_and_waits_for_it(zygote: subprocess.Popen[str]) -> None:
    worker = said(zygote, "up")

    zygote.terminate()

    assert said(zygote, "ended") == worker
    assert said(zygote, "done") == 0
    assert zygote.wait(5) == 0


FLEETING = """
import os, signal
from modelmora.logs import configure_logging
from runners.process.zygote import Zygote

configure_logging("info", "json", process="engine")

def work():
    print("up", os.getpid(), flush=True)

zygote = Zygote(work)
print("zygote", os.getpid(), flush=True)
zygote.run()
print("done", flush=True)
"""


def test_asked_to_end_between_two_workers_it_starts_no_other() -> None:
    with running(FLEETING) as process:
        for _ in range(4):  # then it pauses for seconds
            said(process, "up")

        process.terminate()

        assert said(process, "done") == 0
        assert process.wait(5) == 0


def test_asked_to_end_as_it_starts_a_worker_it_and_the_worker_end() -> None:
    for moment in range(10):
        with running(WORKER) as process:
            time.sleep(moment / 2000)
            process.terminate()
            assert process.wait(5) == 0
            assert process.stdout is not None
            assert process.stdout.read().rstrip().endswith("done")


def test_it_ends_when_its_parent_is_gone() -> None:
    parent = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {WORKER!r}], stdout=sys.stdout)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    zygote, worker = psutil.Process(said(process, "zygote")), psutil.Process(said(process, "up"))

    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()

    wait_until(lambda: not zygote.is_running() and not worker.is_running(), within_s=10, what="the end of both")


def test_a_worker_that_ends_again_and_again_is_started_less_and_less_often() -> None:
    pauses = [pause_s(lives) for lives in range(12)]
    assert pauses[:2] == [0.0, 0.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
