"""The plan of cores and nodes: its arithmetic, what it refuses, and that the documents have what it prints."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from load.bench.costs import WAYS, by_way
from load.bench.plan import Point
from load.bench.processes import ROOT
from load.bench.results import Run, Window
from load.capacity import main, parse, plan

PAGE = ROOT / "docs" / "performance.md"


def recorded(api_ms: float, runner_ms: float) -> dict[str, object]:
    """A run in which every kind of request costs the same."""
    spent = {"modelmora": api_ms / 10, "runner-default": runner_ms / 10}  # seconds of a hundred items
    window = Window(party="ours", point=Point("http", 1), pair=None, items=100, wall_s=1.0, cpu_s=spent)
    run = Run(model="m", machine={}, conditions={"of": list(WAYS)}, windows=[window for _ in WAYS])
    return asdict(run)


def test_cores_are_what_the_requests_of_a_second_cost_over_the_share_that_is_planned_with() -> None:
    found = plan(by_way(recorded(2.0, 8.0)), {"picture": 1}, rate=1_000, cores=16, busy=0.5)
    assert (found.api_workers, found.runner_cores) == (4, 16)
    assert found.core_carries == pytest.approx(50)
    assert found.node_carries == pytest.approx(800)
    assert found.nodes == 2 + 1  # 800 are too few for 1,000, and one may be away


def test_a_mix_costs_the_mean_by_its_weights() -> None:
    run = recorded(2.0, 8.0)
    windows = run["windows"]
    assert isinstance(windows, list)
    windows[WAYS.index("text")]["cpu_s"] = {"modelmora": 0.1, "runner-default": 0.0}
    found = plan(by_way(run), parse("picture=1,text=3"), rate=1, cores=1)
    assert found.api_ms == pytest.approx(1.25)
    assert found.runner_ms == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pictures=1", "'pictures' is no kind of request; there are text-remembered"),
        ("picture", "'picture' has no weight; write such as picture=3"),
        ("picture=-1", "a weight is 0 or more"),
        ("picture=nan", "a weight is 0 or more"),
        ("picture=0", "a mix takes one weight above 0"),
    ],
)
def test_a_mix_that_says_nothing_is_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    file.write_text(json.dumps(recorded(1.0, 1.0)))
    told = CliRunner().invoke(main, [str(file), "--mix", text])
    assert told.exit_code != 0
    assert said in told.output


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"windows": [], "conditions": {}}))
    told = CliRunner().invoke(main, [str(file)])
    assert told.exit_code == 1
    assert "the file has no window of text-remembered" in told.output


def test_the_table_of_the_documents_is_what_the_recorded_run_gives() -> None:
    page = PAGE.read_text()
    command = re.search(r"^`python -m load\.capacity (.+?)`", page, re.MULTILINE)
    assert command, "docs/performance.md tells the command of its plan"
    told = CliRunner().invoke(main, command[1].split())
    assert told.exit_code == 0, told.output
    assert told.output.strip() in page
