"""`modelmora pull`: a model's files brought to the server, or a version's brought here, with progress."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from modelmora.cli.failures import Failure
from modelmora.cli.moving import shown
from modelmora.cli.pairs import reference
from modelmora.cli.screen import print_json, progress, size
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import VersionInfo
from modelmora.ports import Fetch


@click.command()
@click.argument("name")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Bring them here, into this folder.")
@json_option
@talks_to_server
def pull(server: Server, name: str, out: Path | None, as_json: bool) -> None:
    """Bring the files of NAME (or NAME@VERSION) to the server, or with --out those of NAME@VERSION here.

    What comes here is checked; files that are whole already are not fetched again.
    """
    if out is not None:
        _pull_here(server, name, out, as_json)
        return
    last = asyncio.run(_pull(server, name, as_json))
    if last is None or not last.finished:
        raise Failure(f"the server stopped sending before {name} was complete", advice="run the command again")
    if not as_json:
        click.echo(f"{last.model}  {size(last.done_bytes)}  licence: {last.licence or 'not stated'}")


async def _pull(server: Server, name: str, as_json: bool) -> Fetch | None:
    last: Fetch | None = None
    with progress(f"pull {name}", total=None, quiet=as_json, in_bytes=True) as bar:
        async with server.client() as client:
            silence = {} if server.timeout is None else {"silence": server.timeout}
            async for last in client.pull(name, **silence):
                bar.to(last.done_bytes, last.total_bytes or None)
                if as_json:
                    print_json(last)
    return last


def _pull_here(server: Server, name: str, out: Path, as_json: bool) -> None:
    found = asyncio.run(_download(server, name, out, as_json))
    if as_json:
        print_json(found)
    elif found.artifact is not None:
        click.echo(f"{found.key}  {size(found.artifact.bytes)} in {len(found.artifact.files)} files in {out}")


async def _download(server: Server, name: str, out: Path, quiet: bool) -> VersionInfo:
    model, version = reference(name)
    with progress(f"pull {name}", total=None, quiet=quiet, in_bytes=True) as bar:
        async with server.client() as client:
            return await client.download(model, version, out, on_progress=shown(bar, quiet=quiet))
