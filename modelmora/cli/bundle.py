"""Commands that run the product's own code instead of asking a server: this process becomes another one."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import click

from modelmora.cli.failures import Failure

in_bundle = click.option(
    "--bundle",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="The folder of service.py: a checkout or a built bundle.  [default: here]",
)


def become(bundle: Path, *command: str, **environment: str) -> NoReturn:
    """`python -m COMMAND` in the bundle; raises Failure where that cannot be."""
    folder = service_folder(bundle)
    os.chdir(folder)
    # exec, not a child: a signal to this process reaches the other one itself.
    os.execve(sys.executable, [sys.executable, "-m", *command], {**os.environ, **environment})


def service_folder(bundle: Path) -> Path:
    """`bundle`, or the `src` of a Bento that BentoML built; raises Failure, also where only the client is installed."""
    if find_spec("bentoml") is None:
        raise Failure("a server needs more than the client", advice="pip install 'modelmora[serve]'")
    for folder in (bundle, bundle / "src"):
        if (folder / "service.py").is_file():
            return folder.resolve()
    raise Failure(
        f"no service.py in {bundle.resolve()}", advice="run this in a checkout, or name its folder with --bundle"
    )
