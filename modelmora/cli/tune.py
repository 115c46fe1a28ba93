"""`modelmora tune`: which batch size and how many threads a model is best run with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from modelmora.cli.examined import examined
from modelmora.cli.screen import size
from modelmora.cli.server import Server, json_option, talks_to_server

_HEADS = ("BATCH", "LANES x THREADS", "ITEMS/S", "MS A BATCH", "MS ALONE", "MEMORY", "")


@click.command()
@click.argument("model")
@json_option
@talks_to_server
def tune(server: Server, model: str, as_json: bool) -> None:
    """Try batch sizes and divisions of the cores for MODEL (or MODEL@VERSION) on a quiet server.

    Takes minutes; prints what to put into the registry. A server that is busy with other callers refuses.
    """
    report = examined(server, model, "tune", quiet=as_json)
    if not as_json:
        _show(report)


def _show(report: Mapping[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415 - rich takes longer to import than most commands take
    from rich.table import Table  # noqa: PLC0415 - as above

    name = f"{report['model']}@{report['version']}"
    click.echo(f"{name}, {report['task']} on {report['device']} by {report['engine']} in {report['precision']}")
    table = Table(box=None, pad_edge=False)
    for head in _HEADS:
        table.add_column(head, justify="right" if head not in ("LANES x THREADS", "") else "left")
    for row in report["rows"]:
        best = row == report["best"]
        table.add_row(*_cells(row, best), style="bold" if best else None)
    Console().print(table)
    if report.get("ended"):
        click.echo(f"not every setting was tried: {report['ended']}")
    click.echo(_settings(report))


def _cells(row: Mapping[str, Any], best: bool) -> tuple[str, ...]:
    said = ["best"] if best else []
    return (
        str(row["batch"]),
        f"{row['lanes']} x {row['threads']}",
        f"{row['items_per_s']:.1f}",
        f"{row['batch_ms']:.1f}",
        f"{row['lone_ms']:.1f}",
        size(row["memory_bytes"]),
        ", ".join(said if row["steady"] else [*said, "unsteady"]),
    )


def _settings(report: Mapping[str, Any]) -> str:
    """Lines of the registry; lanes are no setting: the runner takes as many as its callers are worth."""
    settings = report["settings"]
    return (
        "for the registry:\n"
        f"  groups: {{{report['group']}: {{resources: {{cpu: {settings['resources']['cpu']}}}}}}}"
        "  # over all of the group's workers\n"
        f"  models: [{{name: {report['model']}, batching: {{max_batch: {settings['batching']['max_batch']}}}}}]"
    )
