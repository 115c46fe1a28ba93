"""`modelmora versions`: the versions of a model, or one of them."""

from __future__ import annotations

import asyncio
from datetime import datetime

import click

from modelmora.cli.screen import print_json, print_table, size
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import ModelInfo, VersionInfo

_HEADS = ("VERSION", "STATE", "CURRENT", "PROVIDER", "SIZE", "CREATED", "METRICS")


@click.command()
@click.argument("name")
@json_option
@talks_to_server
def versions(server: Server, name: str, as_json: bool) -> None:
    """List the versions of NAME, the lowest first, or show one: NAME@VERSION."""
    model, _, version = name.partition("@")
    if version:
        _show_one(asyncio.run(_one(server, model, version)), as_json)
        return
    entry, found = asyncio.run(_all(server, model))
    if as_json:
        for each in found:
            print_json(each)
    else:
        print_table(_HEADS, [_row(each, entry.current) for each in found])


async def _one(server: Server, name: str, version: str) -> VersionInfo:
    async with server.client() as client:
        return await client.model_version(name, version)


async def _all(server: Server, name: str) -> tuple[ModelInfo, list[VersionInfo]]:
    async with server.client() as client:
        return await client.model(name), await client.versions(name)


def _row(found: VersionInfo, current: str | None) -> tuple[str, ...]:
    return (
        found.version,
        found.state,
        "yes" if found.version == current else "",
        str(found.running.get("provider", "")),
        size(found.artifact.bytes) if found.artifact else "-",
        _day(found.created_at),
        ", ".join(_metrics(found)),
    )


def _show_one(found: VersionInfo, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for field, text in _told(found):
        if text:
            click.echo(f"{field:<12} {text}")


def _told(found: VersionInfo) -> list[tuple[str, str]]:
    how, training = found.running, found.training
    kept = found.artifact
    return [
        ("version", found.key),
        ("state", found.state),
        ("failure", found.failure),
        ("type", found.type),
        ("source", found.source),
        ("size", size(kept.bytes) if kept else ""),
        ("files", ", ".join(file.path for file in kept.files) if kept else ""),
        *((name, str(how[name])) for name in ("provider", "group", "device", "precision", "engine") if how.get(name)),
        ("config", str(how.get("config") or "")),
        *((name, str(value)) for name, value in training.items() if value),
        ("metrics", ", ".join(_metrics(found))),
        ("created", _day(found.created_at)),
        ("validated", _day(found.validated_at)),
    ]


def _metrics(found: VersionInfo) -> list[str]:
    return [f"{one['name']}={one['value']:g} ({one['dataset']})" for one in found.baseline.get("metrics") or ()]


def _day(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M") if at else ""
