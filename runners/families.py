"""Which model families there are: one file each in this folder, named as the registry's `provider`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from modelmora.errors import ModelLoadFailed
from runners.provider import Provider

KNOWN = ("open_clip", "dinov2", "sam", "classifier", "onnx", "tensorflow", "noop")


def available() -> frozenset[str]:
    """The families this build has; looks at files only."""
    here = Path(__file__).parent
    return frozenset(name for name in KNOWN if (here / f"{name}.py").is_file())


def provider(name: str) -> Provider:
    """The family's provider; raises ModelLoadFailed when there is none."""
    if name not in available():
        raise ModelLoadFailed(f"no model family {name!r}; there are {', '.join(sorted(available()))}")
    return cast(Provider, importlib.import_module(f"runners.{name}").PROVIDER)
