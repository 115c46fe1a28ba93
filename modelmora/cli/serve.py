"""`modelmora serve`: this process becomes `bentoml serve`."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from modelmora.cli.failures import Failure

SERVICE = "service:ModelMora"


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--bundle",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="The folder of service.py: a checkout or a built bundle.  [default: here]",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(bundle: Path, arguments: tuple[str, ...]) -> None:
    """Start a server here; ARGUMENTS go to `bentoml serve`."""
    folder = _service_folder(bundle)
    if find_spec("bentoml") is None:
        raise Failure("a server needs more than the client", advice="pip install 'modelmora[serve]'")
    environment = {**os.environ, **_defaults(os.environ.get("BENTOML_HOME"))}
    os.chdir(folder)
    # exec, not a child: a signal to this process reaches the supervisor itself.
    os.execve(sys.executable, [sys.executable, "-m", "bentoml", "serve", SERVICE, *arguments], environment)


def _service_folder(bundle: Path) -> Path:
    """`bundle`, or the `src` of a Bento that BentoML built."""
    for folder in (bundle, bundle / "src"):
        if (folder / "service.py").is_file():
            return folder.resolve()
    raise Failure(
        f"no service.py in {bundle.resolve()}", advice="run this in a checkout, or name its folder with --bundle"
    )


def _defaults(home: str | None) -> dict[str, str]:
    """No usage reports unless asked for, and a BENTOML_HOME of our own: each serve clears folders in it."""
    from modelmora.settings import Settings  # noqa: PLC0415 - pydantic is not for every command

    settings = Settings.load()
    return {
        "BENTOML_DO_NOT_TRACK": os.environ.get("BENTOML_DO_NOT_TRACK", "True"),
        "BENTOML_HOME": home or str(settings.data_dir / "bentoml"),
    }
