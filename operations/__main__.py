"""`python -m operations backup | restore FILE`: over the stores that the settings name."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from adapters.archives import TarReader, TarWriter
from modelmora.cli.failures import Program
from modelmora.cli.screen import print_json
from modelmora.logs import configure_logging
from modelmora.settings import Settings
from modelmora.usecases.backup.layout import Report
from wiring.backup import open_backup, open_restore

_FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="A line of JSON.")


@click.group(cls=Program)
@click.option("--debug", is_flag=True, help="Show where an error came from.")
def program(debug: bool) -> None:
    """What operators do to a deployment beside its servers."""
    configure_logging("warning", "console", process="operations")


@program.command()
@_FILE
@click.option("--vectors/--no-vectors", default=True, show_default=True, help="Without, pictures are embedded again.")
@_JSON
def backup(file: Path, vectors: bool, as_json: bool) -> None:
    """Copy everything that is kept into FILE; a server may go on meanwhile."""
    _tell(f"{file} is written", asyncio.run(_backup(file, vectors)), as_json=as_json)


@program.command()
@_FILE
@_JSON
def restore(file: Path, as_json: bool) -> None:
    """Fill empty stores from FILE, before a server is started over them."""
    _tell(f"{file} is restored", asyncio.run(_restore(file)), as_json=as_json)


async def _backup(file: Path, vectors: bool) -> Report:
    async with open_backup(Settings.load()) as make, TarWriter(file) as archive:
        return await make(archive, vectors=vectors)


async def _restore(file: Path) -> Report:
    archive = TarReader(file)
    async with open_restore(Settings.load()) as fill:
        return await fill(archive)


def _tell(what: str, report: Report, *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    counts = ", ".join(f"{count} {name}" for name, count in report.counts.items()) or "nothing"
    click.echo(f"{what}: {counts}")
    for name, why in report.left_out.items():
        click.echo(f"left out: {name}: {why}", err=True)


if __name__ == "__main__":
    program(prog_name="modelmora")
