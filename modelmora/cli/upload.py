"""`modelmora upload`: pictures brought to the server, which keeps and indexes them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click

from modelmora.cli.failures import Failure, list_failures
from modelmora.cli.pairs import values
from modelmora.cli.run import AWAITED
from modelmora.cli.screen import print_json, progress
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.cli.sources import collect
from modelmora.client import Failed, InputError, InternalError, KeptImage, ModelMoraError, NotFound, Ok, Outcome, Stored
from modelmora.client.keeping_sync import UploadOptions

STORED = "s3://"


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--recursive", "-r", is_flag=True, help="Also the folders below a folder.")
@click.option("--tag", "tags", multiple=True, help="Of all of them; may be given several times.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Of all of them: a number, true, false or a text.")
@click.option("--collection", help="Where they are kept and searched.  [default: default]")
@click.option("--ttl", type=click.IntRange(min=1), help="Seconds after which the server removes them.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until they are indexed.")
@json_option
@talks_to_server
def upload(server: Server, *, files: tuple[str, ...], recursive: bool, as_json: bool, **given: Any) -> None:
    """Bring pictures: files, the pictures of folders, or s3://bucket/key that the server reads itself.

    A picture that is there already is the same one, so a run that was broken off is run again as it was.
    Exit code 1 when anything failed.
    """
    found = _found(files, recursive)
    if not found:
        raise click.UsageError(f"no pictures in {', '.join(files)}")
    options = UploadOptions(
        tags=given["tags"],
        metadata=values("--metadata", given["metadata"]),
        collection=given["collection"],
        ttl_s=given["ttl"],
        wait=given["wait"],
        timeout=server.timeout,
        priority="bulk" if len(found) > AWAITED else "interactive",
    )
    failed = asyncio.run(_upload(server, found, options, as_json))
    if len(found) == 1:
        for _, error in failed:
            raise Failure.of(error)
    if failed:
        if not as_json:
            list_failures(failed)
        raise Failure(f"{len(failed)} of {len(found)} failed")


def _found(files: Sequence[str], recursive: bool) -> list[Path | Stored]:
    """In the order that was given, each once."""
    found: list[Path | Stored] = []
    for file in files:
        if file.startswith(STORED):
            found.append(Stored(file))
        else:
            found += [Path(source.name) for source in collect([Path(file)], (), recursive=recursive)]
    return [*dict.fromkeys(found)]


async def _upload(
    server: Server, found: Sequence[Path | Stored], options: UploadOptions, as_json: bool
) -> list[tuple[str, ModelMoraError]]:
    """Reports each as it is settled; what failed. Raises Failure where the next one would fail as well."""
    failed: list[tuple[str, ModelMoraError]] = []
    with progress("upload", total=len(found), quiet=as_json) as bar:
        async with server.client() as client, aclosing(client.upload_each(found, **options)) as settled:
            async for index, outcome in settled:
                name = _name(found[index])
                if isinstance(outcome, Failed):
                    failed.append((name, _of_the_picture(outcome.error)))
                (_print_json if as_json else _print)(name, outcome)
                bar.to(index + 1)
    return failed


def _name(file: Path | Stored) -> str:
    return file.uri if isinstance(file, Stored) else str(file)


def _of_the_picture(error: ModelMoraError) -> ModelMoraError:
    """Raises Failure where the server, or what is said of all, is the problem."""
    of_all = (error.field or "").startswith(("tags", "metadata", "collection", "ttl"))
    if of_all or not isinstance(error, InputError | NotFound | InternalError):
        raise Failure.of(error, further="what was brought until now is kept: run the command again")
    return error


def _print(name: str, outcome: Outcome[KeptImage]) -> None:
    if isinstance(outcome, Ok):
        kept = outcome.value
        click.echo(f"{name}  {kept.id}  {kept.state}{'  known already' if kept.duplicate else ''}")


def _print_json(name: str, outcome: Outcome[KeptImage]) -> None:
    match outcome:
        case Ok(kept):
            print_json({"path": name, "image": kept})
        case Failed(error):
            print_json({"path": name, "error": {"code": error.code, "detail": error.detail}})
