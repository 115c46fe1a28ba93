"""`modelmora serve`, `config` and what holds for every command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from modelmora import __version__
from modelmora.cli.__main__ import program
from modelmora.cli.failures import Program, hint
from modelmora.cli.screen import size
from modelmora.errors import DependencyUnavailable, from_code


class Executed(BaseException):
    """In place of the process that `serve` becomes."""

    def __init__(self, program: str, arguments: list[str], environment: dict[str, str]) -> None:
        self.program, self.arguments, self.environment = program, arguments, environment
        self.folder = Path.cwd()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("MODELMORA_", "BENTOML_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def executed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Executed:
    def execve(program: str, arguments: list[str], environment: dict[str, str]) -> None:
        raise Executed(program, arguments, environment)

    monkeypatch.setattr(os, "execve", execve)
    with pytest.raises(Executed) as caught:
        program(["serve", *arguments], standalone_mode=False)
    return caught.value


def test_serve_becomes_bentoml_in_the_folder_of_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "service.py").touch()
    monkeypatch.setenv("MODELMORA_DATA_DIR", str(tmp_path / "data"))
    became = executed(monkeypatch, "--bundle", "bundle", "--production", "--port", "4000")
    assert became.program == sys.executable
    assert became.arguments[1:] == ["-m", "bentoml", "serve", "service:ModelMora", "--production", "--port", "4000"]
    assert became.folder == tmp_path / "bundle"
    assert became.environment["BENTOML_DO_NOT_TRACK"] == "True"
    assert became.environment["BENTOML_HOME"] == str(tmp_path / "data" / "bentoml")


def test_serve_finds_the_service_of_a_built_bento_and_keeps_what_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "service.py").touch()
    monkeypatch.setenv("BENTOML_HOME", "/somewhere")
    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "False")
    became = executed(monkeypatch)
    assert became.folder == tmp_path / "src"
    assert became.environment["BENTOML_HOME"] == "/somewhere"
    assert became.environment["BENTOML_DO_NOT_TRACK"] == "False"


def test_serve_without_a_service_says_where_it_looked(tmp_path: Path) -> None:
    result = CliRunner().invoke(program, ["serve"])
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: no service.py in {tmp_path}\n  -> run this in a checkout, or name its folder with --bundle\n"
    )


def test_config_shows_each_setting_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMORA_HTTP_PORT", "4000")
    monkeypatch.setenv("MODELMORA_DATABASE_URL", "postgresql+asyncpg://user:secret@host/db")
    rows = {line.split()[0]: line.split() for line in CliRunner().invoke(program, ["config"]).stdout.splitlines()}
    assert rows["MODELMORA_HTTP_PORT"][1:3] == ["4000", "environment"]
    assert rows["MODELMORA_GRPC_PORT"][1:3] == ["50051", "default"]
    printed = CliRunner().invoke(program, ["config", "--json"]).stdout
    assert "secret" not in printed
    settings = {each["variable"]: each for each in json.loads(printed)}
    assert settings["MODELMORA_DATABASE_URL"]["value"] == "postgresql+asyncpg://user:***@host/db"


def test_config_tells_all_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELMORA_HTTP_PORT", "0")
    monkeypatch.setenv("MODELMORA_GRPC_PORT", "many")
    result = CliRunner().invoke(program, ["config"])
    assert result.exit_code == 1
    assert "MODELMORA_HTTP_PORT: got" in result.stderr
    assert "MODELMORA_GRPC_PORT: got" in result.stderr


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(program, ["--version"]).stdout == f"modelmora, version {__version__}\n"


@pytest.mark.parametrize("command", [None, *program.commands])
def test_every_command_explains_itself(command: str | None) -> None:
    result = CliRunner().invoke(program, [*([command] if command else []), "--help"])
    assert result.exit_code == 0
    assert "Usage: " in result.stdout


def failing_program() -> click.Group:
    @click.group(cls=Program)
    @click.option("--debug", is_flag=True)
    def root(debug: bool) -> None: ...

    @root.command()
    def fail() -> None:
        raise ZeroDivisionError("a defect")

    return root


def test_a_defect_is_one_line_unless_the_traceback_is_asked_for() -> None:
    result = CliRunner().invoke(failing_program(), ["fail"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ZeroDivisionError: a defect\n  -> run `modelmora --debug")
    assert isinstance(CliRunner().invoke(failing_program(), ["--debug", "fail"]).exception, ZeroDivisionError)


def test_a_dependency_of_the_server_is_not_mistaken_for_the_server() -> None:
    assert "make serve" in str(hint(DependencyUnavailable("no answer", field="url")))
    assert "make serve" not in str(hint(DependencyUnavailable("the database is away")))
    assert hint(from_code("conflict", "x")) is None


@pytest.mark.parametrize(
    ("count", "text"), [(0, "-"), (1, "1 B"), (2048, "2 KiB"), (12 * 2**20, "12 MiB"), (3 * 2**30, "3.0 GiB")]
)
def test_sizes_are_read_by_people(count: int, text: str) -> None:
    assert size(count) == text
