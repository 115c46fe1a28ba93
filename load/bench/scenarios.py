"""The commands that hold a promise under strain: they print a table and end with 1 when one is not held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from load.bench import bad as badly
from load.bench import machine, subjects, verdicts
from load.bench import soak as soaking
from load.bench import swap as swapping
from load.bench import zoo as keeping
from load.bench.options import JSON, QUICK, WORK, run_folder, say, write_json
from load.bench.verdicts import Report

_PICTURED = [name for name in subjects.NAMES if name != "noop"]
_MODEL = click.option("--model", type=click.Choice(_PICTURED), default="vit-b-32", show_default=True)
_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@_MODEL
@QUICK
@JSON
@WORK
def bad(*, model: subjects.Name, quick: bool, file: Path | None, work: Path) -> None:
    """Bad items among good ones: at decode, and in the forward."""
    with run_folder(work) as folder:
        subject = subjects.prepare(model, work)
        decoded = badly.decode(subject, folder, quick=quick, say=say)
        forwarded = badly.forward(folder, quick=quick, say=say)
    _end([decoded, forwarded], file)


@click.command()
@click.option("--minutes", type=_POSITIVE, default=keeping.MINUTES, show_default=True)
@QUICK
@JSON
@WORK
def zoo(*, minutes: float, quick: bool, file: Path | None, work: Path) -> None:
    """Six models of which three fit into the memory budget."""
    with run_folder(work) as folder:
        found = keeping.zoo(work, folder, minutes=minutes, quick=quick, say=say)
    _end([found], file)


@click.command()
@_MODEL
@click.option("--minutes", type=_POSITIVE, default=soaking.MINUTES, show_default=True)
@click.option("--callers", type=click.IntRange(1, 1024), default=soaking.CALLERS, show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@QUICK
@JSON
@WORK
def soak(
    *,
    model: subjects.Name,
    minutes: float,
    callers: int,
    precision: subjects.Precision,
    quick: bool,
    file: Path | None,
    work: Path,
) -> None:
    """Constant load: memory and p99 of the last quarter beside the second."""
    with run_folder(work) as folder:
        subject = replace(subjects.prepare(model, work), precision=precision)
        found = soaking.soak(subject, folder, minutes=minutes, callers=callers, quick=quick, say=say)
    _end([found], file)


@click.command()
@_MODEL
@QUICK
@JSON
@WORK
def swap(*, model: subjects.Name, quick: bool, file: Path | None, work: Path) -> None:
    """Another version is made current under load."""
    with run_folder(work) as folder:
        found = swapping.swap(subjects.prepare(model, work), folder, quick=quick, say=say)
    _end([found], file)


def _end(reports: Sequence[Report], file: Path | None) -> None:
    """The tables, and the exit code."""
    write_json(file, {"machine": machine.facts(), "scenarios": [report.facts for report in reports]})
    for report in reports:
        click.echo(report.markdown())
    if not verdicts.all_held(reports):
        raise click.exceptions.Exit(1)
