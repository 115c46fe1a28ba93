"""`modelmora current`: which version a model's name stands for."""

from __future__ import annotations

import asyncio

import click

from modelmora.cli.screen import print_json, waiting
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import ModelInfo
from modelmora.client.registry import SWAP_TIMEOUT_S


@click.command()
@click.argument("name")
@json_option
@talks_to_server
def current(server: Server, name: str, as_json: bool) -> None:
    """Let NAME stand for the version of NAME@VERSION: loaded, warmed, then switched, and the one before let go."""
    model, _, version = name.partition("@")
    if not version:
        raise click.UsageError("name the version too: NAME@VERSION")
    with waiting(f"make {name} current", quiet=as_json):
        found = asyncio.run(make_current(server, model, version))
    show_current(found, as_json)


async def make_current(server: Server, name: str, version: str) -> ModelInfo:
    """The model once its name stands for the version."""
    async with server.client() as client:
        return await client.make_current(name, version, timeout=server.timeout or SWAP_TIMEOUT_S)


def show_current(model: ModelInfo, as_json: bool) -> None:
    """What its name stands for."""
    if as_json:
        print_json(model)
    else:
        click.echo(f"{model.name} stands for {model.current} now")
