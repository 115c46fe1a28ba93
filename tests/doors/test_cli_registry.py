"""The registry on the command line, against a server of its wire."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from modelmora.cli.__main__ import program
from modelmora.cli.lineage import drawn
from modelmora.client import LineageInfo
from modelmora.domain.registry.lineage import Node
from modelmora.errors import DependencyUnavailable
from tests.doors.client_registry_app import AT, Registrar, registry_server
from tests.support import wait_until


@pytest.fixture
def registrar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registrar]:
    registrar = Registrar()
    with registry_server(registrar) as url:
        monkeypatch.setenv("MODELMORA_URL", url)
        monkeypatch.delenv("MODELMORA_CONTROL_URL", raising=False)
        yield registrar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "model.onnx").write_bytes(b"a graph of ONNX")
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(program, [str(argument) for argument in arguments])


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def register(folder: Path, *more: str) -> Result:
    return run("register", folder, "--name", "iris", "--version", "1.0.0", *more)


@pytest.mark.usefixtures("registrar")
def test_a_folder_is_registered_and_told_in_a_line(folder: Path) -> None:
    (folder / "__pycache__").mkdir()
    result = register(folder)
    assert (result.exit_code, result.stdout) == (0, "iris@1.0.0  approved  tensor  onnx  15 B\n")
    assert result.stderr == "left out: __pycache__\n"


def test_all_that_is_said_of_it_is_sent(registrar: Registrar, folder: Path) -> None:
    data = "ab" * 32
    result = register(
        folder,
        *("--config", "file=model.onnx", "--config", 'sample={"height": 64}', "--set", "precision=fp32"),
        *("--set", "pin=true", "--dataset", "iris", "--dataset-sha256", data, "--revision", "deadbeef"),
        *("--parent", "iris@0.9.0", "--param", "lr=0.001", "--param", "note=a=b", "--metric", "recall@1=0.97:coco:val"),
        *("--description", "flowers", "--tag", "small", "--tag", "edge", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    model, version = registrar.bodies
    assert (model["description"], model["tags"]) == ("flowers", ["small", "edge"])
    assert version["config"] == {"file": "model.onnx", "sample": {"height": 64}}
    assert (version["precision"], version["pin"]) == ("fp32", True)
    assert version["training"] == {
        "dataset": "iris",
        "dataset_sha256": data,
        "revision": "deadbeef",
        "parent": "iris@0.9.0",
        "parameters": {"lr": 0.001, "note": "a=b"},
    }
    assert version["baseline"] == {"metrics": [{"name": "recall@1", "value": 0.97, "dataset": "coco:val"}]}
    *steps, last = lines(result)
    assert steps[0]["stage"] == "hashing"
    assert {"uploading", "registering", "validating"} <= {step["stage"] for step in steps}
    assert (last["model"], last["state"], last["artifact"]["files"][0]["path"]) == ("iris", "approved", "model.onnx")


def test_it_becomes_what_its_name_stands_for(registrar: Registrar, folder: Path) -> None:
    result = register(folder, "--current")
    assert result.stdout.splitlines()[1] == "iris stands for 1.0.0 now"
    assert registrar.models["iris"]["current"] == "1.0.0"
    assert lines(register(folder, "--current", "--json"))[-1]["current"] == "1.0.0"
    again = run("current", "iris@1.0.0")
    assert (again.exit_code, again.stdout) == (0, "iris stands for 1.0.0 now\n")
    assert run("current", "iris").exit_code == 2


@pytest.mark.usefixtures("registrar")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--config", "file"), "--config file: give it as NAME=VALUE"),
        (("--set", "=x"), "--set =x: give it as NAME=VALUE"),
        (("--metric", "recall=high:coco"), "give it as NAME=NUMBER:DATASET"),
        (("--metric", "recall=0.9"), "give it as NAME=NUMBER:DATASET"),
        (("--metric", "recall=nan:coco"), "give it as NAME=NUMBER:DATASET"),
        (("--current", "--no-wait"), "leave --no-wait out"),
        (("--type", "video"), "'video' is not one of"),
    ],
)
def test_what_is_no_option_is_wrong_usage(options: tuple[str, ...], said: str, folder: Path) -> None:
    result = register(folder, *options)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


def test_what_does_not_pass_ends_in_one(registrar: Registrar, folder: Path) -> None:
    registrar.failure = "no ONNX graph"
    result = register(folder)
    assert result.exit_code == 1
    assert "error: iris@1.0.0 is registered and did not pass: no ONNX graph" in result.stderr
    assert run("versions", "iris").stdout.splitlines()[1].split()[:2] == ["1.0.0", "validation_failed"]
    assert "failure      no ONNX graph" in run("versions", "iris@1.0.0").stdout


@pytest.mark.usefixtures("registrar")
def test_a_folder_without_a_model_is_told_what_would_be_one(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    result = register(tmp_path)
    assert result.exit_code == 1
    assert "expected open_clip_config.json, config.json" in result.stderr
    assert "found notes.txt [validation]" in result.stderr


def test_a_killed_run_goes_on_where_it_was(registrar: Registrar, folder: Path) -> None:
    """What arrived before the kill is not sent again."""
    registrar.troubles["PUT /api/v1/artifacts/"] = deque()
    weights = os.urandom(3_000_000)
    (folder / "weights.data").write_bytes(weights)
    held = hashlib.sha256(weights).hexdigest()
    registrar.troubles[f"PUT /api/v1/artifacts/{held}"] = deque([DependencyUnavailable("away", retry_after_s=30)])
    command = [sys.executable, "-m", "modelmora.cli", "register", str(folder), "--name", "iris", "--version", "1.0.0"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()})
    wait_until(lambda: len(registrar.sent("PUT")) == 2 and len(registrar.objects) == 1, within_s=20, what="an upload")
    process.send_signal(signal.SIGKILL)
    process.wait()
    registrar.requests.clear()
    assert register(folder).exit_code == 0
    assert registrar.sent("PUT") == [f"/api/v1/artifacts/{held}"]


def test_files_come_home_with_pull(registrar: Registrar, tmp_path: Path) -> None:
    registrar.add_version("iris", "1.0.0", {"model.onnx": b"a graph", "parts/a.data": b"abc"})
    result = run("pull", "iris@1.0.0", "--out", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (0, f"iris@1.0.0  10 B in 2 files in {tmp_path / 'out'}\n")
    assert (tmp_path / "out" / "parts" / "a.data").read_bytes() == b"abc"
    *steps, last = lines(run("pull", "iris@1.0.0", "--out", tmp_path / "other", "--json"))
    assert {step["stage"] for step in steps} == {"downloading"}
    assert last["version"] == "1.0.0"
    result = run("pull", "iris", "--out", tmp_path / "out")
    assert (result.exit_code, "name a version, as NAME@VERSION" in result.stderr) == (2, True)


def test_versions_are_a_table_or_lines(registrar: Registrar) -> None:
    for number in range(3):
        baseline = {"metrics": [{"name": "recall@1", "value": 0.9 + number / 100, "dataset": "coco"}]}
        registrar.add_version("iris", f"1.{number}.0", {"model.onnx": b"%d" % number * 2000}, baseline=baseline)
    registrar.models["iris"]["current"] = "1.1.0"
    table = [line.split() for line in run("versions", "iris").stdout.splitlines()]
    assert table[0] == ["VERSION", "STATE", "CURRENT", "PROVIDER", "SIZE", "CREATED", "METRICS"]
    assert table[1][:3] == ["1.0.0", "approved", "onnx"]
    assert table[2] == [
        "1.1.0", "approved", "yes", "onnx", "2", "KiB", "2026-05-04", "03:02", "recall@1=0.91", "(coco)"
    ]  # fmt: skip
    assert [one["version"] for one in lines(run("versions", "iris", "--json"))] == ["1.0.0", "1.1.0", "1.2.0"]
    assert lines(run("versions", "iris@1.2.0", "--json"))[0]["created_at"] == AT
    one = run("versions", "iris@1.2.0").stdout
    assert "files        model.onnx" in one
    assert "metrics      recall@1=0.92 (coco)" in one
    result = run("versions", "iris@7.0.0")
    assert (result.exit_code, "`modelmora versions NAME` shows" in result.stderr) == (1, True)


def node(name: str) -> Node:
    return Node("version" if "@" in name and len(name) < 60 else "dataset", name)


def lineage_of(name: str, *edges: tuple[str, str]) -> LineageInfo:
    pairs = tuple((node(child), node(parent)) for child, parent in edges)
    return LineageInfo(node=node(name), ancestors=(), descendants=(), datasets=(), edges=pairs)


def test_lineage_is_drawn_as_a_tree() -> None:
    found = lineage_of(
        "iris@2.0.0",
        ("iris@2.0.0", "iris@1.0.0"),
        ("iris@2.0.0", "flowers@" + "ab" * 32),
        ("iris@1.0.0", "flowers@" + "ab" * 32),
        ("iris@1.0.0", "base@1.0.0"),
        ("iris-int8@2.0.0", "iris@2.0.0"),
        ("iris-tiny@2.0.0", "iris@2.0.0"),
        ("iris-tiny@2.0.0", "iris-int8@2.0.0"),
    )
    assert "\n".join(drawn(found)) == (
        "iris@2.0.0\n"
        "├── made of\n"
        "│   ├── data set flowers (abababababab)\n"
        "│   └── iris@1.0.0\n"
        "│       ├── data set flowers (abababababab)\n"
        "│       └── base@1.0.0\n"
        "└── made into\n"
        "    ├── iris-int8@2.0.0\n"
        "    │   └── iris-tiny@2.0.0\n"
        "    └── iris-tiny@2.0.0"
    )


def test_what_hangs_in_two_places_is_drawn_whole_once_and_a_circle_ends() -> None:
    found = lineage_of("d@1.0.0", ("d@1.0.0", "b@1.0.0"), ("d@1.0.0", "c@1.0.0"), ("b@1.0.0", "a@1.0.0"),
                       ("c@1.0.0", "b@1.0.0"), ("a@1.0.0", "d@1.0.0"))  # fmt: skip
    made_of = "\n".join(drawn(found)).partition("made into")[0]
    assert made_of.count("b@1.0.0 (see above)") == 1
    assert made_of.count("d@1.0.0 (see above)") == 1


def test_a_long_line_of_ancestors_is_drawn_too() -> None:
    edges = [(f"iris@{number + 1}.0.0", f"iris@{number}.0.0") for number in range(3_000)]
    assert len(list(drawn(lineage_of("iris@3000.0.0", *edges)))) == 3_002


def test_lineage_of_the_current_version_is_asked_for_by_the_name(registrar: Registrar) -> None:
    registrar.add_version("iris", "1.0.0", {"model.onnx": b"x"})
    around: dict[str, Any] = {"ancestors": [], "descendants": [], "datasets": [], "edges": []}
    registrar.lineage = {"node": {"kind": "version", "name": "iris@1.0.0"}, **around}
    result = run("lineage", "iris")
    assert (result.exit_code, "iris stands for no version yet" in result.stderr) == (1, True)
    registrar.models["iris"] |= {"current": "1.0.0", "version": "1.0.0"}
    assert run("lineage", "iris").stdout == "iris@1.0.0: made of nothing that is known, and nothing of it\n"
    assert lines(run("lineage", "iris@1.0.0", "--json")) == [registrar.lineage]


def test_differences_are_a_table(registrar: Registrar) -> None:
    registrar.add_version("iris", "1.0.0", {"model.onnx": b"x"})
    registrar.differences = [
        {"field": "baseline.p50_ms", "kind": "changed", "before": None, "after": 12.5},
        {"field": "training.parameters.lr", "kind": "added", "before": None, "after": 0.1},
        {"field": "labels[0]", "kind": "removed", "before": "x" * 100, "after": None},
    ]
    result = run("diff", "iris", "1.0.0", "1.1.0")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["FIELD", "1.0.0", "1.1.0"],
        ["baseline.p50_ms", "null", "12.5"],
        ["training.parameters.lr", "(not", "there)", "0.1"],
        ["labels[0]", "x" * 57 + "...", "(not", "there)"],
    ]
    assert lines(run("diff", "iris", "1.0.0", "1.1.0", "--json"))[0]["differences"][1] == registrar.differences[1]
    registrar.differences = []
    assert run("diff", "iris", "1.0.0", "1.0.0").stdout == "iris: 1.0.0 and 1.0.0 differ in nothing\n"


@pytest.fixture
def audited(registrar: Registrar) -> Registrar:
    for seq in range(1, 8):
        registrar.audit.append(
            {
                "seq": seq, "at": AT, "actor": "ann" if seq % 2 else "bob", "action": "model.amend", "subject": "iris",
                "request_id": f"r-{seq}", "reason": "", "before": None, "after": None, "digest": "0" * 64,
            }
        )  # fmt: skip
    return registrar


@pytest.mark.usefixtures("audited")
def test_the_audit_shows_the_newest_first() -> None:
    table = [line.split() for line in run("audit", "--last", "3").stdout.splitlines()]
    assert [row[0] for row in table] == ["SEQ", "7", "6", "5"]
    assert table[1] == ["7", "2026-05-04", "03:02:01", "ann", "model.amend", "iris", "r-7"]
    assert [one["seq"] for one in lines(run("audit", "--actor", "bob", "--all", "--json"))] == [2, 4, 6]


def test_the_audit_is_verified(audited: Registrar) -> None:
    assert run("audit", "verify").stdout == "intact: 7 entries\n"
    audited.broken = {"seq": 3, "why": "changed"}
    result = run("audit", "verify")
    assert (result.exit_code, "broken at entry 3: it is changed" in result.stderr) == (1, True)
    result = run("audit", "verify", "--json")
    assert (result.exit_code, lines(result)) == (
        1, [{"intact": False, "entries": 7, "broken_at": 3, "why": "changed"}]
    )  # fmt: skip


def test_options_before_the_command_that_would_not_see_them_are_refused(audited: Registrar) -> None:
    audited.broken = {"seq": 3, "why": "changed"}
    result = run("audit", "--url", "http://127.0.0.1:1", "verify")
    assert (result.exit_code, "options go behind the command: audit verify" in result.stderr) == (2, True)


def test_what_nothing_refers_to_is_removed(registrar: Registrar) -> None:
    registrar.objects["a" * 64] = b"12345"
    assert run("gc", "--older-than", "0").stdout == "1 files removed, 5 B\n"
    assert registrar.bodies == [{"older_than_s": 0.0}]
    assert lines(run("gc", "--json")) == [{"removed": 0, "bytes": 0}]


def test_no_server_is_told_quickly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMORA_URL", "http://127.0.0.1:1")
    begun = time.monotonic()
    for command in (("versions", "iris"), ("lineage", "iris"), ("audit",), ("gc",)):
        result = run(*command)
        assert (result.exit_code, "start a server with `modelmora serve`" in result.stderr) == (1, True)
    assert time.monotonic() - begun < 20
