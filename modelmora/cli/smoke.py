"""`modelmora smoke`: whether a deployment does what it is there for."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from modelmora.cli.checks import Asked, Checked, run
from modelmora.cli.failures import Failure
from modelmora.cli.screen import print_json
from modelmora.cli.server import Server, json_option, talks_to_server


@click.command()
@click.option("--model", help="Embed with NAME or NAME@VERSION.  [default: the server's]")
@click.option(
    "--load", help="Load and unload this one; one that is loaded is afterwards, too.  [default: a bundled one]"
)
@click.option(
    "--wait", type=click.FloatRange(min=0), default=60.0, show_default=True,
    help="Seconds for the server to be ready, and for a picture to be indexed.",
)  # fmt: skip
@json_option
@talks_to_server
def smoke(server: Server, *, model: str | None, load: str | None, wait: float, as_json: bool) -> None:
    """Check a deployment, right after it: health, embeddings over both faces, a model in and out of memory, a picture
    by events and back, metrics.

    What it makes it removes. Exit code 1 where anything failed; what is not there to be asked is skipped.
    """
    show = _as_json if as_json else _show
    done = asyncio.run(run(Asked(server=server, wait_s=wait, model=model, load=load), show))
    failed = [one.name for one in done if one.state == "failed"]
    if failed:
        raise Failure(f"failed: {', '.join(failed)}")


def _as_json(one: Checked) -> None:
    print_json(asdict(one))


def _show(one: Checked) -> None:
    click.echo(f"{one.state:<8}{one.name:<20}{one.ms:>7.0f} ms  {one.said}")
