"""`python -m load.bench`: the comparison; `... start`: start to ready; `... hop`: the cost of a request by itself."""

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

from load.bench import compare as comparing
from load.bench import hop as hopping
from load.bench import machine, profile, subjects, tables, wrk
from load.bench import start as starting
from load.bench.cpu import ProcessEnded
from load.bench.plan import ALL_POINTS, Point
from load.bench.processes import Trouble
from load.bench.results import Run
from load.bench.stats import MIN_PAIRS

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "modelmora-bench"


class Points(click.ParamType[tuple[Point, ...]]):
    """`http:1,http:8,grpc:32`."""

    name = "points"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Point, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(Point.parse(text) for text in str(value).split(","))
        except ValueError as bad:
            self.fail(str(bad), param, ctx)


_MODEL = click.option("--model", type=click.Choice(subjects.NAMES), default="vit-b-32", show_default=True)
_JSON = click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write everything there.")
_WORK = click.option(
    "--work", type=click.Path(file_okay=False, path_type=Path), default=_CACHE, show_default=True,
    help="Keeps the random weights, and the logs when something fails.",
)  # fmt: skip
_QUICK = click.option("--quick", is_flag=True, help="Windows too short for a number: only whether everything works.")


@click.group(invoke_without_command=True, help="Our service, the reference loop and plain BentoML, interleaved.")
@_MODEL
@click.option("--points", type=Points(), default=ALL_POINTS, help="Such as http:1,http:8,grpc:32; default: all.")
@click.option("--pairs", type=click.IntRange(MIN_PAIRS, 30), default=MIN_PAIRS, show_default=True)
@click.option(
    "--threads", type=click.IntRange(0, 256), default=0, help="For every party; 0: what each takes by itself."
)
@click.option(
    "--bentoml-as-it-comes", is_flag=True, help="Plain BentoML with OpenMP's own wait policy instead of ours."
)
@_QUICK
@_JSON
@_WORK
@click.pass_context
def main(
    context: click.Context,
    /,
    *,
    model: subjects.Name,
    points: tuple[Point, ...],
    pairs: int,
    threads: int,
    bentoml_as_it_comes: bool,
    quick: bool,
    file: Path | None,
    work: Path,
) -> None:
    """The comparison, unless another command is named."""
    if context.invoked_subcommand is not None:
        return
    options = comparing.Options(
        points=points, pairs=pairs, quick=quick, threads=threads, bentoml_passive=not bentoml_as_it_comes
    )
    with _folder(work) as folder:
        subject = subjects.prepare(model, work)
        run = comparing.compare(subject, options, folder, keep=lambda run: _write(file, run), say=_say)
    click.echo(tables.markdown(run))


@main.command()
@click.option("--model", type=click.Choice(subjects.NAMES), default="shapes-clip", show_default=True)
@click.option("--times", type=click.IntRange(1, 20), default=3, show_default=True)
@_JSON
@_WORK
def start(model: subjects.Name, times: int, file: Path | None, work: Path) -> None:
    """Start to ready, beside a bare `import open_clip`."""
    with _folder(work) as folder:
        measured = starting.starts(subjects.prepare(model, work), folder, times=times, say=_say)
    _write_json(file, {"machine": machine.facts(), "starts": [asdict(one) for one in measured]})
    click.echo(starting.markdown(measured))


@main.command()
@click.option("--callers", type=click.IntRange(1, 1024), default=32, show_default=True)
@click.option("--python", "plain", is_flag=True, help="Python callers even where wrk is installed.")
@click.option("--profile", "profiled", is_flag=True, help="And what the API worker's time goes into, by py-spy.")
@_QUICK
@_JSON
@_WORK
def hop(*, callers: int, plain: bool, profiled: bool, quick: bool, file: Path | None, work: Path) -> None:
    """CPU of the API workers per request for a model that computes nothing."""
    if not wrk.installed() and not plain:
        _say(wrk.MISSING)
    if profiled and not profile.installed():
        _say(profile.MISSING)
    options = hopping.Options(
        callers=callers,
        windows=1 if quick else MIN_PAIRS,
        seconds=2 if quick else 10,
        native=wrk.installed() and not plain,
        profile=profiled and profile.installed(),
    )
    with _folder(work) as folder:
        run, table = hopping.hop(options, folder, say=_say)
    _write(file, run)
    click.echo(hopping.markdown(run))
    click.echo(table)


@contextmanager
def _folder(work: Path) -> Iterator[Path]:
    """A folder for this run; it goes when all went well and stays, with the logs, when not."""
    work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=work))
    try:
        yield folder
    except (Trouble, ProcessEnded, FileNotFoundError) as trouble:
        raise click.ClickException(f"{trouble}\n(logs: {folder})") from trouble
    shutil.rmtree(folder)


def _write(file: Path | None, run: Run) -> None:
    _write_json(file, asdict(run))


def _write_json(file: Path | None, content: dict[str, Any]) -> None:
    """All of it at once, so that a run that breaks off leaves what it had."""
    if file is None:
        return
    unfinished = file.with_name(file.name + ".part")
    unfinished.write_text(json.dumps(content, indent=1, default=str))
    unfinished.replace(file)


def _say(line: str) -> None:
    """Progress goes to standard error: standard output is the table."""
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
