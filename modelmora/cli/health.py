"""`modelmora health`: how the server says it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import click

from modelmora.cli.screen import print_json, size
from modelmora.cli.server import Server, json_option, talks_to_server


@click.command()
@json_option
@talks_to_server
def health(server: Server, as_json: bool) -> None:
    """Show how the server is; exit code 1 when it is down."""
    report = asyncio.run(_health(server))
    if as_json:
        print_json(report)
    else:
        _show(report)
    if report.get("status") == "down":
        raise click.exceptions.Exit(1)


async def _health(server: Server) -> Mapping[str, Any]:
    async with server.client() as client:
        return await client.health()


def _show(report: Mapping[str, Any]) -> None:
    click.echo(
        f"{report.get('status', 'unknown')}  version {report.get('version', '?')}  up {_span(report.get('uptime_s'))}"
    )
    for model in report.get("models") or ():
        click.echo(f"  model {model.get('name')}@{model.get('version')}: {_held(model)}")
    for name, dependency in (report.get("dependencies") or {}).items():
        error = f": {dependency['error']}" if dependency.get("error") else ""
        click.echo(f"  {name}: {dependency.get('status')}{error}")


def _held(model: Mapping[str, Any]) -> str:
    return f"{model.get('state')}, {size(model['bytes'])}" if model.get("bytes") else str(model.get("state"))


def _span(seconds: Any) -> str:
    """Hours, minutes and seconds: `2h03m10s`, `45s`."""
    minutes, rest = divmod(int(seconds or 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m{rest:02d}s" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
