"""Which of a folder's files holds the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelmora.domain.models import ModelSpec
from modelmora.errors import ModelLoadFailed


def find_first(spec: ModelSpec, folder: Path, names: Sequence[str]) -> Path:
    """The first of the names that the folder has; raises ModelLoadFailed naming them all."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ModelLoadFailed(f"{spec.key}: {folder.name} has neither {' nor '.join(names)}; put one there")
