"""`modelmora backup | restore`: everything that is kept into one file, and back, over the stores of the settings."""

from __future__ import annotations

from pathlib import Path

import click

from modelmora.cli.bundle import become, in_bundle

_FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="One line of JSON.")


@click.command()
@_FILE
@click.option("--vectors/--no-vectors", default=True, show_default=True, help="Without, pictures are embedded again.")
@_JSON
@in_bundle
def backup(file: Path, vectors: bool, as_json: bool, bundle: Path) -> None:
    """Copy models, pictures and their records into FILE.

    It reads the stores that MODELMORA_... name, those of `modelmora serve`, which may go on meanwhile.
    """
    _operate(bundle, "backup", file, "--vectors" if vectors else "--no-vectors", as_json=as_json)


@click.command()
@_FILE
@_JSON
@in_bundle
def restore(file: Path, as_json: bool, bundle: Path) -> None:
    """Fill empty stores from FILE, before a server is started over them."""
    _operate(bundle, "restore", file, as_json=as_json)


def _operate(bundle: Path, command: str, file: Path, *flags: str, as_json: bool) -> None:
    debug = ["--debug"] if click.get_current_context().find_root().params.get("debug") else []
    become(bundle, "operations", *debug, command, str(file.absolute()), *flags, *(["--json"] if as_json else []))
