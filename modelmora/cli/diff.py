"""`modelmora diff`: what differs between two versions of a model."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from modelmora.cli.screen import print_json, print_table
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import FieldDifference

_LONGEST = 60


@click.command()
@click.argument("name")
@click.argument("before")
@click.argument("after")
@json_option
@talks_to_server
def diff(server: Server, name: str, before: str, after: str, as_json: bool) -> None:
    """Show what differs between the versions BEFORE and AFTER of NAME."""
    found = asyncio.run(_diff(server, name, before, after))
    if as_json:
        print_json({"before": before, "after": after, "differences": found})
    elif found:
        print_table(("FIELD", before, after), [_row(one) for one in found])
    else:
        click.echo(f"{name}: {before} and {after} differ in nothing")


async def _diff(server: Server, name: str, before: str, after: str) -> list[FieldDifference]:
    async with server.client() as client:
        return await client.diff(name, before, after)


def _row(one: FieldDifference) -> tuple[str, str, str]:
    before = "(not there)" if one.kind == "added" else _short(one.before)
    after = "(not there)" if one.kind == "removed" else _short(one.after)
    return (one.field, before, after)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
