"""`python -m wiring.carry MODEL...`: exports models of the registry into their own folders, for where torch is not.

What is exported is what their rows ask for (`engine`, `precision`); the image without torch is built with it.
`python -m wiring.carry --check` opens these, or all such models of the registry: where torch is not they must be there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import wiring
from modelmora.domain.models import ModelRef, ModelSpec
from modelmora.errors import ModelLoadFailed, ModelMoraError
from modelmora.settings import Settings
from runners import families
from runners.engines.carried import make
from runners.engines.conversions import Conversions
from runners.examinations.decisions import Decisions

CHECK = "--check"


def main(arguments: Sequence[str]) -> None:
    """Exit code 1 where one of them cannot be made, or with `--check` where one that is asked for is not there."""
    check = CHECK in arguments
    try:
        settings = Settings.load()
        catalogue, artifacts = wiring.load_catalogue(settings), wiring.artifacts_of(settings)
        named = [catalogue.get(ModelRef.parse(name)) for name in arguments if name != CHECK]
        for spec in named or [spec for spec in catalogue.models if check and spec.exported]:
            folder = _there(spec, artifacts.locate(spec))
            sys.stdout.write(f"{spec.key}: {_opened(spec, folder) if check else _made(spec, folder)}\n")
    except ModelMoraError as error:
        sys.exit(error.detail)


def _made(spec: ModelSpec, folder: Path) -> Path:
    return make(spec, folder, lambda line: sys.stderr.write(line + "\n"))


def _opened(spec: ModelSpec, folder: Path) -> str:
    conversions = Conversions(None, Decisions(None), threads=1)
    try:
        conversions.open(spec, families.provider(spec.provider), folder, threads=1)
    except ModelLoadFailed as error:
        said = f"{error.detail}; `python -m wiring.carry {spec.name}`, where torch is, exports it into {folder}"
        raise ModelLoadFailed(said, field="source") from error
    return "opened"


def _there(spec: ModelSpec, folder: Path | None) -> Path:
    if folder is None:
        raise ModelLoadFailed(f"{spec.key} has no folder here: {spec.source}", field="source")
    return folder


if __name__ == "__main__":
    main(sys.argv[1:])
