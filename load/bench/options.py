"""What all commands of the harness share: their options, the folder of a run, where progress and results go."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from load.bench.cpu import ProcessEnded
from load.bench.processes import Trouble
from load.bench.results import Run

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "modelmora-bench"

JSON = click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write everything there.")
WORK = click.option(
    "--work", type=click.Path(file_okay=False, path_type=Path), default=_CACHE, show_default=True,
    help="Keeps the random weights, and the logs when something fails.",
)  # fmt: skip
QUICK = click.option("--quick", is_flag=True, help="Windows too short for a number: only whether everything works.")


@contextmanager
def run_folder(work: Path) -> Iterator[Path]:
    """A folder for this run; it goes when all went well and stays, with the logs, when not."""
    work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=work))
    try:
        yield folder
    except (Trouble, ProcessEnded, FileNotFoundError) as trouble:
        raise click.ClickException(f"{trouble}\n(logs: {folder})") from trouble
    shutil.rmtree(folder)


def write(file: Path | None, run: Run) -> None:
    write_json(file, asdict(run))


def write_json(file: Path | None, content: dict[str, Any]) -> None:
    """All of it at once, so that a run that breaks off leaves what it had."""
    if file is None:
        return
    unfinished = file.with_name(file.name + ".part")
    unfinished.write_text(json.dumps(content, indent=1, default=str))
    unfinished.replace(file)


def say(line: str) -> None:
    """Progress goes to standard error: standard output is the table."""
    click.echo(line, err=True)
