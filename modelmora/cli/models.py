"""`modelmora models`, `load`, `unload`, `warmup`: what there is, and what is in memory."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from modelmora.cli.screen import print_json, print_table, size, waiting
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import ModelInfo
from modelmora.client.control import Verb
from modelmora.ports import ModelReport

_HEADS = ("MODEL", "TYPE", "STATE", "SIZE", "DEVICE", "PRECISION", "GROUP", "DEFAULT")


@click.command()
@click.argument("name", required=False)
@json_option
@talks_to_server
def models(server: Server, name: str | None, as_json: bool) -> None:
    """List the models, or show one: NAME or NAME@VERSION."""
    found = asyncio.run(_models(server, name))
    if isinstance(found, ModelInfo):
        _show_one(found, as_json)
    elif as_json:
        print_json({"data": found})
    else:
        print_table(_HEADS, [_row(model) for model in found])


async def _models(server: Server, name: str | None) -> ModelInfo | list[ModelInfo]:
    async with server.client() as client:
        return await client.model(name) if name else await client.models()


def _show_one(model: ModelInfo, as_json: bool) -> None:
    if as_json:
        print_json(model)
        return
    for field, value in asdict(model).items():
        text = size(value) if field == "bytes" else ", ".join(value) if isinstance(value, tuple) else str(value)
        if value not in (None, "", ()):
            click.echo(f"{field:<10} {text}")


def _row(model: ModelInfo) -> tuple[str, ...]:
    state = f"{model.state} ({len(model.workers)})" if model.workers else model.state
    default = "yes" if model.default else ""
    return (model.key, model.type, state, size(model.bytes), model.device, model.precision, model.group, default)


def _changing(verb: Verb, help_: str) -> click.Command:
    """One command per verb; they differ in the word only."""

    @click.command(verb, help=help_)
    @click.argument("name")
    @click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is done.")
    @json_option
    @talks_to_server
    def command(server: Server, name: str, wait: bool, as_json: bool) -> None:
        with waiting(f"{verb} {name}", quiet=as_json):
            report = asyncio.run(_change(server, name, verb, wait))
        if as_json:
            print_json(report)
        else:
            click.echo(_told(report))

    return command


async def _change(server: Server, name: str, verb: Verb, wait: bool) -> ModelReport:
    async with server.client() as client:
        act = {"load": client.load, "unload": client.unload, "warmup": client.warmup}[verb]
        return await (act(name, wait=wait) if server.timeout is None else act(name, wait=wait, timeout=server.timeout))


def _told(report: ModelReport) -> str:
    parts = [f"{report.model}@{report.version} {report.state}"]
    parts += [f"on {', '.join(report.workers)}"] if report.workers else []
    parts += [size(report.bytes)] if report.bytes else []
    return "  ".join([*parts, f"{report.ms / 1000:.1f} s"])


load = _changing("load", "Load NAME (or NAME@VERSION) on every worker of its group.")
unload = _changing("unload", "Free the memory of NAME once its running work is done.")
warmup = _changing("warmup", "Load NAME if need be and run each batch size once.")
