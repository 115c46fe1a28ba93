"""`modelmora reindex`: kept pictures embedded anew by a model, while searches go on."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from modelmora.cli.indexes import print_indexes
from modelmora.cli.screen import Bar, print_json, progress
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import IndexInfo
from modelmora.client.indexes import OnIndex
from modelmora.client.keeping import REINDEX_TIMEOUT_S
from modelmora.client.keeping_sync import ReindexOptions


@click.command()
@click.argument("model")
@click.option("--version", help="Which version.  [default: the one that MODEL stands for]")
@click.option("--collection", default="default", show_default=True, help="Whose pictures.")
@click.option("--switch/--no-switch", default=True, show_default=True, help="Search it as soon as it is complete.")
@click.option("--wait", is_flag=True, help="Follow it until then; with --json, a line a step.")
@json_option
@talks_to_server
def reindex(server: Server, model: str, as_json: bool, **given: Any) -> None:
    """Embed the kept pictures with MODEL into an index of its own, and let searches go there.

    It runs on the server, and goes on after a restart; `modelmora indexes` shows how far it is.
    """
    wait = given["wait"]
    with progress(f"reindex {model}", total=None, quiet=as_json or not wait) as bar:
        options = ReindexOptions(
            version=given["version"],
            collection=given["collection"],
            switch=given["switch"],
            wait=wait,
            timeout=server.timeout or REINDEX_TIMEOUT_S,
            on_progress=_shown(bar, as_json),
        )
        index = asyncio.run(_reindex(server, model, options))
    if not (as_json and wait):  # its last step is that line
        print_indexes([index], as_json)


async def _reindex(server: Server, model: str, options: ReindexOptions) -> IndexInfo:
    async with server.client() as client:
        return await client.reindex(model, **options)


def _shown(bar: Bar, as_json: bool) -> OnIndex:
    def tell(index: IndexInfo) -> None:
        bar.to(index.done + index.failed, index.total, f"{index.key} {index.state}")
        if as_json:
            print_json(index)

    return tell
