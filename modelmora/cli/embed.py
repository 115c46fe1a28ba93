"""`modelmora embed`: vectors of pictures and texts, printed or written to a file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from modelmora.cli.failures import Failure, list_failures
from modelmora.cli.folder import embed_to_file
from modelmora.cli.outputs import as_json, check_output, failure_as_json
from modelmora.cli.run import Options, Report, Run, embed_all
from modelmora.cli.screen import print_json
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.cli.sources import Source, collect
from modelmora.cli.watched import check_one, embed_watched
from modelmora.client import Embedding, Failed, Ok, Outcome


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--recursive", "-r", is_flag=True, help="Also the folders below a folder.")
@click.option("--text", "texts", multiple=True, help="A text to embed; may be given several times.")
@click.option("--model", help="NAME or NAME@VERSION.  [default: the server's]")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="A file: .npz, .parquet or .jsonl."
)
@click.option("--concurrency", type=click.IntRange(1, 1024), default=64, show_default=True, help="Items at once.")
@click.option("--progress", is_flag=True, help="Show how far one picture or text is: loading, inference, ...")
@click.option("--truncate", is_flag=True, help="Cut texts that are too long instead of refusing them.")
@json_option
@talks_to_server
def embed(
    server: Server,
    *,
    paths: tuple[Path, ...],
    recursive: bool,
    texts: tuple[str, ...],
    model: str | None,
    output: Path | None,
    concurrency: int,
    progress: bool,
    truncate: bool,
    as_json: bool,
) -> None:
    """Embed pictures: files, or the pictures of folders.

    With --output, a run that was broken off goes on when the same command is run again.
    Exit code 1 when anything failed.
    """
    if output is not None:
        check_output(output)
    sources = collect(paths, texts, recursive=recursive)
    if not sources:
        raise click.UsageError(_nothing(paths, recursive))
    if progress:
        check_one(sources, output)
        found = embed_watched(server, sources[0], model=model, truncate=truncate, quiet=as_json)
        (_as_json if as_json else _short)(sources[0], Ok(found))
        return
    options = Options(model=model, concurrency=concurrency, truncate=truncate, ordered=True, timeout=server.timeout)
    if output is None:
        _conclude(asyncio.run(_to_screen(server, sources, options, _as_json if as_json else _short)), sources, as_json)
    else:
        embed_to_file(server, sources, options=replace(options, ordered=False), output=output, quiet=as_json)


async def _to_screen(server: Server, sources: Sequence[Source], options: Options, report: Report) -> Run:
    async with server.client() as client:
        return await embed_all(client, sources, options=options, report=report)


def _conclude(run: Run, sources: Sequence[Source], quiet: bool) -> None:
    """Raises Failure unless everything succeeded."""
    if run.stopped is not None:
        raise Failure.of(run.stopped)
    if len(sources) == 1:
        for error in run.failed.values():
            raise Failure.of(error)
    if run.failed:
        if not quiet:
            list_failures((source.name, error) for source, error in run.failed.items())
        raise Failure(f"{len(run.failed)} of {len(sources)} failed")


def _as_json(source: Source, outcome: Outcome[Embedding]) -> None:
    match outcome:
        case Ok(embedding):
            print_json(as_json(source, embedding))
        case Failed(error):
            print_json(failure_as_json(source, error))


def _short(source: Source, outcome: Outcome[Embedding]) -> None:
    if isinstance(outcome, Ok):
        values = ", ".join(f"{value:.4f}" for value in outcome.value.tolist()[:4])
        click.echo(f"{source.name}  {outcome.value.key}  {outcome.value.dimension}  [{values}, ...]")


def _nothing(paths: Sequence[Path], recursive: bool) -> str:
    if not paths:
        return "name pictures or folders, or give a --text"
    below = "" if recursive else "; -r looks into the folders below"
    return f"no pictures in {', '.join(map(str, paths))}{below}"
