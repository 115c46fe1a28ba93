"""`modelmora images`: what is kept, listed, shown, taken home, removed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import click

from modelmora.cli.screen import print_json, print_table, size, waiting
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import ImageInfo
from modelmora.client.images import REMOVAL_TIMEOUT_S
from modelmora.client.keeping_sync import ImagesOptions
from modelmora.domain.pictures.picture import PictureState
from modelmora.errors import InvalidInput

_HEADS = ("ID", "STATE", "SIZE", "PIXELS", "CREATED", "FILENAME", "TAGS")
_STATES = click.Choice(get_args(PictureState))


@click.group()
def images() -> None:
    """Look at kept pictures, and remove them."""


@images.command("list")
@click.option("--collection", help="Those of one.  [default: all]")
@click.option("--state", type=_STATES, help="Those that are so far.")
@click.option("--tag", "tags", multiple=True, help="Those with one of these tags.")
@click.option("--last", type=click.IntRange(min=1), default=50, show_default=True, help="How many, the newest first.")
@click.option("--all", "everything", is_flag=True, help="All of them; with --json, a line a picture.")
@json_option
@talks_to_server
def list_(server: Server, last: int, everything: bool, as_json: bool, **given: Any) -> None:
    """List kept pictures, the newest first."""
    asyncio.run(_list(server, _options(given), None if everything else last, as_json))


@images.command()
@click.argument("id_", metavar="ID")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A file for its bytes.")
@json_option
@talks_to_server
def show(server: Server, id_: str, out: Path | None, as_json: bool) -> None:
    """Show all that is known of a picture, and how far it is on its way into each index."""
    found = asyncio.run(_show(server, id_, out))
    if as_json:
        print_json(found)
        return
    for field, text in _told(found):
        if text:
            click.echo(f"{field:<12} {text}")


@images.command()
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--collection", help="Of this collection.")
@click.option("--state", type=_STATES, help="That are so far.")
@click.option("--tag", "tags", multiple=True, help="With one of these tags.")
@click.option("--older-than", type=click.FloatRange(min=0, max=1e9), help="Brought more than so many seconds ago.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@talks_to_server
def delete(server: Server, ids: tuple[str, ...], yes: bool, as_json: bool, **given: Any) -> None:
    """Remove pictures everywhere: those of the IDs, or all of which everything said holds."""
    older_than = given.pop("older_than")
    before = None if older_than is None else datetime.now(UTC) - timedelta(seconds=older_than)
    asked = any(given.values()) or before is not None
    if bool(ids) == asked:
        raise click.UsageError("name pictures by their ids, or say which with --tag, --collection, --state, ...")
    if asked and not yes:
        click.confirm("Remove all of them? They cannot be brought back.", abort=True, err=True)
    with waiting("delete", quiet=as_json):
        count = asyncio.run(_delete(server, ids, _options(given, before)))
    if as_json:
        print_json({"removed": count})
    else:
        click.echo(f"{count} removed")


def _options(given: Mapping[str, Any], before: datetime | None = None) -> ImagesOptions:
    return ImagesOptions(
        collection=given["collection"], state=given["state"], tags=given["tags"], created_before=before
    )


async def _list(server: Server, options: ImagesOptions, most: int | None, as_json: bool) -> None:
    rows: list[tuple[str, ...]] = []
    async with server.client() as client, aclosing(client.images.list(**options)) as found:
        async for info in found:
            if as_json:
                print_json(info)
            rows.append(_row(info))
            if len(rows) == most:
                break
    if not as_json:
        print_table(_HEADS, rows)


async def _show(server: Server, id_: str, out: Path | None) -> ImageInfo:
    async with server.client() as client:
        found = await client.images.get(id_)
        if out is not None:
            data = await client.images.content(id_, timeout=server.timeout)
            await asyncio.to_thread(_write, out, data)
        return found


async def _delete(server: Server, ids: Sequence[str], options: ImagesOptions) -> int:
    timeout = server.timeout or REMOVAL_TIMEOUT_S
    async with server.client() as client:
        if len(ids) == 1:  # so that one that is not there is told
            await client.images.delete(ids[0])
            return 1
        return await client.images.delete_many([*ids] or None, **options, timeout=timeout)


def _write(out: Path, data: bytes) -> None:
    """Raises InvalidInput where it cannot be written."""
    try:
        out.write_bytes(data)
    except OSError as cause:
        raise InvalidInput(f"cannot write {out}: {cause.strerror}", field="out", found=str(out)) from cause


def _row(info: ImageInfo) -> tuple[str, ...]:
    return (
        info.id,
        info.state,
        size(info.bytes),
        f"{info.width} x {info.height}",
        _moment(info.created_at),
        info.filename,
        ", ".join(info.tags),
    )


def _told(info: ImageInfo) -> list[tuple[str, str]]:
    return [
        ("id", info.id),
        ("state", info.state),
        ("filename", info.filename),
        ("collection", info.collection),
        ("kind", info.content_type),
        ("size", f"{size(info.bytes)}, {info.width} x {info.height}"),
        ("sha256", info.sha256),
        ("tags", ", ".join(info.tags)),
        *((name, value if isinstance(value, str) else json.dumps(value)) for name, value in info.metadata.items()),
        ("created", _moment(info.created_at)),
        ("changed", _moment(info.changed_at)),
        ("expires", _moment(info.expires_at)),
        *(("way", _way(way.space, way.state, way.attempts, way.detail or way.code)) for way in info.ways),
    ]


def _way(space: str, state: str, attempts: int, why: str) -> str:
    tries = f" after {attempts} failed tries" if attempts else ""
    return f"{space}  {state}{tries}{f': {why}' if why else ''}"


def _moment(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S") if at else ""
