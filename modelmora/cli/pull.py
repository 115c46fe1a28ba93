"""`modelmora pull`: a model's files brought to the server, with progress."""

from __future__ import annotations

import asyncio

import click

from modelmora.cli.failures import Failure
from modelmora.cli.screen import print_json, progress, size
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.ports import Fetch


@click.command()
@click.argument("name")
@json_option
@talks_to_server
def pull(server: Server, name: str, as_json: bool) -> None:
    """Bring the files of NAME (or NAME@VERSION) to the server."""
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
