"""`modelmora ...` and `python -m modelmora.cli ...`."""

from __future__ import annotations

import os

import click

from modelmora import __version__
from modelmora.cli.audit import audit
from modelmora.cli.backup import backup, restore
from modelmora.cli.classify import classify
from modelmora.cli.compare import compare
from modelmora.cli.config import config
from modelmora.cli.current import current
from modelmora.cli.diff import diff
from modelmora.cli.dlq import dlq
from modelmora.cli.embed import embed
from modelmora.cli.failures import Program
from modelmora.cli.gc import gc
from modelmora.cli.health import health
from modelmora.cli.images import images
from modelmora.cli.indexes import indexes
from modelmora.cli.lineage import lineage
from modelmora.cli.models import load, models, unload, warmup
from modelmora.cli.pull import pull
from modelmora.cli.register import register
from modelmora.cli.reindex import reindex
from modelmora.cli.search import search
from modelmora.cli.segment import segment
from modelmora.cli.serve import serve
from modelmora.cli.smoke import smoke
from modelmora.cli.tune import tune
from modelmora.cli.upload import upload
from modelmora.cli.verify import verify
from modelmora.cli.versions import versions


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="modelmora")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
def program(debug: bool) -> None:
    """Embeddings, classes and masks of pictures from a ModelMora server, and pictures kept and found there."""


COMMANDS = (
    *(embed, classify, segment, compare),
    *(models, load, unload, warmup, pull, verify, tune, health, smoke),
    *(register, versions, current, lineage, diff, audit, gc),
    *(upload, search, images, reindex, indexes, dlq),
    *(serve, backup, restore, config),
)
for command in COMMANDS:
    program.add_command(command)


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 wrong usage."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what grpc logs reaches the person as our error
    program(prog_name="modelmora")


if __name__ == "__main__":
    main()
