"""The benchmark's processes: they talk in lines, and none outlives the harness."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from load.bench.processes import ROOT, Process, Talker, Trouble, free_ports
from tests.support import only_on_linux, wait_until

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
WAIT = "import signal; print('up', flush=True); signal.pause()"
# A parent whose child leaves its session, as BentoML's workers do, and does not listen to SIGTERM.
FAMILY = f"""
import signal, subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}"],
    start_new_session=True, stdout=subprocess.PIPE,
)
child.stdout.readline()
print('{{"child": %d}}' % child.pid, flush=True)
signal.pause()
"""


def test_a_process_answers_in_lines_of_json(tmp_path: Path) -> None:
    with Talker([sys.executable, "-c", ECHO], log=tmp_path / "echo.log") as echo:
        echo.tell({"do": "describe"})
        assert echo.hear(30.0) == {"do": "describe"}


def test_a_process_that_breaks_off_is_told_with_its_last_words(tmp_path: Path) -> None:
    with (
        Talker([sys.executable, "-c", "raise SystemExit('no weights here')"], log=tmp_path / "child.log") as child,
        pytest.raises(Trouble, match="no weights here"),
    ):
        child.hear(30.0)


def test_a_process_that_says_nothing_in_time_is_killed(tmp_path: Path) -> None:
    with Talker([sys.executable, "-c", "import signal; signal.pause()"], log=tmp_path / "silent.log") as silent:
        with pytest.raises(Trouble, match="silent said nothing more"):
            silent.hear(0.1)
        assert silent.popen.wait(30.0) == -signal.SIGKILL


def test_a_server_is_ended_with_workers_that_left_its_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("load.bench.processes.STOP_S", 0.5)
    with Talker([sys.executable, "-c", FAMILY], log=tmp_path / "family.log") as family:
        child = psutil.Process(family.hear(30.0)["child"])
    psutil.wait_procs([child], timeout=30.0)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@only_on_linux("elsewhere nobody tells a child that its parent died")
@pytest.mark.parametrize("before", ["", "child.pause(); "], ids=["running", "paused"])
def test_what_was_started_dies_when_the_harness_is_killed(before: str, tmp_path: Path) -> None:
    script = (
        "import sys, signal; from pathlib import Path; from load.bench.processes import Process\n"
        f"child = Process([sys.executable, '-c', {WAIT!r}], log=Path({str(tmp_path / 'child.log')!r}))\n"
        f"{before}print(child.popen.pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE) as harness:
        assert harness.stdout is not None
        child = psutil.Process(int(harness.stdout.readline()))
        harness.kill()
    gone, _ = psutil.wait_procs([child], timeout=30.0)
    assert gone == [child]


def test_a_paused_process_takes_no_time_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with Talker([sys.executable, "-c", ECHO], log=tmp_path / "echo.log") as echo:
        for number in range(2):
            echo.pause()
            wait_until(lambda: echo.tree().status() == psutil.STATUS_STOPPED, within_s=10.0, what="the pause")
            echo.tell({"do": number})
            echo.resume()
            assert echo.hear(30.0) == {"do": number}


def test_a_paused_process_can_be_ended(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", WAIT], log=tmp_path / "child.log") as child:
        child.pause()
    assert not psutil.pid_exists(child.popen.pid)


def test_ports_are_distinct() -> None:
    ports = free_ports(8)
    assert len(set(ports)) == 8


def test_the_log_ends_with_what_was_said_last(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", "for n in range(20): print('line', n)"], log=tmp_path / "lines.log") as lines:
        lines.popen.wait(30.0)
        assert lines.last_words(2) == "line 18\nline 19"
