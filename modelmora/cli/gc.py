"""`modelmora gc`: what no version refers to goes from the object store."""

from __future__ import annotations

import asyncio

import click

from modelmora.cli.screen import print_json, size, waiting
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import Collected
from modelmora.client.registry import SWAP_TIMEOUT_S


@click.command()
@click.option("--older-than", type=click.FloatRange(min=0), help="Seconds.  [default: 3600, a day for broken uploads]")
@json_option
@talks_to_server
def gc(server: Server, older_than: float | None, as_json: bool) -> None:
    """Remove files from the server's object store that no version refers to."""
    with waiting("gc", quiet=as_json):
        found = asyncio.run(_collect(server, older_than))
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found.removed} files removed, {size(found.bytes)}")


async def _collect(server: Server, older_than: float | None) -> Collected:
    async with server.client() as client:
        return await client.collect(older_than_s=older_than, timeout=server.timeout or SWAP_TIMEOUT_S)
