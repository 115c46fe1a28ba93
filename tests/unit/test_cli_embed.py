"""The parts of `modelmora embed` that need no server."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelmora.cli import outputs
from modelmora.cli.__main__ import program
from modelmora.cli.journal import Journal
from modelmora.cli.outputs import write_output
from modelmora.cli.sources import Source, collect
from modelmora.client import Embedding
from modelmora.errors import InvalidInput


def embedding(value: float, version: str = "1.0.0") -> Embedding:
    return Embedding(data=struct.pack("<2f", value, -value), model="m", version=version)


def source(name: str, size: int = 1) -> Source:
    return Source("path", name, size, 7)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "x.npz"


def written(journal: Journal, *values: float) -> None:
    with journal:
        for value in values:
            journal.record(source(f"{value}.jpg"), embedding(value))


def test_a_journal_remembers_over_runs(output: Path) -> None:
    written(Journal(output), 1.0)
    written(Journal(output), 2.0)
    assert Journal(output).recall("m@1.0.0") == {source("1.0.jpg"): embedding(1.0), source("2.0.jpg"): embedding(2.0)}


def test_a_journal_holds_for_one_model_and_an_unchanged_file(output: Path) -> None:
    written(Journal(output), 1.0)
    assert Journal(output).recall("m@2.0.0") == {}
    assert source("1.0.jpg", size=2) not in Journal(output).recall("m@1.0.0")


@pytest.mark.parametrize("kept", [1, 40, -2])
def test_a_line_that_was_cut_off_costs_itself_only(output: Path, kept: int) -> None:
    written(Journal(output), 1.0)
    whole = Journal(output).path.read_bytes()
    Journal(output).path.write_bytes(whole + whole.replace(b"1.0.jpg", b"2.0.jpg")[:kept])
    written(Journal(output), 3.0)
    assert [each.name for each in Journal(output).recall("m@1.0.0")] == ["1.0.jpg", "3.0.jpg"]


@pytest.mark.parametrize("line", ["[]", '{"kind": "path"}', '"x"', "{}", "\x00\x00", '{"name": 1}'])
def test_foreign_lines_are_passed_over(output: Path, line: str) -> None:
    Journal(output).path.write_text(line + "\n")
    assert Journal(output).recall("m@1.0.0") == {}


def test_an_output_that_cannot_be_written_leaves_the_old_one(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(source("a"), embedding(1.0))]
    write_output(output, rows)
    before = output.read_bytes()
    ragged = [*rows, (source("b"), Embedding(data=b"\0" * 4, model="m", version="1.0.0"))]
    with pytest.raises(ValueError, match="reshape"):
        write_output(output, ragged)
    assert output.read_bytes() == before
    assert os.listdir(output.parent) == ["x.npz"]


def test_an_output_is_readable_as_the_umask_says(output: Path) -> None:
    before = os.umask(0o027)
    try:
        write_output(output, [(source("a"), embedding(1.0))])
    finally:
        os.umask(before)
    assert output.stat().st_mode & 0o777 == 0o640


def test_folders_are_walked_in_order_and_each_picture_once(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "c.txt", ".hidden.jpg", "sub/d.webp", ".git/e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = collect([tmp_path, tmp_path / "b.jpg", tmp_path / "c.txt"], ["a text"], recursive=True)
    assert [each.name.removeprefix(f"{tmp_path}/") for each in found] == [
        "a.PNG",
        "b.jpg",
        "sub/d.webp",
        "c.txt",
        "a text",
    ]
    assert len(collect([tmp_path], [], recursive=False)) == 2


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read .*absent\.jpg: No such file"):
        collect([tmp_path / "absent.jpg"], [], recursive=False)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name pictures or folders"),
        (["{folder}"], "no pictures in"),
        (["{folder}"], "-r looks into the folders below"),
        (["--text", "x", "-o", "{folder}/x.csv"], "name a file that ends in .npz, .parquet, .jsonl"),
        (["--text", "x", "-o", "{folder}/absent/x.npz"], "there is no folder"),
        (["--text", "x", "--concurrency", "0"], "--concurrency"),
        (["--text", "x", "--timeout", "0"], "--timeout"),
    ],
)
def test_wrong_usage_ends_with_two(tmp_path: Path, arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(program, ["embed", *(argument.format(folder=tmp_path) for argument in arguments)])
    assert result.exit_code == 2
    assert told in result.stderr


@pytest.mark.parametrize(("suffix", "library"), [(".npz", "numpy"), (".parquet", "pyarrow")])
def test_a_missing_library_is_told_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, library: str
) -> None:
    monkeypatch.setattr(outputs, "find_spec", lambda name: None)
    result = CliRunner().invoke(program, ["embed", "--text", "x", "-o", str(tmp_path / f"x{suffix}")])
    assert result.exit_code == 2
    assert f"needs {library}: pip install 'modelmora[files]', or write .jsonl" in result.stderr


def test_a_wrong_url_is_told_without_a_traceback() -> None:
    result = CliRunner().invoke(program, ["embed", "--text", "x", "--url", "localhost"])
    assert result.exit_code == 1
    assert "'localhost' is not the URL of a server; expected grpc://host:port" in result.stderr
    assert "[validation]" in result.stderr
