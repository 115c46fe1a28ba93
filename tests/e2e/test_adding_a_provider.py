"""docs/adding-a-provider.md, followed literally: its file, its row, its commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.serving import ROOT, Server, serve

TOOLS = Path(sys.executable).parent
PAGE = (ROOT / "docs" / "adding-a-provider.md").read_text()
ROOMS = ("service.py", "wiring", "modelmora", "api", "runners", "registry", "adapters", "subscribers", "docs/pictures")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source as it is, and what the page adds to it."""
    folder = tmp_path_factory.mktemp("source")
    for room in ROOMS:
        if (ROOT / room).is_file():
            shutil.copy(ROOT / room, folder / room)
        else:
            shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    [file] = re.findall(r"^`(runners/\w+\.py)`:$", PAGE, re.MULTILINE)
    [source], [row] = blocks("python"), blocks("yaml")
    (folder / file).write_text(source)
    with (folder / "registry" / "ModelRegistry.yaml").open("a") as registry:
        registry.write("\n" + row)
    return folder


@pytest.fixture(scope="module")
def server(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = serve(tmp_path_factory.mktemp("server"), cwd=copy)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def asked(server: Server, copy: Path, command: str) -> dict[str, Any]:
    here = command.replace("http://127.0.0.1:3000", server.url)
    assert here != command
    answer = subprocess.run(shlex.split(here), cwd=copy, capture_output=True, check=True, timeout=60)
    parsed: dict[str, Any] = json.loads(answer.stdout)
    return parsed


def test_the_new_family_answers_as_the_page_says(server: Server, copy: Path) -> None:
    picture, text = blocks("sh")
    answer = asked(server, copy, picture)
    assert (answer["model"], answer["version"], answer["dimension"]) == ("colors", "1.0.0", 64)
    [item] = answer["data"]
    assert sum(value * value for value in item["embedding"]) == pytest.approx(1.0, abs=1e-5)

    refused = asked(server, copy, text)
    assert (refused["code"], refused["detail"]) == (
        "capability_missing",
        "colors@1.0.0 cannot embed texts; it can embed pictures",
    )


def test_the_page_passes_the_checks_that_the_project_has(copy: Path) -> None:
    """It is code to be copied: typed, linted and formatted like ours."""
    file = copy / "runners" / "color_histogram.py"
    config = ("--config", str(ROOT / "pyproject.toml"))
    for command in (("ruff", "check", *config), ("ruff", "format", "--check", *config)):
        subprocess.run((TOOLS / command[0], *command[1:], file), check=True, timeout=60)
    mypy = (TOOLS / "mypy", "--config-file", ROOT / "pyproject.toml", "-m", "runners.color_histogram")
    subprocess.run(mypy, cwd=copy, check=True, timeout=300)
