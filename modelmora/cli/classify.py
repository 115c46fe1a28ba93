"""`modelmora classify`: what is in pictures, by the model's labels or one's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from modelmora.cli.failures import Failure, list_failures
from modelmora.cli.outputs import failure_as_json
from modelmora.cli.run import AWAITED
from modelmora.cli.screen import print_json
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.cli.sources import Source, collect
from modelmora.client import Classification, Failed, InputError, InternalError, ModelMoraError, Ok, Outcome
from modelmora.domain.inference import Priority

TOGETHER = 64
"""Pictures of one call, which has one deadline: the answers of a long run come as it goes."""


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--recursive", "-r", is_flag=True, help="Also the folders below a folder.")
@click.option("--labels", multiple=True, metavar="A,B,C", help="Your own labels, divided by commas.")
@click.option("--label", multiple=True, metavar="LABEL", help="One of your own labels, which may have commas.")
@click.option("--template", multiple=True, metavar="TEXT", help="A text with {} for the label; several are averaged.")
@click.option("--top-k", type=click.IntRange(min=1), help="At most so many classes a picture.  [default: 5]")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Only classes of at least this score.")
@click.option("--model", help="NAME or NAME@VERSION.  [default: the server's]")
@json_option
@talks_to_server
def classify(server: Server, *, paths: tuple[Path, ...], recursive: bool, as_json: bool, **options: Any) -> None:
    """Classify pictures: files, or the pictures of folders.

    With labels of your own by a model that embeds pictures and texts, without them by a classifier.
    Exit code 1 when anything failed.
    """
    sources = collect(paths, (), recursive=recursive)
    if not sources:
        raise click.UsageError(f"no pictures in {', '.join(map(str, paths))}")
    failed = asyncio.run(_classify(server, sources, _asked(**options), as_json))
    if len(sources) == 1:
        for error in failed.values():
            raise Failure.of(error)
    if failed:
        if not as_json:
            list_failures((source.name, error) for source, error in failed.items())
        raise Failure(f"{len(failed)} of {len(sources)} failed")


def _asked(
    *,
    labels: Sequence[str],
    label: Sequence[str],
    template: Sequence[str],
    top_k: int | None,
    threshold: float | None,
    model: str | None,
) -> dict[str, Any]:
    """The options of `Client.classify`."""
    divided = [one.strip() for several in labels for one in several.split(",")]
    return {
        "labels": [*filter(None, divided), *label],
        "templates": [*template],
        "top_k": top_k,
        "threshold": threshold,
        "model": model,
    }


async def _classify(
    server: Server, sources: Sequence[Source], options: dict[str, Any], as_json: bool
) -> dict[Source, ModelMoraError]:
    """Reports every picture as it comes; what failed. Raises Failure where the next picture would fail as well."""
    failed = dict[Source, ModelMoraError]()
    priority: Priority = "bulk" if len(sources) > AWAITED else "interactive"
    async with server.client() as client:
        for some in _parts(sources):
            pictures = [Path(source.name) for source in some]
            outcomes = await client.classify(pictures, priority=priority, **options)
            for source, outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, Failed):
                    failed[source] = _of_the_picture(outcome.error)
                (_print_json if as_json else _print)(source, outcome)
    return failed


def _parts(sources: Sequence[Source]) -> Iterator[Sequence[Source]]:
    for start in range(0, len(sources), TOGETHER):
        yield sources[start : start + TOGETHER]


def _of_the_picture(error: ModelMoraError) -> ModelMoraError:
    """Raises Failure where the server, the model or the labels are the problem."""
    of_all = (error.field or "").startswith(("labels", "templates", "top_k", "threshold", "model"))
    if of_all or error.code == "capability_missing" or not isinstance(error, InputError | InternalError):
        raise Failure.of(error)
    return error


def _print(source: Source, outcome: Outcome[Classification]) -> None:
    if isinstance(outcome, Ok):
        found = outcome.value
        told = ", ".join(f"{one.label} {one.score:.4f}" for one in found.classes)
        click.echo(f"{source.name}  {found.key}  {told or 'nothing reaches the threshold'}")


def _print_json(source: Source, outcome: Outcome[Classification]) -> None:
    match outcome:
        case Ok(found):
            line = {"path": source.name, "model": found.model, "version": found.version, "classes": found.classes}
            print_json(line)
        case Failed(error):
            print_json(failure_as_json(source, error))
