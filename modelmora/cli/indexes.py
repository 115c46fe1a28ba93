"""`modelmora indexes`: which models' vectors are kept, how far they are, and which are searched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from modelmora.cli.screen import print_json, print_table, waiting
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import IndexInfo
from modelmora.client.indexes import SWITCH_TIMEOUT_S

_HEADS = ("MODEL", "COLLECTION", "STATE", "DIMENSION", "DONE", "FAILED", "AGREEMENT", "WHY")


@click.group(invoke_without_command=True)
@click.option("--collection", help="Those of one collection.")
@json_option
@talks_to_server
def indexes(server: Server, collection: str | None, as_json: bool) -> None:
    """List the indexes; searches go to those that are live."""
    if click.get_current_context().invoked_subcommand is None:
        print_indexes(asyncio.run(_all(server, collection)), as_json)


@indexes.command()
@click.argument("ref", metavar="NAME@VERSION")
@click.option("--collection", default="default", show_default=True)
@json_option
@talks_to_server
def switch(server: Server, ref: str, collection: str, as_json: bool) -> None:
    """Let searches go to a complete index; the one before is kept for an hour, for the way back."""
    with waiting("switch", quiet=as_json):
        index = asyncio.run(_switch(server, ref, collection))
    if as_json:
        print_json(index)
    else:
        click.echo(f"searches of {index.model} go to {index.key} now")


@indexes.command()
@click.argument("ref", metavar="NAME@VERSION")
@click.option("--collection", default="default", show_default=True)
@json_option
@talks_to_server
def drop(server: Server, ref: str, collection: str, as_json: bool) -> None:
    """Remove an index that is not searched."""
    asyncio.run(_drop(server, ref, collection))
    if as_json:
        print_json({"dropped": ref})
    else:
        click.echo(f"the index of {ref} is gone")


def print_indexes(found: Sequence[IndexInfo], as_json: bool) -> None:
    """A table, or a line of JSON each."""
    if as_json:
        for index in found:
            print_json(index)
    else:
        print_table(_HEADS, [_row(index) for index in found])


async def _all(server: Server, collection: str | None) -> tuple[IndexInfo, ...]:
    async with server.client() as client:
        return await client.indexes.list(collection=collection)


async def _switch(server: Server, ref: str, collection: str) -> IndexInfo:
    async with server.client() as client:
        return await client.indexes.switch(ref, collection=collection, timeout=server.timeout or SWITCH_TIMEOUT_S)


async def _drop(server: Server, ref: str, collection: str) -> None:
    async with server.client() as client:
        await client.indexes.drop(ref, collection=collection, timeout=server.timeout or SWITCH_TIMEOUT_S)


def _row(index: IndexInfo) -> tuple[str, ...]:
    return (
        index.key,
        index.collection,
        index.state,
        str(index.dimension),
        f"{index.done} of {index.total}",
        str(index.failed),
        "-" if index.agreement is None else f"{index.agreement:.2f}",
        index.why,
    )
