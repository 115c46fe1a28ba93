"""`modelmora search`: kept pictures that are like words, a picture, or one of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from modelmora.cli.pairs import values
from modelmora.cli.screen import print_json, print_table
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import Found, Hit
from modelmora.client.keeping_sync import SearchOptions

_HEADS = ("SCORE", "ID", "FILENAME", "TAGS", "METADATA")


@click.command()
@click.argument("words", nargs=-1)
@click.option("--image", type=click.Path(dir_okay=False, path_type=Path), help="A picture to search by.")
@click.option("--id", "id_", help="A kept picture to search by: more like this.")
@click.option("--limit", type=click.IntRange(1, 500), default=10, show_default=True, help="How many.")
@click.option("--cursor", help="The next page, as the page before told it, with the same question.")
@click.option("--tag", "tags", multiple=True, help="Only those with one of these tags.")
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only those of this metadata; JSON or a text.")
@click.option("--threshold", type=float, help="Only those of at least this score.")
@click.option("--model", help="NAME or NAME@VERSION.  [default: the server's]")
@click.option("--collection", help="Where to search.  [default: default]")
@click.option("--exact", is_flag=True, help="Compare with every vector.")
@json_option
@talks_to_server
def search(
    server: Server,
    *,
    words: tuple[str, ...],
    image: Path | None,
    id_: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Search kept pictures by WORDS, by a picture, or by one that is kept; several of these are added up.

    With --json a line a picture, and the cursor of the next page in the last line where there is one.
    """
    text = " ".join(words)
    if not text and image is None and id_ is None:
        raise click.UsageError("give words, --image FILE or --id ID to search by")
    found = asyncio.run(_search(server, text or None, image, id_, _options(given)))
    if as_json:
        for hit in found.hits:
            print_json(hit)
        if found.next_cursor:
            print_json({"next_cursor": found.next_cursor})
        return
    _print(found)


def _options(given: Mapping[str, Any]) -> SearchOptions:
    return SearchOptions(
        filter=_filter(given["tags"], values("--where", given["where"])),
        limit=given["limit"],
        cursor=given["cursor"],
        score_threshold=given["threshold"],
        model=given["model"],
        collection=given["collection"],
        exact=given["exact"],
    )


def _filter(tags: Sequence[str], metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """`--where year='{"gte": 2030}'` is a range, as over HTTP."""
    wanted: dict[str, Any] = {"tags": [*tags]} if tags else {}
    return wanted | ({"metadata": metadata} if metadata else {}) or None


async def _search(
    server: Server, text: str | None, image: Path | None, id_: str | None, options: SearchOptions
) -> Found:
    async with server.client() as client:
        return await client.search(text, image=image, id=id_, **options)


def _print(found: Found) -> None:
    if not found.hits:
        click.echo("nothing was found")
        return
    print_table(_HEADS, [_row(hit) for hit in found.hits])
    if found.next_cursor:
        click.echo(f"more: --cursor {found.next_cursor}", err=True)


def _row(hit: Hit) -> tuple[str, ...]:
    metadata = ", ".join(f"{name}={_plain(value)}" for name, value in hit.metadata.items())
    return (f"{hit.score:.4f}", hit.id, hit.filename, ", ".join(hit.tags), metadata)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
