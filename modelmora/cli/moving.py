"""Files on their way to or from the server, as a person sees them."""

from __future__ import annotations

from collections.abc import Callable

import click

from modelmora.cli.screen import Bar, print_json
from modelmora.client import Transfer


def shown(bar: Bar, *, quiet: bool) -> Callable[[Transfer], None]:
    """A bar a stage, or where that is to be `quiet` a line of JSON when a file or a stage begins, and at its end.

    What is left out is said on the standard error.
    """
    last: tuple[str, str, bool] | None = None

    def show(step: Transfer) -> None:
        nonlocal last
        if step.stage == "left_out":
            click.echo(f"left out: {step.file}", err=True)
            return
        bar.to(step.done_bytes, step.total_bytes or None, step.stage)
        now = (step.stage, step.file, step.done_bytes == step.total_bytes)
        if quiet and now != last:
            print_json(step)
        last = now

    return show
