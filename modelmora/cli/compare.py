"""`modelmora compare`: several models side by side on the same pictures and texts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from modelmora.cli.failures import Failure, list_failures
from modelmora.cli.outputs import failure_as_json
from modelmora.cli.screen import print_json, print_table, size, waiting
from modelmora.cli.server import Server, json_option, talks_to_server
from modelmora.cli.sources import SUFFIXES, Source, collect
from modelmora.client import Comparison, Failed, ModelMoraError, Ok, Outcome

SHOWN = 10
"""More items than that make a matrix that no terminal shows."""

_HEADS = ("MODEL", "DIMENSION", "MEMORY", "TOTAL MS", "INFERENCE MS", "FAILED")


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="MODEL... [PICTURE]...")
@click.option("--text", "texts", multiple=True, help="A text to compare; may be given several times.")
@click.option("--recursive", "-r", is_flag=True, help="Also the folders below a folder.")
@json_option
@talks_to_server
def compare(server: Server, *, names: tuple[str, ...], texts: tuple[str, ...], recursive: bool, as_json: bool) -> None:
    """Put pictures and texts through each MODEL (or MODEL@VERSION), side by side.

    The pictures begin with the first name, after one MODEL, that is a file, a path, or ends like a picture.
    Exit code 1 when a model or an item failed.
    """
    models, pictures = divided(names)
    sources = collect(pictures, texts, recursive=recursive)
    if not models or not sources:
        raise click.UsageError("name models, then pictures or a --text")
    if len(set(models)) < len(models):
        raise click.UsageError("name each model once")
    with waiting(f"compare {', '.join(models)}", quiet=as_json):
        outcomes = dict(zip(models, asyncio.run(_compare(server, models, sources)), strict=True))
    (_print_json if as_json else _show)(outcomes, sources)
    _conclude(outcomes, sources, quiet=as_json)


def divided(names: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Models, then pictures. The first is a model, whatever else is called like it."""
    first = next((place for place, name in enumerate(names) if place and _is_picture(name)), len(names))
    return [*names[:first]], [Path(name) for name in names[first:]]


def _is_picture(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in SUFFIXES or len(path.parts) != 1 or path.exists()


async def _compare(server: Server, models: Sequence[str], sources: Sequence[Source]) -> list[Outcome[Comparison]]:
    async with server.client() as client:
        return await client.compare(models, [source.content for source in sources])


def _show(outcomes: Mapping[str, Outcome[Comparison]], sources: Sequence[Source]) -> None:
    found = [outcome.value for outcome in outcomes.values() if isinstance(outcome, Ok)]
    if found:
        print_table(_HEADS, [_row(one) for one in found])
    if len(sources) > SHOWN:
        click.echo(f"similarities of more than {SHOWN} items: see --json")
        return
    for one in found:
        click.echo(f"\n{one.key}")
        heads = ("", *(str(index) for index in range(len(sources))))
        print_table(heads, [_similar(index, source, one) for index, source in enumerate(sources)])


def _row(one: Comparison) -> tuple[str, ...]:
    failed = sum(isinstance(result, Failed) for result in one.results)
    return (
        one.key,
        str(one.dimension or "-"),
        size(one.bytes),
        f"{one.total_ms:.1f}",
        f"{one.timings.inference_ms:.1f}",
        str(failed or ""),
    )


def _similar(index: int, source: Source, one: Comparison) -> tuple[str, ...]:
    values = one.similarities.tolist()[index]
    return (f"{index} {source.name}", *("-" if math.isnan(value) else f"{value:.3f}" for value in values))


def _print_json(outcomes: Mapping[str, Outcome[Comparison]], sources: Sequence[Source]) -> None:
    for name, outcome in outcomes.items():
        match outcome:
            case Ok(one):
                print_json(_line(one, sources))
            case Failed(error):
                print_json({"model": name, "error": {"code": error.code, "detail": error.detail}})


def _line(one: Comparison, sources: Sequence[Source]) -> dict[str, Any]:
    rows = [[None if math.isnan(value) else value for value in row] for row in one.similarities.tolist()]
    return {
        "model": one.model,
        "version": one.version,
        "dimension": one.dimension,
        "bytes": one.bytes,
        "total_ms": one.total_ms,
        "timings": one.timings,
        "similarities": rows,
        "items": [_item(source, result) for source, result in zip(sources, one.results, strict=True)],
    }


def _item(source: Source, result: Outcome[Any]) -> dict[str, object]:
    return failure_as_json(source, result.error) if isinstance(result, Failed) else {source.kind: source.name}


def _conclude(outcomes: Mapping[str, Outcome[Comparison]], sources: Sequence[Source], *, quiet: bool) -> None:
    """Raises Failure unless everything succeeded."""
    failed = [*_failures(outcomes, sources)]
    if len(failed) == 1 and len(outcomes) == 1:
        raise Failure.of(failed[0][1])
    if failed:
        if not quiet:
            list_failures(failed)
        raise Failure(f"{len(failed)} failed")


def _failures(
    outcomes: Mapping[str, Outcome[Comparison]], sources: Sequence[Source]
) -> list[tuple[str, ModelMoraError]]:
    found = list[tuple[str, ModelMoraError]]()
    for name, outcome in outcomes.items():
        if isinstance(outcome, Failed):
            found.append((name, outcome.error))
            continue
        results = zip(sources, outcome.value.results, strict=True)
        found += [(f"{name}: {source.name}", one.error) for source, one in results if isinstance(one, Failed)]
    return found
