"""`modelmora config`: every setting, its value, and where that comes from."""

from __future__ import annotations

import click

from modelmora.cli.screen import print_json, print_table
from modelmora.cli.server import json_option


@click.command()
@json_option
def config(as_json: bool) -> None:
    """Show every setting of a server started here, or all that is wrong with them."""
    from modelmora.settings import Settings  # noqa: PLC0415 - pydantic is for this command only

    explained = Settings.load().explain()
    if as_json:
        print_json(explained)
        return
    rows = [(each.variable, each.value or "-", each.source, each.about, each.takes) for each in explained]
    print_table(("VARIABLE", "VALUE", "SOURCE", "ABOUT", "TAKES"), rows)
