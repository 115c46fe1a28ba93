"""Whose CPU time is whose, and how wrk and py-spy are read."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from load.bench.cpu import ProcessEnded, Sample, family, role_of, spent
from load.bench.processes import Trouble
from load.bench.profile import count, markdown
from load.bench.wrk import parse
from tests.support import wait_until


def test_a_worker_is_named_by_the_service_it_runs() -> None:
    assert (
        role_of(["python", "-m", "_bentoml_impl.worker.service", "x", "--service-name", "runner-default"])
        == "runner-default"
    )
    assert role_of(["python", "-m", "bentoml", "serve", "service:ModelMora"]) == "supervisor"
    assert role_of(["python", "-c", "from multiprocessing.spawn import x", "--multiprocessing-fork"]) == "worker"
    assert role_of(["python", "-m", "load.bench.rivals.litserve_service"]) == "server"
    assert role_of([]) == role_of(["python", "--service-name"]) == "supervisor"


def test_what_a_worker_starts_belongs_to_it() -> None:
    assert role_of(["engine"], parent="runner-default") == "runner-default"
    with psutil.Popen([sys.executable, "-c", _PARENT, "--service-name", "runner-a"], stdin=subprocess.PIPE) as parent:
        wait_until(lambda: len(family(parent)) == 2, within_s=20.0, what="the child")
        assert set(family(parent).values()) == {"runner-a"}
        parent.communicate()


_PARENT = """
import subprocess, sys
with subprocess.Popen([sys.executable, "-c", "input()"]) as child:
    child.wait()
"""


def test_cpu_is_summed_by_role_and_a_process_born_inside_counts_whole() -> None:
    before = Sample({1: ("supervisor", 5.0), 2: ("modelmora", 10.0), 3: ("modelmora", 1.0)}, 100.0)
    after = Sample({1: ("supervisor", 5.5), 2: ("modelmora", 12.0), 3: ("modelmora", 2.0), 4: ("runner-a", 3.0)}, 120.0)
    assert spent(before, after) == {"supervisor": 0.5, "modelmora": 3.0, "runner-a": 3.0}


def test_a_process_that_ended_inside_makes_the_window_void() -> None:
    before = Sample({1: ("supervisor", 5.0), 2: ("runner-default", 10.0)}, 100.0)
    with pytest.raises(ProcessEnded, match="runner-default"):
        spent(before, Sample({1: ("supervisor", 5.5)}, 120.0))


WRK = """Running 2s test @ http://127.0.0.1:3000/v1/embed/text
  1 threads and 32 connections
Requests/sec:   4933.33
bench-result {"items": 9900, "wall_s": 2.0, "refused": 7, "broken": 2, "p50_ms": 6.1, "p95_ms": 9.0, "p99_ms": 12.5}
"""


def test_refused_requests_of_wrk_are_failures_and_not_items() -> None:
    got = parse(WRK)
    assert (got.items, got.failed, got.wall_s, got.p99_ms) == (9893, 9, 2.0, 12.5)


def test_wrk_without_a_result_is_told_with_what_it_said() -> None:
    with pytest.raises(Trouble, match="unable to connect"):
        parse("", "unable to connect to 127.0.0.1:3000 Connection refused")


STACKS = """serve (app.py:10);embed (embed.py:20) 6
serve (app.py:11);embed (embed.py:21);embed (embed.py:30) 2
serve (app.py:10) 2
"""


def test_a_profile_counts_functions_and_not_lines_and_a_recursive_one_once() -> None:
    own, total, samples = count(STACKS.splitlines())
    assert samples == 10
    assert own == {"embed (embed.py)": 8, "serve (app.py)": 2}
    assert total == {"embed (embed.py)": 8, "serve (app.py)": 10}


def test_a_profile_says_its_shares_the_largest_first() -> None:
    rows = [line for line in markdown(STACKS).splitlines() if line.startswith("| ")]
    assert rows[2:] == ["| embed (embed.py) | 80.0 % | 80.0 % |", "| serve (app.py) | 20.0 % | 100.0 % |"]


def test_a_profile_that_saw_nothing_says_what_may_be_wrong() -> None:
    with pytest.raises(Trouble, match="ptrace"):
        markdown("")
