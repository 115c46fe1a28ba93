"""`modelmora verify`: how near the forms of a model are to torch in fp32, and how fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from modelmora.cli.examined import examined
from modelmora.cli.screen import print_table
from modelmora.cli.server import Server, json_option, talks_to_server

_HEADS = ("ENGINE", "PRECISION", "IMAGES", "TEXTS", "NEIGHBOURS KEPT", "LARGEST DIFFERENCE", "MS A BATCH", "VERDICT")


@click.command()
@click.argument("model")
@json_option
@talks_to_server
def verify(server: Server, model: str, as_json: bool) -> None:
    """Compare MODEL (or MODEL@VERSION), in each engine and precision it may have, with torch in fp32.

    With `engine: auto` in the registry the networks of other engines are exported first, which takes minutes.

    Exit code 1 when the model as it is loaded is below the gate.
    """
    report = examined(server, model, "verify", quiet=as_json)
    if not as_json:
        _show(report)
    if not report["passes"]:
        raise click.exceptions.Exit(1)


def _show(report: Mapping[str, Any]) -> None:
    name = f"{report['model']}@{report['version']}"
    click.echo(f"{name} on {report['device']}, loaded as {_form(report)} (declared: {_form(report['declared'])})")
    print_table(_HEADS, [_row(candidate) for candidate in report["candidates"]])
    click.echo(f"gate: cosine >= {report['gate']}; with `auto` the next load takes {_form(report['auto'])}")


def _form(told: Mapping[str, Any]) -> str:
    return f"{told['engine']} {told['precision']}"


def _row(candidate: Mapping[str, Any]) -> tuple[str, ...]:
    """The lowest cosine of each tower, the worse of the other measures over both, the sum of both towers' times."""
    towers: Mapping[str, Mapping[str, float]] = candidate["likeness"]
    near = list(towers.values())
    if candidate.get("failed"):
        return (candidate["engine"], candidate["precision"], *[""] * 5, f"failed: {candidate['failed']}")
    return (
        candidate["engine"],
        candidate["precision"],
        _cosine(towers.get("embed_image", towers.get("classify"))),
        _cosine(towers.get("embed_text")),
        f"{100 * min(one['overlap'] for one in near):.1f} %",
        f"{max(one['difference'] for one in near):.2g}",
        f"{sum(candidate['ms'].values()):.1f}" if candidate["ms"] else "-",
        candidate["verdict"],
    )


def _cosine(tower: Mapping[str, float] | None) -> str:
    return f"{tower['lowest']:.6f}" if tower else "-"
