"""`modelmora dlq`: what the server gave up, why, and the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any

import click

from modelmora.cli.screen import print_json, print_table, waiting
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import DeadLetterInfo

_HEADS = ("ID", "FAILED", "CODE", "STAGE", "TRIES", "IMAGE", "SPACE", "REPLAYED", "DETAIL")
DETAIL_CHARS = 60
_TEXTS = ("id", "topic", "image_id", "space", "code", "stage", "detail")


@click.group()
def dlq() -> None:
    """Look at dead letters: what the server gave up, why, and the way back."""


@dlq.command("list")
@click.option("--code", help="Those of this error.")
@click.option("--last", type=click.IntRange(min=1), default=50, show_default=True, help="How many, the newest first.")
@click.option("--all", "everything", is_flag=True, help="All of them; with --json, a line a letter.")
@json_option
@talks_to_server
def list_(server: Server, code: str | None, last: int, everything: bool, as_json: bool) -> None:
    """List dead letters, the newest first."""
    asyncio.run(_list(server, code, None if everything else last, as_json))


@dlq.command()
@click.argument("id_", metavar="ID")
@json_option
@talks_to_server
def show(server: Server, id_: str, as_json: bool) -> None:
    """Show one, with the message as it came; what is no printable text is escaped."""
    found = asyncio.run(_show(server, id_))
    if as_json:
        print_json(_plain(found))
        return
    for field, text in _told(found):
        if text:
            click.echo(f"{field:<12} {text}")


@dlq.command()
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--code", help="Those of this error that were not replayed yet.")
@click.option("--all", "everything", is_flag=True, help="All that were not replayed yet.")
@json_option
@talks_to_server
def replay(server: Server, ids: tuple[str, ...], code: str | None, everything: bool, as_json: bool) -> None:
    """Take letters in anew, with all their tries."""
    if bool(ids) + (code is not None) + everything != 1:
        raise click.UsageError("name letters by their ids, or say --code CODE, or --all")
    with waiting("replay", quiet=as_json):
        count = asyncio.run(_replay(server, ids, code, everything))
    if as_json:
        print_json({"replayed": count})
    else:
        click.echo(f"{count} taken in anew")


@dlq.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@json_option
@talks_to_server
def remove(server: Server, ids: tuple[str, ...], as_json: bool) -> None:
    """Forget letters; the pictures stay as they are."""
    asyncio.run(_remove(server, ids))
    if as_json:
        print_json({"removed": len(ids)})
    else:
        click.echo(f"{len(ids)} forgotten")


async def _list(server: Server, code: str | None, most: int | None, as_json: bool) -> None:
    rows: list[tuple[str, ...]] = []
    async with server.client() as client, aclosing(client.dead_letters.list(code=code)) as letters:
        async for letter in letters:
            if as_json:
                print_json(_plain(letter, message=False))
            rows.append(_row(letter))
            if len(rows) == most:
                break
    if not as_json:
        print_table(_HEADS, rows)


async def _show(server: Server, id_: str) -> DeadLetterInfo:
    async with server.client() as client:
        return await client.dead_letters.get(id_)


async def _replay(server: Server, ids: Sequence[str], code: str | None, everything: bool) -> int:
    options = {} if server.timeout is None else {"timeout": server.timeout}
    async with server.client() as client:
        return await client.dead_letters.replay(*ids, code=code, all=everything, **options)


async def _remove(server: Server, ids: Sequence[str]) -> None:
    async with server.client() as client:
        for one in ids:
            await client.dead_letters.remove(one)


def _row(letter: DeadLetterInfo) -> tuple[str, ...]:
    detail = letter.detail if len(letter.detail) <= DETAIL_CHARS else f"{letter.detail[: DETAIL_CHARS - 3]}..."
    return (
        letter.id,
        _moment(letter.failed_at),
        letter.code,
        letter.stage,
        str(letter.attempts),
        letter.image_id,
        letter.space,
        _moment(letter.replayed_at),
        detail,
    )


def _told(letter: DeadLetterInfo) -> list[tuple[str, str]]:
    return [
        *((name, str(getattr(letter, name))) for name in _TEXTS),
        ("tries", str(letter.attempts)),
        ("first", _moment(letter.first_failed_at)),
        ("failed", _moment(letter.failed_at)),
        ("replayed", _moment(letter.replayed_at)),
        ("key", _text(letter.key)),
        *((f"header {name}", _text(value)) for name, value in letter.headers),
        ("message", _text(letter.value)),
    ]


def _plain(letter: DeadLetterInfo, *, message: bool = True) -> dict[str, Any]:
    told: dict[str, Any] = {name: getattr(letter, name) for name in (*_TEXTS, "attempts")}
    told |= {name: getattr(letter, name) for name in ("first_failed_at", "failed_at", "replayed_at")}
    if not message:
        return told
    headers = {name: _text(value) for name, value in letter.headers}
    return {**told, "key": _text(letter.key), "headers": headers, "value": _text(letter.value)}


def _text(data: bytes) -> str:
    """Bytes that came from anywhere, so that no terminal obeys them."""
    text = data.decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _moment(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S") if at else ""
