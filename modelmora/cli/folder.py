"""`modelmora embed --output`: many pictures into one file, over as many runs as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from modelmora.cli.failures import Failure, list_failures
from modelmora.cli.journal import Journal
from modelmora.cli.outputs import Rows, failure_as_json, write_output
from modelmora.cli.run import Options, Run, embed_all
from modelmora.cli.screen import print_json, progress
from modelmora.cli.server import Server
from modelmora.cli.sources import Source
from modelmora.client import Client, Embedding, ModelNotFound, Ok, Outcome, Retry
from modelmora.domain.models import ModelRef

_AGAIN = "running the same command again sends only those that failed"
_GO_ON = "run the same command again to go on"


def embed_to_file(server: Server, sources: Sequence[Source], *, options: Options, output: Path, quiet: bool) -> None:
    """Writes `output` once every source is settled; raises Failure when some are not, or failed for good.

    What is done stays in the journal until all succeeded.
    """
    options = replace(options, model=asyncio.run(_pinned(server, options.model)))
    journal = Journal(output)
    known = journal.recall(options.model or "")
    missing = [source for source in sources if source not in known]
    try:
        run = asyncio.run(_embed(server, missing, options, journal, quiet))
    except KeyboardInterrupt:
        raise Failure("interrupted", advice=_GO_ON) from None
    done = known | run.done
    rows = [(source, done[source]) for source in sources if source in done]
    if run.stopped is not None:
        advice = f"{len(rows)} of {len(sources)} are done: {_GO_ON}"
        list_failures((source.name, error) for source, error in run.failed.items())
        raise Failure.of(run.stopped, further=advice)
    _finish(run, rows, output=output, journal=journal, quiet=quiet)


async def _pinned(server: Server, model: str | None) -> str:
    """`name@version`, so that one file holds one version also when the default changes meanwhile."""
    if model is not None and ModelRef.parse(model).version is not None:
        return model
    async with server.client() as client:
        return (await client.model(model)).key if model else await _default(client)


async def _default(client: Client) -> str:
    for model in await client.models("embedding"):
        if model.default:
            return model.key
    raise ModelNotFound("the server has no default embedding model; name one with --model", field="model")


async def _embed(server: Server, missing: Sequence[Source], options: Options, journal: Journal, quiet: bool) -> Run:
    with journal, progress("embed", total=len(missing), quiet=quiet) as bar:
        settled = 0

        def report(source: Source, outcome: Outcome[Embedding]) -> None:
            nonlocal settled
            if isinstance(outcome, Ok):
                journal.record(source, outcome.value)
            settled += 1
            bar.to(settled)

        # Nobody waits for one answer: a server that restarts mid-way is waited for within each deadline.
        async with server.client(retry=Retry()) as client:
            return await embed_all(client, missing, options=options, report=report)


def _finish(run: Run, rows: Rows, *, output: Path, journal: Journal, quiet: bool) -> None:
    if rows:
        write_output(output, rows)
    if not (rows and run.failed):  # with failures it stays, so that the next run sends only those
        journal.remove()
    if quiet:
        failed = [failure_as_json(source, error) for source, error in run.failed.items()]
        print_json({"output": str(output), "done": len(rows), "failed": failed})
    elif rows:
        click.echo(f"{len(rows)} embeddings of {rows[0][1].key} in {output}")
    if run.failed:
        list_failures((source.name, error) for source, error in run.failed.items())
        raise Failure(f"{len(run.failed)} of {len(rows) + len(run.failed)} failed", advice=_AGAIN)
