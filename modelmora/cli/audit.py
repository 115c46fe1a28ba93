"""`modelmora audit`: who changed what in the registry, and whether that record is whole."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import click
from click.core import ParameterSource

from modelmora.cli.failures import Failure
from modelmora.cli.screen import print_json, print_table, waiting
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.client import AuditInfo, AuditVerdict
from modelmora.client.registry import SWAP_TIMEOUT_S
from modelmora.client.registry_sync import AuditOptions

_HEADS = ("SEQ", "AT", "ACTOR", "ACTION", "SUBJECT", "REQUEST", "REASON")


@click.group(invoke_without_command=True)
@click.option("--subject", help="A model's name, or NAME@VERSION.")
@click.option("--actor", help="Who did it.")
@click.option("--action", help="What was done, such as version.register.")
@click.option("--last", type=click.IntRange(min=1), default=50, show_default=True, help="How many, the newest first.")
@click.option("--all", "everything", is_flag=True, help="From the first on; with --json, a line an entry.")
@json_option
@talks_to_server
def audit(server: Server, last: int, everything: bool, as_json: bool, **given: str) -> None:
    """Show who changed what in the registry."""
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        _refuse_before(context)
        return
    options = AuditOptions(
        subject=given["subject"], actor=given["actor"], action=given["action"], newest_first=not everything
    )
    asyncio.run(_entries(server, options, None if everything else last, as_json))


def _refuse_before(context: click.Context) -> None:
    """Raises UsageError for options that stand before the command below this one, which would not see them."""
    for name in context.params:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"options go behind the command: audit {context.invoked_subcommand} --...")


@audit.command()
@json_option
@talks_to_server
def verify(server: Server, as_json: bool) -> None:
    """Follow the chain of digests through all entries; exit code 1 where it breaks."""
    with waiting("audit verify", quiet=as_json):
        found = asyncio.run(_verify(server))
    if as_json:
        print_json(found)
        if not found.intact:
            raise click.exceptions.Exit(1)
    elif found.intact:
        click.echo(f"intact: {found.entries} entries")
    else:
        said = f"broken at entry {found.broken_at}: it is {found.why} ({found.entries} entries)"
        raise Failure(said, advice="compare with a backup: what follows that entry cannot be relied on")


async def _entries(server: Server, options: AuditOptions, most: int | None, as_json: bool) -> None:
    rows: list[tuple[str, ...]] = []
    async with server.client() as client, aclosing(client.audit(**options)) as entries:
        async for entry in entries:
            if as_json:
                print_json(entry)
            rows.append(_row(entry))
            if len(rows) == most:
                break
    if not as_json:
        print_table(_HEADS, rows)


async def _verify(server: Server) -> AuditVerdict:
    async with server.client() as client:
        return await client.audit_verify(timeout=server.timeout or SWAP_TIMEOUT_S)


def _row(entry: AuditInfo) -> tuple[str, ...]:
    at = entry.at.strftime("%Y-%m-%d %H:%M:%S")
    return (str(entry.seq), at, entry.actor, entry.action, entry.subject, entry.request_id[:12], entry.reason)
