"""`modelmora serve`: this process becomes `bentoml serve`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from modelmora.cli.bundle import become, in_bundle, service_folder

SERVICE = "service:ModelMora"


@click.command(context_settings={"ignore_unknown_options": True})
@in_bundle
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(bundle: Path, arguments: tuple[str, ...]) -> None:
    """Start a server here; ARGUMENTS go to `bentoml serve`."""
    service_folder(bundle)
    become(bundle, "bentoml", "serve", SERVICE, *arguments, **_defaults(os.environ.get("BENTOML_HOME")))


def _defaults(home: str | None) -> dict[str, str]:
    """No usage reports unless asked for, and a BENTOML_HOME of our own: each serve clears folders in it."""
    from modelmora.settings import Settings  # noqa: PLC0415 - pydantic is not for every command

    settings = Settings.load()
    return {
        "BENTOML_DO_NOT_TRACK": os.environ.get("BENTOML_DO_NOT_TRACK", "True"),
        "BENTOML_HOME": home or str(settings.data_dir / "bentoml"),
    }
